"""What the report says, case by case; the sentences themselves stand in `words.yaml`."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zipquant.evaluation import measures
from zipquant.evaluation.verdict import (
    KEYWORDS,
    METRICS,
    Judgement,
    Status,
    allowed,
    lost,
    reasons,
)
from zipquant.model.counters import LARGEST
from zipquant.phrases import Phrase, listed, say, time_between
from zipquant.recognition.error_rates import FLOAT
from zipquant.report.layers import LABELS as TIMED
from zipquant.toolkit.layer_costs import EQUAL_TIME, Range
from zipquant.toolkit.platforms import FLOAT16

LABELS = {"rknn": say("label.rknn")}
"""What the reserved names of models stand for."""

DRIFT_DB = 1.0
"""A fall of the SQNR from the first half of the chunks to the second that is called growing."""

CLIPPED = 1e-3
"""Share of an input's values outside of the calibrated range that is warned of."""

NO_INT8 = 0.01
"""A variant with less than this share of its work in int8 is one of float16."""

MUCH_CLIPPED = 1e-2
"""Share from which it is a likely cause of a variant that is unfit."""

SLOWER = 1.1
"""How much longer the last calls take than the first where a board is said to slow down."""

POOR = 50.0
"""Error rate (%) of the float model that is warned of."""


@dataclass(frozen=True)
class Case:
    """A variant and the report that it is in.

    Attributes:
        report: see `figures.write`.
        name: the variant.
    """

    report: Mapping[str, Any]
    name: str

    @property
    def variant(self) -> Mapping[str, Any]:
        """What the report has of it."""
        return self.report["variants"][self.name]

    @property
    def judgement(self) -> Judgement:
        """How fit it is."""
        return Judgement.from_dict(self.report["choice"]["judgements"][self.name])

    @property
    def metric(self) -> str:
        """WER or CER."""
        return METRICS[self.report["recognition"]["unit"]]


# The verdict


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the figures mean.

    Args:
        report: see `figures.write`.

    Returns:
        `best`, the variant's name; `status`, see `verdict.Status`; `headline`, one sentence;
        `next`, what to do now, step by step; `tiles`, the main figures as `what`, `figure` and
        `against`; `sentences`, what the tiles do not say.
    """
    case = Case(report, report["choice"]["best"])
    tiles, sentences = [], []
    if report["recognition"]:
        tile, sentences = _text_figures(case)
        tiles.append(tile)
    size = _size_tile(case)
    tiles += [size, *_time_tile(case), *_encoder_tiles(case)]
    sentences = [*_doubts(case), *keywords(case), *sentences]
    sentences += along_a_stream(case.variant)
    sentences += _failures(report)
    sentences += _timed(case)
    sentences.append(_measured_by(case))
    return {
        "best": case.name,
        "status": case.judgement.status,
        "headline": headline(case, size["against"]),
        "next": next_steps(case),
        "tiles": tiles,
        "sentences": sentences,
    }


def headline(case: Case, compared: Phrase) -> Phrase:
    """Return the verdict in one sentence.

    Args:
        case: the best variant.
        compared: its size against another file, in words.
    """
    judgement, name = case.judgement, case.name
    loss = judgement.evidence.counted
    if judgement.status == Status.UNFIT:
        faults = [_about(n, j) for n, j in _unfit(case).items()]
        return say("headline.unfit", faults=listed(faults, "semicolon"), cause=cause(case))
    if judgement.status == Status.UNKNOWN:
        return say("headline.unknown", what=_about(name, judgement))
    given_up = listed(
        [
            _about(other, found)
            for other, found in _judgements(case).items()
            if found.status in (Status.UNFIT, Status.DOUBTFUL) and other != name
        ],
        "semicolon",
    )
    instead = case.variant["build"]["dtype"] == FLOAT16 and given_up
    if judgement.status == Status.FIT:
        if instead:
            return say("headline.instead", name=name, given_up=given_up)
        return say("headline.fit", name=name, lost=lost(loss), compared=compared)
    said = say(
        "headline.not-shown",
        utterances=_utterances(loss.utterances),
        name=name,
        limit=_limit_broken(judgement),
        enough=_enough(judgement),
    )
    return say("headline.not-shown-instead", said=said, given_up=given_up) if instead else said


def next_steps(case: Case) -> list[Phrase]:
    """Return what to do now, given the verdict."""
    judgement, results = case.judgement, case.report["settings"]["results"]
    copy = [say("next.copy", archive=shlex.quote(f"{results}/bundle.tar")), say("next.run")]
    if judgement.status == Status.UNFIT:
        return [say("next.unfit")]
    if judgement.status == Status.UNKNOWN:
        (why,) = judgement.why
        return [say(f"next.{why.replace(' ', '-')}"), *copy]
    instead = _float16_instead(case)
    if judgement.status == Status.FIT:
        return [*instead, *copy]
    more = [say("next.more", needed=judgement.needed)] if judgement.needed else []
    return [*instead, *more, *copy]


def _float16_instead(case: Case) -> list[Phrase]:
    """Return that a float16 variant changes less text in about the same time, where it is so."""
    int8, time, same = case.variant["build"], _chunk_ms(case), _same_texts(case)
    if not time or same is None or (int8.get("int8_macs_share") or 0.0) < NO_INT8:
        return []
    for other in (Case(case.report, name) for name in _judgements(case)):
        float16, longer, more = other.variant["build"], _chunk_ms(other), _same_texts(other)
        refused = len(float16["refusals"]) > len(int8["refusals"])
        if float16["dtype"] != FLOAT16 or refused or more is None or more <= same:
            continue
        # What was measured is not compared with an estimate.
        if not longer or longer[1] != time[1] or longer[0] > time[0] * (1 + EQUAL_TIME):
            continue
        if other.judgement.status in (Status.FIT, Status.NOT_SHOWN):
            megabytes = (float16["bytes"] - int8["bytes"]) / 1e6
            percent = 100 * (longer[0] / time[0] - 1)
            cost = {"percent": percent, "how": time[1], "megabytes": megabytes}
            texts = {"more": more, "same": same, "all": case.report["recognition"]["utterances"]}
            return [say("next.float16", name=other.name, int8=case.name, **cost, **texts)]
    return []


def _same_texts(case: Case) -> int | None:
    """Return in how many utterances a variant gives the float model's text."""
    scores = case.report["recognition"] or {"models": {}}
    return scores["models"].get(case.name, {}).get("same", {}).get("same")


