"""The report for readers: the HTML and Markdown pages."""

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
from zipquant.evaluation.verdict import METRICS
from zipquant.recognition import error_rates
from zipquant.report import layers, plots, words
from zipquant.variants.histograms import Histograms

MOST = 1000
"""Utterances that the page lists."""

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
    "layers": "What the board runs",
    "preparation": "Graph preparation",
    "costs": "Time and memory",
    "settings": "Settings",
}
"""The page's sections in their order, by the name of their template in `templates/report/sections`,
and their titles in the list of contents. A section's id is its name with hyphens."""

TEMPLATES = Path(__file__).parent.parent / "templates/report"

FILTERS = {
    "db": words.db,
    "mb": words.mb,
    "rate": lambda figures: f"{figures['rate']:.2f} %",
    "points": lambda figures: f"{figures['points']:+.2f}",
    "range": words.span,
    "number": lambda value: "" if value is None else f"{value:.4g}",
    "share": words.share_of,
    "duration": words.duration,
    "target": words.target,
    "limited": words.limited,
    "unsuited": words.unsuited,
    "fault": words.fault_of,
    "ran_in": words.ran_in,
    **layers.FILTERS,
}
"""What the templates say figures with."""


def render(
    report: Mapping[str, Any],
    output_names: Sequence[str],
    histograms: Mapping[str, tuple[Histograms, Histograms]],
    texts: str | Path | None,
) -> tuple[str, str]:
    """Return the report as an HTML page and as Markdown.

    Args:
        report: all that was measured, see `figures.write`.
        output_names: the model's outputs, in its order.
        histograms: of each variant's inputs: in the calibration rows, in the evaluation audio.
        texts: the texts of all models, written by `scores.write`; None where no text is made.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=printable,
    )
    environment.filters |= FILTERS
    values = _values(report, output_names, texts)
    markdown = environment.get_template("report.md.j2").render(values)
    drawn = _plots(report, values["built"], output_names, histograms)
    shown = {
        "error_rates": report["recognition"],
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


def _values(
    report: Mapping[str, Any], output_names: Sequence[str], texts: str | Path | None
) -> dict[str, Any]:
    """Return what the templates read."""
    built = {name: entry for name, entry in report["variants"].items() if not entry["failure"]}
    scores = report["recognition"]
    return {
        **report,
        **layers.values(report),
        "built": built,
        "engines": measures.ENGINES,
        "best": report["verdict"]["best"],
        "utterances": _utterances(texts) if texts else [],
        "labels": words.LABELS,
        "metric": METRICS[scores["unit"]] if scores else "",
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


def _plots(
    report: Mapping[str, Any],
    built: Mapping[str, Any],
    output_names: Sequence[str],
    histograms: Mapping[str, tuple[Histograms, Histograms]],
) -> dict[str, Any]:
    """Return each plot's `svg`, and its `title`, which says what is to be seen in it."""
    best = report["verdict"]["best"]
    drawn = {
        "rates": _rates_plot(report["recognition"]),
        "drift": _drift_plot(report, best, built),
        "mixed_precision": _precision_plots(built),
        "long_stream": _stream_plots(report, built),
        "outputs": _outputs_plot(built, best, output_names),
        "inputs": _histogram_plots(best, histograms),
    }
    return {name: found for name, found in drawn.items() if found}


