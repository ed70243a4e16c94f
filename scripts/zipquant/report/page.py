"""The report for readers: what it says in words, and the HTML and Markdown pages."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from zipquant.errors import printable
from zipquant.evaluation import drift, measures
from zipquant.recognition import error_rates
from zipquant.report import plots
from zipquant.variants.histograms import Histograms

METRICS = {"word": "WER", "character": "CER"}

LABELS = {"rknn": "all three in RKNN"}
"""What the reserved names of models stand for."""

FEW = 100
"""Below so many utterances the page says that they decide little."""

MOST = 1000
"""Utterances that the page lists."""

DRIFT_DB = 1.0
"""A fall of the SQNR from the first half of the chunks to the second that is called drift."""

SHOWN_OUTPUTS = 40
"""Outputs in the plot; the table has all."""

FIRST_HISTOGRAMS, SHOWN_HISTOGRAMS = 10, 48
"""Histograms that are shown at once, and in all; the table has the ranges of all inputs."""

SHOWN_TENSORS = 15
"""Tensors of a search for float16 layers that are shown at once; the rest is folded."""

STREAM_POINTS = 60
"""Points of a plot over a long stream; with more chunks, neighbours share one."""

SECTIONS = {
    "verdict": "",
    "error_rates": "Error rates",
    "variants": "Variants",
    "mixed_precision": "Mixed precision",
    "drift": "Drift",
    "long_stream": "Long stream",
    "outputs": "Outputs",
    "inputs": "Inputs",
    "calibration": "Calibration set",
    "preparation": "Graph preparation",
    "costs": "Time and memory",
    "settings": "Settings",
}
"""The page's sections in their order, by the name of their template in `templates/report/sections`,
and their titles in the list of contents. A section's id is its name with hyphens."""

TEMPLATES = Path(__file__).parent.parent / "templates/report"


