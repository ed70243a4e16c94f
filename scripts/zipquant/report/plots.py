"""Plots as SVG text for a page: drawn by matplotlib, coloured by the page's style sheet.

A plot is as wide as a telephone shows (`WIDTH`), so that its labels can be read there; on larger
screens the page scales it. Colours stand in the SVG as CSS variables, so that a plot follows the
page from light to dark. No scripts, no fonts, no other files.
"""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zipquant.phrases import Phrase, in_language, listed, say
from zipquant.variants.histograms import Histogram

WIDTH = 360
"""Points that a plot is wide, which are CSS pixels in the page's smallest rendering."""

SMALL = 180
"""Points that one of many small plots is wide: two stand side by side on a telephone."""

FONT = 12
"""Size of all text: in a plot as wide as `WIDTH`, on a telephone, these are CSS pixels."""

WIDE = re.compile("[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]")
"""Chinese characters, of which matplotlib's font has none: it takes them for narrower than a
browser draws them."""

LEAST_SHARE = 1e-4
"""Per cent of the values at which a histogram's logarithmic axis begins."""

SERIES = 6
"""Colours that the page's style sheet has for series, `--c0` and so on; then they repeat."""

MARKERS = "osD^vP"
"""Series differ in shape as well as in colour."""

PADDING = "\u00a0"
"""A space that no label has of its own."""

INK, SOFT, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
"""Stand for the page's colours while matplotlib draws."""

VARIABLES = {INK: "--ink", SOFT: "--soft-ink", GRID: "--line", PAPER: "--paper"} | {
    f"#0a0a{number:02d}": f"--c{number}" for number in range(SERIES)
}

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "zipquant",
    "font.size": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": FONT,
}


def rates(rows: Sequence[Mapping[str, Any]], metric: str, language: str = "en") -> str:
    """Return a plot of error rates with their 95 % intervals.

    Args:
        rows: `label`, `rate` in per cent, and `interval` (two numbers, or None) of each model.
        metric: what the rates are, such as WER.
        language: one of `phrases.LANGUAGES`, as in all plots.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(34 + 24 * len(rows))
        for place, row in enumerate(rows):
            if row["interval"]:
                axes.plot(row["interval"], [place, place], color=_colour(0), lw=3, alpha=0.35)
            axes.plot(row["rate"], place, "o", color=_colour(0), ms=6)
        labels = [_padded(in_language(row["label"], language)) for row in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(False, axis="y")
        axes.set_xlabel(say("plot.interval", metric=metric).text(language))
        found = [say("plot.rate", label=row["label"], rate=row["rate"]) for row in rows]
        text = say("plot.rates-text", metric=metric, rates=listed(found, "semicolon"))
        return _svg(figure, text.text(language), "rates")


def drift(
    groups: Sequence[Sequence[int]],
    series: Mapping[str, Sequence[float | None]],
    language: str = "en",
) -> str:
    """Return a plot of SQNR against the chunk's place in its stream.

    Args:
        groups: first and last chunk of each point.
        series: SQNR in dB of each variant at each point; None where there is none.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(200)
        places = [(first + last) / 2 for first, last in groups]
        for number, (name, values) in enumerate(series.items()):
            marks = dict(marker=MARKERS[number % SERIES], ms=3.5) if len(places) <= 40 else {}
            heights = [np.nan if value is None else value for value in values]
            axes.plot(places, heights, color=_colour(number), lw=1.6, label=name, **marks)
        _from_zero(axes, [v for values in series.values() for v in values if v is not None])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(say("plot.chunk").text(language))
        axes.set_ylabel(say("plot.sqnr").text(language))
        _legend(axes, min(len(series), 3))
        text = say("plot.drift-text", ends=_ends_of(series))
        return _svg(figure, text.text(language), "drift")