def _rates_plot(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not scores:
        return None
    metric, rows = METRICS[scores["unit"]], []
    for model, figures in scores["models"].items():
        if rates := figures["transcript"] or figures.get("float"):
            rows.append({"label": words.LABELS.get(model, model), **rates[scores["unit"]]})
    title = ", ".join(f"{row['label']} {row['rate']:.1f} %" for row in rows)
    return {"title": f"{metric}: {title}", "svg": plots.rates(rows, metric)}


def _drift_plot(
    report: Mapping[str, Any], best: str, built: Mapping[str, Any]
) -> dict[str, Any] | None:
    if not report["drift"]["chunks"]:
        return None
    halves = built[best]["drift"]
    title = f"{best}: {words.halves_in_words(halves)}" if halves else "SQNR by chunk"
    svg = plots.drift(report["drift"]["chunks"], report["drift"]["sqnr_db"])
    return {"title": title, "svg": svg}


def _outputs_plot(
    built: Mapping[str, Any], best: str, output_names: Sequence[str]
) -> dict[str, Any] | None:
    figures = {
        name: {
            mode: {row["output"]: row["sqnr_db"] for row in entry["outputs"] if row["mode"] == mode}
            for mode in (measures.ONE_STEP, measures.FREE_RUNNING)
        }
        for name, entry in built.items()
        if entry["outputs"]
    }
    if best not in figures:
        return None
    free = figures[best][measures.FREE_RUNNING]
    known = [name for name in output_names if math.isfinite(free[name])]
    shown = sorted(known, key=free.__getitem__)[:SHOWN_OUTPUTS]
    series = {
        name: {mode: [values[output] for output in shown] for mode, values in modes.items()}
        for name, modes in figures.items()
    }
    exact = sum(math.isinf(free[name]) for name in output_names)
    title = words.outputs_title(best, len(shown), exact)
    return {"title": title, "svg": plots.outputs(shown, series)}


def _precision_plots(built: Mapping[str, Any]) -> dict[str, Any]:
    """Return the curve of each variant whose float16 layers were searched."""
    found = {}
    for name, entry in built.items():
        search = entry["build"].get("mixed_precision")
        if search and "steps" in search:
            asked = search["target_sqnr"], search["target_wer_loss"]
            svg = plots.precision(search["steps"], search["chosen"], *asked)
            found[name] = {"title": words.precision_title(name, search), "svg": svg}
    return found


def _stream_plots(report: Mapping[str, Any], built: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plot over a long stream of each variant that was run over one."""
    found = {}
    for name, entry in built.items():
        stream = entry["long_stream"]
        if not stream["chunks"]:
            continue
        groups: dict[str, list[Sequence[float | None]]] = {}
        for output, levels in stream["outputs"].items():
            # new_cached_key_3 is one of all keys.
            group = re.sub(r"(_\d+)+$", "", output).removeprefix("new_").removeprefix("cached_")
            groups.setdefault(group, []).append(levels["sqnr_db"])
        places = np.array_split(np.arange(stream["chunks"]), min(stream["chunks"], STREAM_POINTS))
        series = {group: _lowest(members, places) for group, members in groups.items()}
        minutes = report["model"]["chunk_shift"] / 6000
        svg = plots.long_stream([minutes * (np.mean(p) + 1) for p in places], series)
        found[name] = {"title": words.stream_title(name, stream), "svg": svg}
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


def _histogram_plots(
    best: str, histograms: Mapping[str, tuple[Histograms, Histograms]]
) -> dict[str, Any] | None:
    """Return the histograms of a quantized variant, the best if it is one.

    x comes first, then the inputs with the largest share outside.
    """
    counted = {name: pair for name, pair in histograms.items() if pair[0]}
    if not counted:
        return None
    variant = best if best in counted else next(iter(counted))
    rows, audio = counted[variant]
    first = next(iter(rows))
    order = sorted(rows, key=lambda name: (name != first, -audio[name].outside))
    drawn = [
        {
            "name": name,
            "outside": audio[name].outside,
            "svg": plots.histogram(name, rows[name], audio[name]),
        }
        for name in order[:SHOWN_HISTOGRAMS]
    ]
    return {
        "title": words.inputs_title(variant, {name: audio[name].outside for name in rows}),
        "first": drawn[:FIRST_HISTOGRAMS],
        "rest": drawn[FIRST_HISTOGRAMS:],
    }


def _utterances(texts: str | Path) -> list[dict[str, Any]]:
    """Return what each model made of each utterance, those that differ from float first.

    Each entry has the `name`, the `reference` (the transcript, or the float model's text where
    there is none), whether it is `transcribed`, and by model the pieces of `error_rates.marked`.
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