def _chunk_ms(case: Case) -> tuple[float, Phrase] | None:
    """Return how long a chunk takes with a variant, and how that is known."""
    if measured := _on_board(case):
        return measured["median_ms"], say("timed.measured")
    layers = case.report["layers"]
    price = layers["networks"].get(case.name, {}).get("price")
    return (sum(price) / 2, say(TIMED[layers["label"]])) if price else None


def cause(case: Case) -> Phrase:
    """Return the likely cause of a variant that is unfit, as a phrase."""
    variant, report = case.variant, case.report
    for name in _unfit(case):
        if found := overflow(report["variants"][name]):
            return say("cause.overflow", name=name, found=found)
    for fault in sorted(report["suitability"], key=lambda fault: fault["set"]):
        return unsuited(fault)
    clipped = {n: e["outside"] for n, e in variant.get("inputs", {}).items()}
    if clipped and max(clipped.values()) > MUCH_CLIPPED:
        return say("cause.clipped", most=_most(clipped))
    search = variant["build"].get("mixed_precision") or {}
    if "unavailable" in search:
        return say("cause.no-search", why=search["unavailable"])
    if wrong := variant["long_stream"]["wrong"]:
        return say("cause.states", name=wrong[0])
    kinds = {report["variants"][name]["build"]["dtype"] for name in _unfit(case)}
    return say("cause.float16" if "float16" in kinds else "cause.unknown")


def overflow(variant: Mapping[str, Any]) -> Phrase | None:
    """Return what overflows in a variant that gives NaN, as a phrase; None if nothing is known."""
    found = (variant.get("time") or {}).get("overflow")
    if not found:
        return None
    return say("overflow", tensor=found["tensor"], value=found["value"], largest=LARGEST)


def _judgements(case: Case) -> dict[str, Judgement]:
    found = case.report["choice"]["judgements"]
    return {name: Judgement.from_dict(entry) for name, entry in found.items()}


def _unfit(case: Case) -> dict[str, Judgement]:
    found = _judgements(case)
    return {name: entry for name, entry in found.items() if entry.status == Status.UNFIT}


def _about(name: str, judgement: Judgement) -> Phrase:
    """Return what a judgement rests on, as a sentence without its stop."""
    return say("judged", name=name, what=listed(reasons(judgement), "and"))


