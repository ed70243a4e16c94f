"""The report for readers: the HTML and Markdown pages."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
import pandas as pd

from zipquant.errors import printable
from zipquant.evaluation import drift, measures
from zipquant.evaluation.verdict import METRICS
from zipquant.phrases import HTML, MARKDOWN, Phrase, anchor, in_language, known, listed, say
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

SECTIONS = (
    *("error_rates", "keywords", "variants", "mixed_precision", "drift", "long_stream"),
    *("outputs", "inputs", "calibration", "layers", "preparation", "costs", "settings", "glossary"),
)
"""The page's sections below the verdict, by the name of their template in
`templates/report/sections`. A section's id is its name with hyphens."""

CODES = {"en": "en", "zh": "zh-CN"}
"""Languages as HTML names them."""

NAMES = {"en": "English", "zh": "中文"}
"""Languages in their own words."""

UNIT = re.compile(r"(?<=\d) (?=(?:%|dB|ms|MB|s)\b|%)")
"""The space between a number and its unit."""

TERM = re.compile(r'<a class="term" href="#(?P<to>[^"]+)">(?P<words>[^<]*)</a>')
"""A link to the glossary; the first of each term stays."""

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


class Page:
    """The report for readers, in any language.

    Attributes:
        report: all that was measured, see `figures.write`.
        output_names: the model's outputs, in its order.
        histograms: of each variant's inputs: in the calibration rows, in the evaluation audio.
        values: what the templates read, but for the plots.
    """

    def __init__(
        self,
        report: Mapping[str, Any],
        output_names: Sequence[str],
        histograms: Mapping[str, tuple[Histograms, Histograms]],
        texts: str | Path | None,
    ):
        """Take what is shown; `texts` of all models by `scores.write`, None where none is made."""
        self.report = report
        self.output_names = output_names
        self.histograms = histograms
        self.values = _values(report, output_names, texts)

    def markdown(self) -> str:
        """Return it as Markdown, in English."""
        return _environment("en", MARKDOWN).get_template("report.md.j2").render(self.values)

    def html(self, language: str, files: Mapping[str, str]) -> str:
        """Return it as a page of HTML.

        Args:
            language: one of `phrases.LANGUAGES`.
            files: by language, the name of each page that is written, which link to each other.
        """
        values = self.values
        drawn = _plots(self.report, values["built"], self.output_names, self.histograms, language)
        shown = {
            "error_rates": self.report["recognition"],
            "keywords": values["spotted"],
            "costs": self.report["jobs"],
            "mixed_precision": values["searched"],
        } | {name: name in drawn for name in ("drift", "long_stream", "outputs", "inputs")}
        return (
            _environment(language, HTML)
            .get_template("page.html.j2")
            .render(
                values,
                sections=SECTIONS,
                contents=[
                    (name.replace("_", "-"), say(f"section.{name}"))
                    for name in SECTIONS
                    if shown.get(name, True)
                ],
                plots=drawn,
                glossary=_glossary(),
                other_languages=[
                    (NAMES[other], file, CODES[other])
                    for other, file in files.items()
                    if other != language
                ],
            )
        )


def _environment(language: str, form: str) -> jinja2.Environment:
    """Return what fills templates in a language: phrases turn into text where they are put."""
    linked: set[str] = set()

    def once(link: re.Match[str]) -> str:
        if link["to"] in linked:
            return link["words"]
        linked.add(link["to"])
        return link[0]

    def put(value: Any) -> Any:
        text = in_language(value, language, form)
        if isinstance(value, Phrase) and form == HTML:
            # A number and its unit stay on one line.
            text = UNIT.sub("\u00a0", TERM.sub(once, str(printable(text))))
            return markupsafe.Markup(text)
        return printable(text)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=put,
    )
    environment.filters |= FILTERS
    environment.globals |= {"say": say, "col": _column, "heads": _heads, "paragraph": _paragraph}
    return environment


def _column(key: str, kind: str = "", **values: Any) -> tuple[str, str]:
    """Return the head of a table's column, and its class: `text` for one that is no number."""
    return say(f"col.{key}", **values), kind