def precision(
    steps: Sequence[Mapping[str, Any]],
    chosen: int,
    target: tuple[float | None, float | None],
    language: str = "en",
) -> str:
    """Return a plot of what a search for float16 layers has found: accuracy over time.

    Args:
        steps: `time_added` (a share of plain int8's time), `sqnr_db`, `predicted_sqnr_db` (or
            None), and `wer_loss` in per cent (or None) of each choice that was measured.
        chosen: which of them was taken.
        target: what was asked for: the SQNR in dB, and the loss of words in per cent; None for no
            such target.
        language: as in `rates`.
    """
    target_sqnr, target_wer_loss = target
    taken = steps[chosen]
    # They come by rising number of float16 layers, and more of them may take less time.
    steps = sorted(steps, key=lambda step: (step["time_added"], step["sqnr_db"] or 0))
    chosen = steps.index(taken)
    times = [100 * step["time_added"] for step in steps]
    worded = [step["wer_loss"] for step in steps if step["wer_loss"] is not None]
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH / 72, (290 if worded else 200) / 72), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)
        ratios = dict(height_ratios=(2, 1)) if worded else {}
        grid = figure.subplots(2 if worded else 1, sharex=True, squeeze=False, **ratios)
        axes = grid[0][0]
        predicted = [_or_nan(step["predicted_sqnr_db"]) for step in steps]
        measured = [_or_nan(step["sqnr_db"]) for step in steps]
        look = dict(marker="o", ms=4, lw=1.3)
        said = {
            name: say(f"plot.{name}").text(language)
            for name in ("predicted", "measured", "taken", "target", "sqnr", "words", "time")
        }
        hollow = dict(color=_colour(1), ls="--", fillstyle="none", label=said["predicted"])
        axes.plot(times, predicted, **hollow, **look)
        axes.plot(times, measured, color=_colour(0), label=said["measured"], **look)
        _ring(axes, times[chosen], measured[chosen], label=said["taken"])
        if target_sqnr is not None:
            axes.axhline(target_sqnr, color=SOFT, lw=1, ls=":", label=said["target"])
        axes.set_ylabel(said["sqnr"])
        _legend(axes, 4)
        if worded:
            below = grid[1][0]
            losses = [_or_nan(step["wer_loss"]) for step in steps]
            below.plot(times, losses, color=_colour(0), **look)
            _ring(below, times[chosen], losses[chosen])
            if target_wer_loss is not None:
                below.axhline(target_wer_loss, color=SOFT, lw=1, ls=":")
            below.set_ylim(bottom=0)
            below.set_ylabel(said["words"])
        grid[-1][0].set_xlabel(said["time"])
        found = dict(first=times[0], last=times[-1], share=times[chosen])
        db = taken["sqnr_db"] or 0
        text = say("plot.precision-text", ends=_ends(measured), db=db, **found)
        return _svg(figure, text.text(language), f"precision-{times}-{measured}")


def long_stream(
    minutes: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    language: str = "en",
) -> str:
    """Return a plot of SQNR over one long stream.

    Args:
        minutes: the time of each point.
        series: SQNR in dB at each point, of the encoder output first; None where there is none.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(230)
        for number, (name, values) in enumerate(series.items()):
            axes.plot(
                minutes,
                [_or_nan(value) for value in values],
                color=_colour(number),
                lw=2.4 if number == 0 else 1.3,
                ls="-" if number < SERIES else "--",
                label=name,
            )
        _from_zero(axes, [v for values in series.values() for v in values if v is not None])
        axes.set_xlabel(say("plot.minutes").text(language))
        axes.set_ylabel(say("plot.sqnr").text(language))
        _legend(axes, 3)
        ends = _ends_of(series)
        text = say("plot.stream-text", ends=ends)
        return _svg(figure, text.text(language), f"stream-{ends}")


def outputs(
    names: Sequence[str],
    series: Mapping[str, Mapping[str, Sequence[float]]],
    language: str = "en",
) -> str:
    """Return a plot of the SQNR of some outputs.

    Args:
        names: the outputs, from top to bottom.
        series: by variant and mode, SQNR in dB of each; infinite values are left out. The first
            mode is drawn hollow, the second filled.
        language: as in `rates`.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(48 + 15 * len(names))
        places = np.arange(len(names))
        finite = []
        for number, (variant, modes) in enumerate(series.items()):
            for fill, (mode, values) in zip(("none", "full"), modes.items(), strict=True):
                heights = np.where(np.isfinite(values), values, np.nan)
                finite += heights[np.isfinite(heights)].tolist()
                axes.plot(
                    heights,
                    places,
                    linestyle="none",
                    marker=MARKERS[number % SERIES],
                    ms=4.5,
                    fillstyle=fill,
                    color=_colour(number),
                    label=say(
                        "plot.mode", name=variant, mode=say(f"mode.{mode.replace(' ', '-')}")
                    ).text(language),
                )
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.05 * max(finite, default=1))
        axes.set_xlabel(say("plot.sqnr-more").text(language))
        _legend(axes, 2)
        text = say("plot.outputs-text", count=len(names))
        return _svg(figure, text.text(language), "outputs")