def _limit_broken(judgement: Judgement) -> Phrase:
    """Return what the audio cannot tell, as a phrase that continues the variant's name."""
    if judgement.why == ("alarms",):
        return say("limit.alarms", count=judgement.limits.most_alarms_gained)
    loss = judgement.evidence.counted
    limit = allowed(loss, judgement.limits)
    if loss.metric == KEYWORDS:
        return say("limit.keywords", count=limit)
    if loss.transcribed:
        return say("limit.points", count=limit, metric=loss.metric)
    return say("limit.text", limit=limit)


def _enough(judgement: Judgement) -> Phrase:
    if judgement.why == ("alarms",):
        return say("enough.hours", hours=judgement.evidence.alarms.hours)
    if judgement.needed is None:
        return say("enough.never")
    return say("enough.count", needed=judgement.needed)


def _doubts(case: Case) -> list[Phrase]:
    """Return what is known of a variant of which nothing is claimed: a sentence, or none."""
    judgement = case.judgement
    if judgement.status != Status.UNKNOWN or not judgement.evidence.chunks:
        return []
    return [say("verdict.doubts", level=_db(judgement.evidence.sqnr_db))]


def _text_figures(case: Case) -> tuple[dict[str, str], list[Phrase]]:
    """Return what the best variant makes of the words: as a tile, and in sentences."""
    scores = case.report["recognition"]
    unit, metric, figures = scores["unit"], case.metric, scores["models"][case.name]
    same, loss = figures["same"], case.judgement.evidence.loss
    texts = say("verdict.same-text", same=same["same"], utterances=_utterances(same["utterances"]))
    if not scores["transcribed"]:
        rate = figures["float"][unit]["rate"]
        said = say("verdict.own-text")
        if loss:
            said = say("verdict.own-text-between", low=loss.low, high=loss.high)
        return _tile(metric, f"{rate:.1f} %", say("tile.own-text")), [texts, said]
    mine = figures["transcript"][unit]
    whole = scores["models"][FLOAT]["transcript"][unit]
    against = say("tile.points", points=mine["difference"]["points"], whole=whole["rate"])
    sentences = [texts]
    if loss:
        chance = loss.points and loss.low <= 0 <= loss.high
        key = "verdict.between-chance" if chance else "verdict.between"
        sentences.insert(0, say(key, metric=metric, low=loss.low, high=loss.high))
    return _tile(metric, f"{mine['rate']:.1f} %", against), sentences


def _time_tile(case: Case) -> list[dict[str, str]]:
    """Return how long a chunk takes on a board: measured there, else estimated, else no tile."""
    report, time = case.report, case.variant.get("time")
    measured = _on_board(case)
    chunk = 10 * report["model"]["chunk_shift"]
    if measured:
        figure, said = f"{measured['median_ms']:.1f} ms", say("tile.measured", ms=chunk)
    elif time and measures.on_board(time["target"]):
        figure, said = f"{time['median_ms']:.1f} ms", say("tile.measured", ms=chunk)
    elif price := report["layers"]["networks"].get(case.name, {}).get("price"):
        figure, said = time_between(Range(*price)), say("tile.estimated", ms=chunk)
    else:
        return []
    return [_tile(say("tile.time", platform=report["settings"]["platform"]), figure, said)]


def keywords(case: Case) -> list[Phrase]:
    """Return what the best variant makes of keywords: a sentence, or none."""
    found = case.report["recognition"] and case.report["recognition"]["keywords"]
    if not found:
        return []
    mine, whole = found["models"][case.name], found["models"][FLOAT]
    return [
        say(
            "verdict.keywords" if found["transcribed"] else "verdict.keywords-own",
            missed=mine["misses"]["errors"],
            said=mine["misses"]["units"],
            missed_float=whole["misses"]["errors"],
            alarms=mine["alarms"],
            alarms_float=whole["alarms"],
            hours=found["hours"],
        )
    ]


def _encoder_tiles(case: Case) -> list[dict[str, str]]:
    build, evidence, tiles = case.variant["build"], case.judgement.evidence, []
    if evidence.chunks:
        said = say("tile.sqnr")
        if evidence.broken_chunks:
            said = say("tile.broken", broken=evidence.broken_chunks, chunks=evidence.chunks)
        tiles.append(_tile(say("tile.encoder"), _db(evidence.sqnr_db), said))
    if (share := build.get("int8_macs_share")) is not None:
        tiles.append(_tile(say("tile.work"), percent(share), say("tile.macs")))
    if build["refusals"]:
        tiles.append(_tile(say("tile.stock"), say("stock.refuses"), build["refusals"][0]))
    else:
        tiles.append(_tile(say("tile.stock"), say("stock.loads"), say("tile.read-back")))
    return tiles