def render(
    report: Mapping[str, Any],
    output_names: Sequence[str],
    histograms: Mapping[str, tuple[Histograms, Histograms]],
    texts: str | Path | None,
) -> tuple[str, str]:
    """Return the report as an HTML page and as Markdown.

    Args:
        report: all that was measured, see `report.write`.
        output_names: the model's outputs, in its order.
        histograms: of each variant's inputs: in the calibration rows, in the evaluation audio.
        texts: the texts of all models, written by `scoring.write`; None where no text is made.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=printable,
    )
    environment.filters |= {
        "db": _db,
        "mb": _mb,
        "rate": lambda figures: f"{figures['rate']:.2f} %",
        "points": lambda figures: f"{figures['points']:+.2f}",
        "range": _range,
        "number": lambda value: "" if value is None else f"{value:.4g}",
        "share": _share,
        "duration": _duration,
        "target": target,
        "limited": _limited,
    }
    built = {name: entry for name, entry in report["variants"].items() if not entry["failure"]}
    scores = report["recognition"]
    values = report | {
        "built": built,
        "best": report["verdict"]["best"],
        "utterances": _utterances(texts) if texts else [],
        "labels": LABELS,
        "metric": METRICS[scores["unit"]] if scores else "",
        "few": FEW,
        "most": MOST,
        "output_names": output_names,
        "figures": _columns(built),
        "shares": any("int8_macs_share" in entry["build"] for entry in built.values()),
        "loss_db": f"{drift.LOSS_DB:g}",
        "floor_db": f"{drift.FLOOR_DB:g}",
        "shown_tensors": SHOWN_TENSORS,
        "searched": {n: e for n, e in built.items() if e["build"].get("mixed_precision")},
        "longest": max((rule["seconds"] for rule in report["jobs"].values()), default=0) or 1,
    }
    markdown = environment.get_template("report.md.j2").render(values)
    drawn = _plots(report, built, output_names, histograms)
    shown = {
        "error_rates": scores,
        "costs": report["jobs"],
        "mixed_precision": values["searched"],
    } | {name: name in drawn for name in ("drift", "long_stream", "outputs", "inputs")}
    contents = [
        (name.replace("_", "-"), title)
        for name, title in SECTIONS.items()
        if title and shown.get(name, True)
    ]
    html = environment.get_template("page.html.j2").render(
        values, sections=list(SECTIONS), contents=contents, plots=drawn
    )
    return html, markdown


def verdict(report: Mapping[str, Any], chosen: str | None) -> dict[str, Any]:
    """Return what the figures mean, in words.

    Args:
        report: see `render`.
        chosen: the variant with the lowest error rate; None where no text is made, and the
            quantized variant with the highest SQNR is taken.

    Returns:
        `best`, the variant's name or None; `headline`, one sentence; `tiles`, the main figures as
        `what`, `figure` and `against`; `sentences`, plain text.
    """
    variants = report["variants"]
    built = {name: entry for name, entry in variants.items() if not entry["failure"]}
    best = chosen or _highest(built)
    failed = [name for name in variants if name not in built]
    failures = [f"{name} could not be built: {variants[name]['failure']}" for name in failed]
    if best is None or best not in built:
        headline = "There is nothing to deploy: no variant was built and evaluated."
        return {"best": None, "headline": headline, "tiles": [], "sentences": failures}
    build, figures = built[best]["build"], built[best]["encoder_out"]
    lead, tiles, sentences = f"Deploy {best}", [], []
    if scores := report["recognition"]:
        loss, tile, sentences = _accuracy(scores, best)
        lead += f": {loss}"
        tiles.append(tile)
    size, small = _sizes(report, built, best)
    tiles.append(size)
    compared = f"its file is {size['against']}"
    if figures:
        free = figures[measures.FREE_RUNNING]["sqnr_db"]
        said = "SQNR, on its own states; 10 dB more is a third of the error"
        tiles.append(_tile("encoder output", _db(free), said))
        if not scores:
            lead += f": its encoder output is {_db(free)} above its error"
    if (share := build.get("int8_macs_share")) is not None:
        tiles.append(_tile("work in int8", _percent(share), "of all multiply-accumulates (MACs)"))
    if build["refusals"]:
        tiles.append(_tile("stock sherpa-onnx", "refuses it", build["refusals"][0]))
    else:
        tiles.append(_tile("stock sherpa-onnx", "loads it", "types and metadata, read back"))
    sentences.append(f"Its file is {small}.")
    if fall := built[best]["drift"]:
        sentences.append(_drift_sentence(fall))
    sentences += failures
    time = built[best].get("time")
    on_board = time and time["target"] != measures.SIMULATOR
    sentences.append(
        (
            f"The encoder was measured on a board ({time['target']}), all else in the simulator of "
            "rknn-toolkit2"
            if on_board
            else "All figures are measured in the simulator of rknn-toolkit2"
        )
        + (", the error rates with greedy search." if scores else "; no text was made.")
    )
    headline = f"{lead}; {compared}." if ":" in lead else f"{lead}: {compared}."
    return {"best": best, "headline": headline, "tiles": tiles, "sentences": sentences}


def target(search: Mapping[str, Any]) -> str:
    """Return what a search for float16 layers was asked for, in words."""
    asked = []
    if search["target_sqnr"] is not None:
        asked.append(f"an SQNR of at least {search['target_sqnr']:g} dB")
    if search["target_wer_loss"] is not None:
        asked.append(f"at most {search['target_wer_loss']:g} % of words lost")
    return " and ".join(asked)


def summary(report: Mapping[str, Any]) -> list[str]:
    """Return the figures in one line for each variant, and one for the error rates."""
    lines = [_summary(name, variant) for name, variant in report["variants"].items()]
    if report["recognition"]:
        lines.append(_recognition_summary(report["recognition"]))
    return lines


def _accuracy(scores: Mapping[str, Any], best: str) -> tuple[str, dict[str, str], list[str]]:
    """Return what the best variant loses: in a few words, as a tile, and in sentences."""
    unit = scores["unit"]
    metric, figures = METRICS[unit], scores["models"][best]
    same = figures["same"]
    texts = (
        f"Its text is the same as the float model's in {same['same']} of "
        f"{same['utterances']} utterances."
    )
    if not scores["transcribed"]:
        rate = figures["float"][unit]["rate"]
        loss = f"its text differs from the float model's by {rate:.1f} % {metric}"
        said = ["There are no transcripts: error rates are against the float model's own text."]
        return loss, _tile(metric, f"{rate:.1f} %", "against float's own text"), [texts, *said]
    mine, whole = (
        figures["transcript"][unit],
        scores["models"][error_rates.FLOAT]["transcript"][unit],
    )
    points, interval = mine["difference"]["points"], mine["difference"]["interval"]
    if round(points, 1) == 0:
        loss = f"it loses no {metric} against float"
    elif points > 0:
        loss = f"it loses {points:.1f} points {metric} against float"
    else:
        loss = f"it has {-points:.1f} points less {metric} than float"
    sentence = f"{metric} {mine['rate']:.1f} %, float {whole['rate']:.1f} %"
    if interval:
        sentence += (
            f"; the difference lies between {interval[0]:+.1f} and {interval[1]:+.1f} points "
            "with 95 % confidence"
        )
        if interval[0] <= 0 <= interval[1]:
            sentence += ", so chance alone may make it"
    tile = _tile(
        metric, f"{mine['rate']:.1f} %", f"{points:+.1f} points; float {whole['rate']:.1f} %"
    )
    return loss, tile, [f"{sentence}.", texts]


def _sizes(
    report: Mapping[str, Any], built: Mapping[str, Any], best: str
) -> tuple[dict[str, str], str]:
    mine = built[best]["build"]["bytes"]
    others = {"the float ONNX file": report["model"]["bytes"]}
    for name, entry in built.items():
        if entry["build"]["dtype"] == "float16" and name != best:
            others = {f"the .rknn of {name}": entry["build"]["bytes"]} | others
    words = [f"{_times(mine, size)} {name} ({_mb(size)})" for name, size in others.items()]
    first = next(iter(others))
    tile = _tile("size of the .rknn", _mb(mine), f"{_times(mine, others[first])} {first}")
    return tile, f"{_mb(mine)}, {' and '.join(words)}"


def _times(size: float, other: float) -> str:
    if 0.95 < size / other < 1.05:
        return "about as large as"
    if size < other:
        return f"{other / size:.1f} times smaller than"
    return f"{size / other:.1f} times as large as"


def _tile(what: str, figure: str, against: str) -> dict[str, str]:
    return {"what": what, "figure": figure, "against": against.replace(" %", "\u00a0%")}


def _drift_sentence(fall: Mapping[str, Any]) -> str:
    (first, middle), (after, last) = fall["early"], fall["late"]
    change = fall["late_db"] - fall["early_db"]
    figures = (
        f"{_db(fall['early_db'])} in chunks {first} to {middle}, {_db(fall['late_db'])} in chunks "
        f"{after} to {last}"
    )
    if not math.isfinite(change) or change > -DRIFT_DB:
        return f"Its error does not grow along a stream: {figures}."
    return f"Its error grows along a stream: {figures}. The states drift."


def _highest(built: Mapping[str, Any]) -> str | None:
    """Return the quantized variant with the highest SQNR; any other where there is none."""
    figures = {
        name: (
            entry["build"]["dtype"] != "float16",
            entry["encoder_out"][measures.FREE_RUNNING]["sqnr_db"],
        )
        for name, entry in built.items()
        if entry["encoder_out"]
    }
    return max(figures, key=figures.__getitem__, default=None)


def _plots(
    report: Mapping[str, Any],
    built: Mapping[str, Any],
    output_names: Sequence[str],
    histograms: Mapping[str, tuple[Histograms, Histograms]],
) -> dict[str, Any]:
    """Return each plot's `svg`, and its `title`, which says what is to be seen in it."""
    found: dict[str, Any] = {}
    best = report["verdict"]["best"]
    if scores := report["recognition"]:
        metric, rows = METRICS[scores["unit"]], []
        for model, figures in scores["models"].items():
            rates = figures["transcript"] or figures.get("float")
            if rates:
                rows.append({"label": LABELS.get(model, model), **rates[scores["unit"]]})
        title = ", ".join(f"{row['label']} {row['rate']:.1f} %" for row in rows)
        found["rates"] = {"title": f"{metric}: {title}", "svg": plots.rates(rows, metric)}
    if report["drift"]["chunks"] and built:
        fall = best and built[best]["drift"]
        title = _drift_sentence(fall).replace("Its", f"{best}: its", 1) if fall else "SQNR by chunk"
        series = report["drift"]["sqnr_db"]
        svg = plots.drift(report["drift"]["chunks"], series)
        found["drift"] = {"title": title, "svg": svg}
    if searches := _precision_plots(built):
        found["mixed_precision"] = searches
    if streams := _stream_plots(report, built):
        found["long_stream"] = streams
    figures = {
        name: {
            mode: {row["output"]: row["sqnr_db"] for row in entry["outputs"] if row["mode"] == mode}
            for mode in (measures.ONE_STEP, measures.FREE_RUNNING)
        }
        for name, entry in built.items()
        if entry["outputs"]
    }
    if best in figures:
        free = figures[best][measures.FREE_RUNNING]
        order = sorted(output_names, key=free.__getitem__)
        shown = [name for name in order if math.isfinite(free[name])][:SHOWN_OUTPUTS]
        series = {
            name: {mode: [values[output] for output in shown] for mode, values in modes.items()}
            for name, modes in figures.items()
        }
        exact = sum(math.isinf(free[name]) for name in output_names)
        title = f"SQNR of the {len(shown)} worst outputs of {best}"
        if exact:
            title += f"; {exact} are exact and left out"
        found["outputs"] = {"title": title, "svg": plots.outputs(shown, series)}
    shown_variant = (
        best
        if histograms.get(best, ({}, {}))[0]
        else next((name for name, (rows, _) in histograms.items() if rows), None)
    )
    if shown_variant:
        found["inputs"] = _histogram_plots(shown_variant, *histograms[shown_variant])
    if report["jobs"]:
        slowest = max(report["jobs"], key=lambda name: report["jobs"][name]["seconds"])
        title = (
            f"The rule {slowest} takes the longest: {report['jobs'][slowest]['seconds']:.0f}\u00a0s"
        )
        found["flow"] = {"title": title, "svg": plots.flow(report["jobs"])}
    return found