def _heads(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the heads of columns of models."""
    return [(words.LABELS.get(name, name), "") for name in names]


def _paragraph(*sentences: Any) -> Phrase:
    """Return sentences one after the other, without those that a condition leaves out."""
    return listed((sentence for sentence in sentences if sentence), "sentences")


def _glossary() -> list[tuple[str, Phrase, Phrase]]:
    """Return the terms: id, name and explanation."""
    keys = [key for key in known() if key.startswith("glossary.") and not key.endswith(".name")]
    return [(anchor(key.removeprefix("glossary.")), say(f"{key}.name"), say(key)) for key in keys]


def _values(
    report: Mapping[str, Any], output_names: Sequence[str], texts: str | Path | None
) -> dict[str, Any]:
    """Return what the templates read."""
    best, scores = report["verdict"]["best"], report["recognition"]

    def ordered(by_name: Mapping[str, Any]) -> dict[str, Any]:
        """Return variants with the best first, so that a telephone shows it."""
        return {name: by_name[name] for name in sorted(by_name, key=lambda name: name != best)}

    variants = ordered(report["variants"])
    built = {name: entry for name, entry in variants.items() if not entry["failure"]}
    timed = {name: entry for name, entry in built.items() if entry.get("time")}
    return {
        **report,
        **layers.values(report),
        "variants": variants,
        "built": built,
        "ordered": ordered,
        "shown_models": list(ordered(scores["models"])) if scores else [],
        "on_board": {n: e for n, e in timed.items() if measures.on_board(e["time"]["target"])},
        "best": best,
        "why": [Phrase.from_dict(entry) for entry in report["choice"]["phrases"]],
        "measure": words.measure(scores),
        "spotted": scores["keywords"] if scores else None,
        "utterances": _utterances(texts) if texts else [],
        "labels": words.LABELS,
        "metric": METRICS[scores["unit"]] if scores else "",
        "most": MOST,
        "output_names": output_names,
        "figures": _columns(built),
        "figure_columns": [
            (say(f"outputs.{mode}", name=name), "")
            for name in built
            for mode in ("free-running", "one-step")
        ],
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
    language: str,
) -> dict[str, Any]:
    """Return each plot's `svg`, and its `title`, which says what is to be seen in it."""
    best = report["verdict"]["best"]
    drawn = {
        "rates": _rates_plot(report["recognition"], language),
        "drift": _drift_plot(report, best, built, language),
        "mixed_precision": _precision_plots(built, language),
        "long_stream": _stream_plots(report, built, language),
        "outputs": _outputs_plot(built, best, output_names, language),
        "inputs": _histogram_plots(best, histograms, language),
    }
    return {name: found for name, found in drawn.items() if found}


def _rates_plot(scores: Mapping[str, Any] | None, language: str) -> dict[str, Any] | None:
    if not scores:
        return None
    metric, rows = METRICS[scores["unit"]], []
    for model, figures in scores["models"].items():
        if rates := figures["transcript"] or figures.get("float"):
            rows.append({"label": words.LABELS.get(model, model), **rates[scores["unit"]]})
    said = listed(say("about", name=row["label"], what=f"{row['rate']:.1f} %") for row in rows)
    title = say("because", what=metric, why=said)
    return {"title": title, "svg": plots.rates(rows, metric, language)}


def _drift_plot(
    report: Mapping[str, Any], best: str, built: Mapping[str, Any], language: str
) -> dict[str, Any] | None:
    if not report["drift"]["chunks"]:
        return None
    halves = built[best]["drift"]
    title = say("drift.title")
    if halves:
        title = say("because", what=best, why=words.halves_in_words(halves))
    svg = plots.drift(report["drift"]["chunks"], report["drift"]["sqnr_db"], language)
    return {"title": title, "svg": svg}


def _outputs_plot(
    built: Mapping[str, Any], best: str, output_names: Sequence[str], language: str
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
    return {"title": title, "svg": plots.outputs(shown, series, language)}


def _precision_plots(built: Mapping[str, Any], language: str) -> dict[str, Any]:
    """Return the curve of each variant whose float16 layers were searched."""
    found = {}
    for name, entry in built.items():
        search = entry["build"].get("mixed_precision")
        if search and "steps" in search:
            asked = search["target_sqnr"], search["target_wer_loss"]
            svg = plots.precision(search["steps"], search["chosen"], asked, language)
            found[name] = {"title": words.precision_title(name, search), "svg": svg}
    return found


def _stream_plots(
    report: Mapping[str, Any], built: Mapping[str, Any], language: str
) -> dict[str, Any]:
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
        svg = plots.long_stream([minutes * (np.mean(p) + 1) for p in places], series, language)
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
    best: str, histograms: Mapping[str, tuple[Histograms, Histograms]], language: str
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
            "svg": plots.histogram(name, rows[name], audio[name], language),
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
        for mode in (measures.FREE_RUNNING, measures.ONE_STEP):
            for row in variant["outputs"]:
                if row["mode"] == mode:
                    columns.setdefault(row["output"], []).append(row["sqnr_db"])
    return columns