def _size_tile(case: Case) -> dict[str, str]:
    """Return the size of the .rknn file, against a float16 variant's or else the ONNX file's."""
    name, other = say("file.onnx"), case.report["model"]["bytes"]
    for variant, entry in case.report["variants"].items():
        if not entry["failure"] and entry["build"]["dtype"] == "float16" and variant != case.name:
            name, other = say("file.rknn", name=variant), entry["build"]["bytes"]
            break
    size = case.variant["build"]["bytes"]
    return _tile(say("tile.size"), mb(size), _times(size, other, name))


def _times(size: float, other: float, name: Phrase) -> Phrase:
    if 0.95 < size / other < 1.05:
        return say("times.same", name=name)
    if size < other:
        return say("times.smaller", factor=other / size, name=name)
    return say("times.larger", factor=size / other, name=name)


def _tile(what: str, figure: str, against: str) -> dict[str, str]:
    return {"what": what, "figure": figure, "against": against}


def _failures(report: Mapping[str, Any]) -> list[Phrase]:
    return [
        say("failed.built", name=name, why=entry["failure"])
        for name, entry in report["variants"].items()
        if entry["failure"]
    ]


def _timed(case: Case) -> list[Phrase]:
    """Return what a board has shown of the best variant: a sentence or two, or none."""
    board, measured = case.report.get("board"), _on_board(case)
    if not board or not measured:
        return []
    found = [
        say("board.time", board=board["board"], ms=measured["median_ms"], p95=measured["p95_ms"])
    ]
    if board["peak_mb"]:
        found.append(say("board.memory", mb=board["peak_mb"]))
    if board["celsius"] is not None:
        found.append(say("board.celsius", celsius=board["celsius"]))
    first, last = measured["first_ms"], measured["last_ms"]
    if last > SLOWER * first:
        found.append(say("board.slower", first=first, last=last))
    return [listed(found, "sentences")]


def _on_board(case: Case) -> Mapping[str, Any] | None:
    """Return what a board took for a chunk, see `board_result.BoardResult.of`."""
    networks = case.report.get("layers", {}).get("networks", {})
    return networks.get(case.name, {}).get("measured")


def _measured_by(case: Case) -> Phrase:
    time, scores = case.variant.get("time"), case.report["recognition"]
    if time and measures.on_board(time["target"]):
        said = say("measured.board", target=time["target"])
    elif time and time["target"] == measures.EMULATION:
        said = say("measured.emulation")
    else:
        said = say("measured.simulator")
    return say("measured.text" if scores else "measured.no-text", said=said)


def ran_in(variants: Mapping[str, Any]) -> Phrase:
    """Return what ran the variants on this machine, in words; those of a board are left out."""
    names: dict[str, list[str]] = {engine: [] for engine in measures.ENGINES}
    for name, entry in variants.items():
        if (time := entry.get("time")) and not measures.on_board(time["target"]):
            names[time["target"]].append(name)
    simulated, emulated = (listed(names[engine]) for engine in measures.ENGINES)
    if not emulated:
        return say("ran.simulator")
    said = say("ran.emulation", names=emulated)
    return say("ran.both", names=simulated, emulation=said) if simulated else said


# Along a stream


def along_a_stream(variant: Mapping[str, Any]) -> list[Phrase]:
    """Return whether a variant's error grows along a stream: a sentence, or none.

    The long stream says so where there is one; the first and the second half of the utterances
    are no second voice beside it.
    """
    stream, halves = variant["long_stream"], variant["drift"]
    if stream["chunks"]:
        if stream["wrong"]:
            return [say("stream.wrong", seconds=stream["seconds"], what=_went_wrong(stream))]
        return [say("stream.fine", seconds=stream["seconds"])]
    if not halves:
        return []
    change = halves["late_db"] - halves["early_db"]
    grows = math.isfinite(change) and change <= -DRIFT_DB
    key = "stream.grows" if grows else "stream.steady"
    return [say(key, halves=halves_in_words(halves))]