def histogram(name: str, rows: Histogram, audio: Histogram, language: str = "en") -> str:
    """Return a small plot of an input's values: calibration rows, evaluation audio, range.

    Args:
        name: the input.
        rows: its values in the calibration rows.
        audio: its values in the evaluation audio, over the same range.
        language: as in `rates`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure((SMALL / 72, 96 / 72))
        # Fixed places: laying out some dozens of these would take most of the report's time.
        axes = figure.add_axes((0.27, 0.2, 0.71, 0.74))
        low, high, edges = rows.low, rows.high, rows.edges()
        axes.axvspan(low, high, color=GRID, alpha=0.5, lw=0)
        for number, found in enumerate((rows, audio)):
            shares = np.array(found.counts[1:-1]) / max(1, found.total)
            heights = np.log10(np.maximum(100 * shares, LEAST_SHARE))
            look = dict(fill=True, alpha=0.4, lw=0) if number == 0 else dict(lw=1.3)
            axes.stairs(
                heights, edges, baseline=math.log10(LEAST_SHARE), color=_colour(number), **look
            )
        axes.set_ylim(math.log10(LEAST_SHARE), 2)
        axes.set_yticks([-4, -2, 0, 2], ["0.0001", "0.01", "1", "100 %"])
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xticks([low, high], [f"{low:.3g}", f"{high:.3g}"])
        axes.grid(False, axis="x")
        text = say(
            "plot.histogram-text",
            name=name,
            **{"low": low, "high": high, "outside": 100 * audio.outside},
            **{"least": _number(audio.least), "most": _number(audio.most)},
        )
        return _svg(figure, text.text(language), f"histogram-{name}")


def _figure(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return an empty plot of so many points."""
    figure = Figure((width / 72, height / 72), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)
    return figure, figure.add_subplot()


def _colour(number: int) -> str:
    return f"#0a0a{number % SERIES:02d}"


def _legend(axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles,
        [_padded(label) for label in labels],
        loc="outside upper left",
        ncols=min(columns, 4),
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0.1,
    )


def _padded(label: str) -> str:
    """Return a label with room for what a browser draws wider; `_svg` takes it away again."""
    return label + PADDING * round(1.3 * len(WIDE.findall(label)))


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    axes.set_ylim(min(0, *finite, 0), 1.08 * max([*finite, 1]))


def _ring(axes: Axes, x: float, y: float, **label: str) -> None:
    ring = dict(marker="o", ms=10, mew=1.6, fillstyle="none", linestyle="none")
    axes.plot(x, y, color=INK, **ring, **label)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _ends(values: Sequence[float | None]) -> Phrase:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return say("plot.ends", first=known[0], last=known[-1]) if known else say("exact")


def _ends_of(series: Mapping[str, Sequence[float | None]]) -> Phrase:
    ends = (say("about", name=name, what=_ends(values)) for name, values in series.items())
    return listed(ends, "semicolon")


def _number(value: float | None) -> str:
    return say("plot.none") if value is None else f"{value:.3g}"


def _svg(figure: Figure, text: str, key: str) -> str:
    """Return a figure as an `<svg>` element.

    Args:
        figure: the figure.
        text: says what it shows to those who cannot see it.
        key: is put into the names of what the SVG refers to, which are the page's.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    _, _, width, height = re.search(r'viewBox="([^"]+)"', svg)[1].split()
    body = svg[svg.index("<defs>", svg.index("</metadata>")) : svg.rindex("</svg>")]
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body).replace("xlink:href", "href")
    body = re.sub(r' (?:d|x|y|transform)="[^"]+"', lambda match: _shortened(match[0]), body)
    # The page's own font, in the size that is given.
    body = re.sub(r"font-family: [^;\"]+;?", "", body)
    body = re.sub(r"(font: (?:\w+ )*[\d.]+px) [^;\"]+", r"\1 var(--font)", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"\n\s*", "\n", body).replace(PADDING, "")
    return (
        f'<svg class="plot" viewBox="0 0 {float(width):g} {float(height):g}" role="img" '
        f'aria-label="{escape(text)}">{body}</svg>'
    )


def _shortened(numbers: str) -> str:
    """Cut numbers to a hundredth of a point, and line breaks to spaces."""
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(numbers.split()).join((" ", "")))