def _precision_plots(built: Mapping[str, Any]) -> dict[str, Any]:
    """Return the curve of each variant whose float16 layers were searched."""
    found = {}
    for name, entry in built.items():
        search = entry["build"].get("mixed_precision")
        if not search or "steps" not in search:
            continue
        taken = search["steps"][search["chosen"]]
        verdict = "which meets" if search["met"] else "which misses"
        title = (
            f"{name}: {_percent(taken['int8_macs_share'])} of the work in int8 gives "
            f"{_db(taken['sqnr_db'])}, {verdict} the target"
        )
        svg = plots.precision(
            search["steps"], search["chosen"], search["target_sqnr"], search["target_wer_loss"]
        )
        found[name] = {"title": title, "svg": svg}
    return found


def _stream_plots(report: Mapping[str, Any], built: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plot over a long stream of each variant that was run over one."""
    found = {}
    for name, entry in built.items():
        stream = entry.get("long_stream")
        if not stream or not stream["chunks"]:
            continue
        levels = {output: e["sqnr_db"] for output, e in stream["outputs"].items()}
        groups: dict[str, list[Sequence[float | None]]] = {}
        for output, values in levels.items():
            # new_cached_key_3 is one of all keys.
            group = re.sub(r"(_\d+)+$", "", output).removeprefix("new_").removeprefix("cached_")
            groups.setdefault(group, []).append(values)
        places = np.array_split(np.arange(stream["chunks"]), min(stream["chunks"], STREAM_POINTS))
        series = {group: _lowest(members, places) for group, members in groups.items()}
        minutes = report["model"]["chunk_shift"] / 6000
        if stream["wrong"]:
            title = f"{name}: {len(stream['wrong'])} of {len(levels)} outputs go wrong with time"
        else:
            title = f"{name}: no output goes wrong over {_duration(stream['seconds'] / 60)}"
        svg = plots.long_stream([minutes * (np.mean(p) + 1) for p in places], series)
        found[name] = {"title": title, "svg": svg}
    return found


def _lowest(
    members: Sequence[Sequence[float | None]], places: Sequence[np.ndarray]
) -> list[float | None]:
    """Return the median over each stretch of the stream of what is worst then."""
    table = np.array(members, dtype=float)
    points = []
    for place in places:
        known = table[:, place][:, np.isfinite(table[:, place]).any(axis=0)]
        points.append(float(np.median(np.nanmin(known, axis=0))) if known.size else None)
    return points


def _histogram_plots(variant: str, rows: Histograms, audio: Histograms) -> dict[str, Any]:
    """Return the histograms, x first and then the inputs with the largest share outside."""
    first = next(iter(rows))
    order = sorted(rows, key=lambda name: (name != first, -audio[name].outside))
    left = [name for name in rows if audio[name].outside]
    if left:
        worst = max(left, key=lambda name: audio[name].outside)
        title = (
            f"{variant}: {len(left)} of {len(rows)} inputs leave the calibrated range, {worst} "
            f"with {_share(audio[worst].outside)} of its values"
        )
    else:
        title = f"{variant}: all {len(rows)} inputs stay within the calibrated range"
    drawn = [
        {
            "name": name,
            "outside": audio[name].outside,
            "svg": plots.histogram(name, rows[name], audio[name]),
        }
        for name in order[:SHOWN_HISTOGRAMS]
    ]
    return {
        "title": title,
        "first": drawn[:FIRST_HISTOGRAMS],
        "rest": drawn[FIRST_HISTOGRAMS:],
    }


def _utterances(texts: str | Path) -> list[dict[str, Any]]:
    """Return what each model made of each utterance, those that differ from float first.

    Each entry has the `name`, the `reference` (the transcript, or the float model's text where
    there is none), whether it is `transcribed`, and by model the pieces of `scoring.marked`.
    """
    table = pd.read_csv(texts, sep="\t", dtype=str, keep_default_na=False)
    models = list(table.columns[2:])
    table["same"] = (table[models].nunique(axis=1) == 1).astype(int)
    entries = []
    for row in table.sort_values(["same", "utterance"]).head(MOST).to_dict("records"):
        reference = row["transcript"] or row[error_rates.FLOAT]
        entries.append(
            {
                "name": row["utterance"],
                "reference": reference,
                "transcribed": bool(row["transcript"]),
                "models": {model: error_rates.marked(reference, row[model]) for model in models},
            }
        )
    return entries


def _columns(built: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the SQNR of each variant and mode side by side, by output."""
    columns: dict[str, list[float]] = {}
    for variant in built.values():
        for mode in (measures.ONE_STEP, measures.FREE_RUNNING):
            for row in variant["outputs"]:
                if row["mode"] == mode:
                    columns.setdefault(row["output"], []).append(row["sqnr_db"])
    return columns


def _summary(name: str, variant: Mapping[str, Any]) -> str:
    if variant["failure"]:
        return f"{name}: failed: {variant['failure']}"
    size = _mb(variant["build"]["bytes"])
    if not variant["chunks"]:
        return f"{name}: {size}, not evaluated: the evaluation audio gives no chunk"
    parts = []
    for mode in (measures.ONE_STEP, measures.FREE_RUNNING):
        figures = variant["encoder_out"][mode]
        parts.append(f"{figures['sqnr_db']:.1f} dB (cosine {figures['cosine']:.5f}) {mode}")
    verdict = "refuses it" if variant["build"]["refusals"] else "loads it"
    share = variant["build"].get("int8_macs_share")
    macs = "" if share is None else f"{_percent(share)} of MACs in int8; "
    return (
        f"{name}: encoder output {', '.join(parts)}, {variant['chunks']} chunks; {size}; {macs}"
        f"a stock sherpa-onnx {verdict}"
    )


def _recognition_summary(scores: Mapping[str, Any]) -> str:
    """Return the error rates of all models in one line."""
    unit, metric = scores["unit"], METRICS[scores["unit"]]
    rates, count = [], f"{scores['utterances']} utterances"
    for model, figures in scores["models"].items():
        found = figures["transcript"] or figures.get("float")
        if found:
            rates.append(f"{LABELS.get(model, model)} {found[unit]['rate']:.1f} %")
            units = found[unit]["units"]
    same = ", ".join(
        f"{LABELS.get(model, model)} {figures['same']['same']} of {figures['same']['utterances']}"
        for model, figures in scores["models"].items()
        if "same" in figures
    )
    if scores["transcribed"]:
        count = f"{scores['transcribed']} utterances"
        head = f"{metric} on {count} ({units} {unit}s)"
    else:
        head = f"{metric} against the float model's own text on {count} ({units} {unit}s)"
    return f"{head}: {', '.join(rates)}; same text as float: {same}"


def _db(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return "exact" if math.isinf(value) else f"{value:.1f} dB"


def _mb(value: float) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def _limited(limit: Mapping[str, Any]) -> str:
    """Return what `counters.counter_limit` has found, in words."""
    return (
        f"{limit['state']} counts the frames of a stream in float16: exactly for "
        f"{_duration(limit['exact_minutes'])}, then rounded; after "
        f"{_duration(limit['end_minutes'])} it overflows. End a stream before that, and "
        "begin a new one with all states zero."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(minutes: float) -> str:
    """Return a time as seconds, minutes or hours, whichever reads best."""
    if minutes < 2:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _share(value: float) -> str:
    """Return a share as per cent with as many digits as it needs to not look like none."""
    if value == 0:
        return "0 %"
    return f"{100 * value:.2f} %" if value >= 5e-5 else f"{100 * value:.1g} %"


def _range(ends: Sequence[float] | None) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "none seen"