def halves_in_words(halves: Mapping[str, Any]) -> Phrase:
    """Return the SQNR of the first and the second half of the chunks."""
    (first, middle), (after, last) = halves["early"], halves["late"]
    ends = dict(first=first, middle=middle, after=after, last=last)
    return say("stream.halves", early=_db(halves["early_db"]), late=_db(halves["late_db"]), **ends)


def _went_wrong(stream: Mapping[str, Any]) -> Phrase:
    """Return which outputs are wrong over a long stream, and how."""
    return listed(
        say("about", name=name, what=fault_of(stream["outputs"][name], stream["chunks"]))
        for name in stream["wrong"]
    )


def fault_of(output: Mapping[str, Any], chunks: int) -> Phrase:
    """Return what is wrong with an output over a long stream, as a phrase.

    Args:
        output: what `drift.examine` says of it.
        chunks: of the stream.
    """
    if output["broken_chunks"]:
        return say("fault.broken", broken=output["broken_chunks"], chunks=chunks)
    first, last = output["first_db"], output["last_db"]
    if first - last > DRIFT_DB:
        return say("fault.worse", first=first, last=last)
    return say("fault.always", last=last)


def stream_title(name: str, stream: Mapping[str, Any]) -> Phrase:
    """Return the title of the plot over a long stream."""
    if stream["wrong"]:
        counts = dict(wrong=len(stream["wrong"]), outputs=len(stream["outputs"]))
        return say("stream.title-wrong", name=name, **counts)
    return say("stream.title-fine", name=name, duration=duration(stream["seconds"] / 60))


def limited(limit: Mapping[str, Any]) -> Phrase:
    """Return what `counters.counter_limit` has found, in words."""
    return say(
        "stream.limit",
        state=limit["state"],
        exact=duration(limit["exact_minutes"]),
        end=duration(limit["end_minutes"]),
    )


# Warnings


def warnings(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know before relying on the figures."""
    found: list[str] = [say("capital", what=unsuited(f)) for f in report["suitability"]]
    found += _about_restored(report.get("restored", {}))
    found += _about_scores(report["recognition"])
    for name, variant in report["variants"].items():
        found += _about_variant(name, variant)
    for name, audio in report["audio"].items():
        found += _about_files(name, audio)
    if outliers := report["calibration"]["outliers"]:
        found.append(say("warning.outliers", count=outliers))
    return found


def _about_restored(parts: Mapping[str, Mapping[str, Any]]) -> list[Phrase]:
    """Say which parts of the reference were not float32, and how far they are from their files."""
    found = []
    for part, record in parts.items():
        if record["precision"] == "float32":
            continue
        said = [
            say(
                "warning.restored",
                **{name: record[name] for name in ("precision", "evidence")},
                part=part,
            )
        ]
        if "not_compared" in record:
            said.append(say("warning.restored-not-compared"))
        else:
            said.append(say("warning.restored-db", db=record["sqnr_db"], rows=record["rows"]))
        if "rounded_sqnr_db" in record:
            said.append(say("warning.restored-rounding", db=record["rounded_sqnr_db"]))
        found.append(listed(said, "joined"))
    return found


def audio_set(name: str) -> Phrase:
    """Return the name of a set of audio: calibration or evaluation."""
    return say(f"set.{name}")


def unsuited(fault: Mapping[str, Any]) -> Phrase:
    """Return why audio cannot serve, as a phrase; see `suitability.examine`."""
    kind, name = fault["kind"], audio_set(fault["set"])
    if kind == "silent":
        return say("unsuited.silent", silent=fault["silent"], used=fault["used"], name=name)
    if kind == "level":
        other = audio_set("evaluation" if fault["set"] == "calibration" else "calibration")
        low, high = fault["low_db"], fault["high_db"]
        return say("unsuited.level", gap=high - low, low=low, high=high, name=name, other=other)
    if kind == "narrow":
        rates = (fault["calibration_rate"], fault["evaluation_rate"])
        return say("unsuited.narrow", name=name, calibration=rates[0], evaluation=rates[1])
    seconds, needed = fault["seconds"], fault["needed_seconds"]
    return say("unsuited.short", name=name, count=fault["chunks"], seconds=seconds, needed=needed)


def features(kind: str, bins: int) -> Phrase:
    """Return what an encoder is fed with, as a phrase.

    Args:
        kind: `fbank` or `whisper`, see `Contract.features`.
        bins: mel bins.
    """
    return say("features.whisper" if kind == "whisper" else "features.fbank", bins=bins)


def overlap(count: int, evaluation: str, calibration: str) -> Phrase:
    """Return the warning that evaluation audio is also calibrated with."""
    return say("warning.overlap", count=count, evaluation=evaluation, calibration=calibration)


def _about_scores(scores: Mapping[str, Any] | None) -> list[Phrase]:
    if not scores or not scores["transcribed"]:
        return []
    rate = scores["models"][FLOAT]["transcript"][scores["unit"]]["rate"]
    if rate < POOR:
        return []
    return [say("warning.poor", rate=rate, metric=METRICS[scores["unit"]])]


def _about_variant(name: str, variant: Mapping[str, Any]) -> list[str]:
    if variant["failure"]:
        return [say("warning.failed", name=name, why=variant["failure"])]
    build, found = variant["build"], []
    found += [say("warning.refused", name=name, why=reason) for reason in build["refusals"]]
    if variant["broken_chunks"]:
        counts = dict(broken=variant["broken_chunks"], chunks=variant["chunks"])
        broken = say("judged", name=name, what=say("reason.broken", **counts))
        why = overflow(variant)
        found.append(say("because", what=broken, why=why) if why else broken)
    clipped = {n: e["outside"] for n, e in variant["inputs"].items() if e["outside"] > CLIPPED}
    if clipped:
        limit = 100 * CLIPPED
        found.append(
            say("warning.clipped", name=name, count=len(clipped), limit=limit, most=_most(clipped))
        )
    stream = variant["long_stream"]
    if stream["wrong"]:
        seconds = stream["seconds"]
        found.append(say("warning.stream", name=name, seconds=seconds, what=_went_wrong(stream)))
    if inexact := [counter for counter, exact in stream["counters"].items() if not exact]:
        found.append(say("warning.counters", name=name, counters=listed(inexact)))
    if sums := build.get("cumulative_sums"):
        found.append(say("warning.cumsum", name=name, sums=str(sums)))
    checks = (variant.get("time") or {}).get("emulation", [])
    found += [f"{name}: {check['problem']}" for check in checks if "problem" in check][:1]
    return found + _about_search(name, build.get("mixed_precision"))


def _about_search(name: str, search: Mapping[str, Any] | None) -> list[Phrase]:
    """Return whether a search for float16 layers has not reached what it was asked for."""
    if not search:
        return []
    if reason := search.get("unavailable"):
        return [say("warning.unsearched", name=name, why=reason)]
    if search["met"]:
        left = search["steps"][search["chosen"]]["int8_macs_share"]
        return [say("warning.all-float16", name=name)] if left < NO_INT8 else []
    most = 100 * search["most_time_added"]
    return [say("warning.missed", name=name, target=target(search), most=most)]


def _about_files(name: str, audio: Mapping[str, Any]) -> list[Phrase]:
    found = []
    for key, files in (("skipped", audio["skipped"]), ("odd", audio["warnings"])):
        if files:
            what = dict(count=len(files), name=say(f"set-name.{name}"), first=files[0])
            found.append(say(f"warning.{key}", **what))
    return found


def _most(clipped: Mapping[str, float]) -> Phrase:
    worst = max(clipped, key=clipped.__getitem__)
    return say("most", name=worst, share=100 * clipped[worst])


# Titles, and figures in words


def target(search: Mapping[str, Any]) -> Phrase:
    """Return what a search for float16 layers was asked for."""
    asked = []
    if search["target_sqnr"] is not None:
        asked.append(say("target.sqnr", db=search["target_sqnr"]))
    if search["target_wer_loss"] is not None:
        asked.append(say("target.words", share=search["target_wer_loss"]))
    return listed(asked, "and")


def precision_title(name: str, search: Mapping[str, Any]) -> Phrase:
    """Return the title of the curve of a search for float16 layers."""
    taken = search["steps"][search["chosen"]]
    more, level = 100 * taken["time_added"], _db(taken["sqnr_db"])
    key = "precision.title-met" if search["met"] else "precision.title-missed"
    return say(key, name=name, more=more, level=level)


def inputs_title(variant: str, outside: Mapping[str, float]) -> Phrase:
    """Return the title of the inputs' histograms.

    Args:
        variant: the variant whose ranges they are.
        outside: share of the evaluation audio's values outside of the range, by input.
    """
    left = {name: share for name, share in outside.items() if share}
    if not left:
        return say("inputs.title-inside", name=variant, inputs=len(outside))
    worst = max(left, key=left.__getitem__)
    counts = dict(left=len(left), inputs=len(outside), share=share_of(left[worst]))
    return say("inputs.title-outside", name=variant, worst=worst, **counts)


def outputs_title(variant: str, shown: int, exact: int) -> Phrase:
    """Return the title of the plot of the worst outputs."""
    title = say("outputs.title", shown=shown, name=variant)
    return say("outputs.title-exact", title=title, exact=exact) if exact else title


def measure(scores: Mapping[str, Any] | None) -> Phrase:
    """Return by what accuracy is measured, such as word error rate."""
    if not scores:
        return say("measure.sqnr")
    return say(f"measure.{scores['unit']}{'' if scores['transcribed'] else '-own'}")


def summary(report: Mapping[str, Any]) -> list[str]:
    """Return the headline, the figures in one line for each variant, and the error rates."""
    lines = [report["verdict"]["headline"]]
    lines += [_summary_of(name, variant) for name, variant in report["variants"].items()]
    if report["recognition"]:
        lines.append(_summary_of_texts(report["recognition"]))
    return lines


def _summary_of(name: str, variant: Mapping[str, Any]) -> str:
    if variant["failure"]:
        return f"{name}: failed: {variant['failure']}"
    size = mb(variant["build"]["bytes"])
    if not variant["chunks"]:
        return f"{name}: {size}, not evaluated: the evaluation audio gives no chunk"
    parts = []
    for mode in (measures.ONE_STEP, measures.FREE_RUNNING):
        row = variant["encoder_out"][mode]
        if math.isnan(row["sqnr_db"]):
            parts.append(f"NaN or infinity in {row['broken_chunks']} chunks, {mode}")
        else:
            parts.append(f"{_db(row['sqnr_db'])} (cosine {row['cosine']:.5f}) {mode}")
    if variant["broken_chunks"]:
        parts.append(
            overflow(variant) or f"some output broken in {variant['broken_chunks']} chunks"
        )
    said = "cannot use it" if variant["build"]["refusals"] else "loads it"
    share = variant["build"].get("int8_macs_share")
    macs = "" if share is None else f"{percent(share)} of MACs in int8; "
    return (
        f"{name}: encoder output {', '.join(parts)}, {variant['chunks']} chunks; {size}; {macs}"
        f"a stock sherpa-onnx {said}"
    )


def _summary_of_texts(scores: Mapping[str, Any]) -> str:
    """Return the error rates of all models in one line."""
    unit, metric = scores["unit"], METRICS[scores["unit"]]
    rates, units = [], 0
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
        head = f"{metric} on {_utterances(scores['transcribed'])} ({units} {unit}s)"
    else:
        count = _utterances(scores["utterances"])
        head = f"{metric} against the float model's own text on {count} ({units} {unit}s)"
    return f"{head}: {', '.join(rates)}; same text as float: {same}"


def db(value: float | None) -> str:
    """Return a level: `NaN` where the output is broken, nothing where there is none."""
    if value is None:
        return ""
    return "NaN" if math.isnan(value) else say("exact") if value == math.inf else f"{value:.1f} dB"


def _db(value: float | None) -> str:
    return db(math.nan if value is None else value)


def mb(value: float) -> str:
    """Return a size in bytes."""
    return f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def percent(share: float) -> str:
    """Return a share, 0 to 1, as per cent."""
    return f"{100 * share:.1f} %"


def share_of(value: float) -> str:
    """Return a share as per cent with as many digits as it needs to not look like none."""
    if value == 0:
        return "0 %"
    return f"{100 * value:.2f} %" if value >= 5e-5 else f"{100 * value:.1g} %"


def duration(minutes: float) -> Phrase:
    """Return a time as seconds, minutes or hours, whichever reads best."""
    if minutes < 2:
        return say("duration.seconds", value=60 * minutes)
    if minutes < 120:
        return say("duration.minutes", value=minutes)
    return say("duration.hours", value=minutes / 60)


def span(ends: Sequence[float] | None) -> Phrase:
    """Return an interval."""
    return say("range", low=ends[0], high=ends[1]) if ends else say("range.none")


def _utterances(count: int) -> Phrase:
    return say("utterances", count=count)
