"""Every sentence that a reader of the report sees."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zipquant.evaluation import measures
from zipquant.evaluation.verdict import METRICS, Judgement, Status, allowed, lost, reasons
from zipquant.model.counters import LARGEST
from zipquant.recognition.error_rates import FLOAT

LABELS = {"rknn": "all three in RKNN"}
"""What the reserved names of models stand for."""

DRIFT_DB = 1.0
"""A fall of the SQNR from the first half of the chunks to the second that is called growing."""

CLIPPED = 1e-3
"""Share of an input's values outside of the calibrated range that is warned of."""

MUCH_CLIPPED = 1e-2
"""Share from which it is a likely cause of a variant that is unfit."""

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
        `tiles`, the main figures as `what`, `figure` and `against`; `sentences`, plain text.
    """
    case = Case(report, report["choice"]["best"])
    tiles, sentences = [], []
    if report["recognition"]:
        tile, sentences = _text_figures(case)
        tiles.append(tile)
    size = _size_tile(case)
    tiles += [size, *_encoder_tiles(case)]
    sentences = [*_doubts(case), *sentences, f"Its file is {_compared_sizes(case)}."]
    sentences += along_a_stream(case.variant)
    sentences += _failures(report)
    sentences.append(_measured_by(case))
    return {
        "best": case.name,
        "status": case.judgement.status,
        "headline": headline(case, size["against"]),
        "tiles": tiles,
        "sentences": sentences,
    }


def headline(case: Case, compared: str) -> str:
    """Return the verdict in one sentence.

    Args:
        case: the best variant.
        compared: its size against another file, in words.
    """
    judgement, name = case.judgement, case.name
    loss = judgement.evidence.loss
    if judgement.status == Status.UNFIT:
        faults = "; ".join(f"{n} {_and(reasons(j))}" for n, j in _unfit(case).items())
        return f"Do not deploy: {faults}. The likely cause: {cause(case)}."
    if judgement.status == Status.UNKNOWN:
        return f"Nothing is claimed: {name} {_and(reasons(judgement))}."
    given_up = [
        f"{other} {_and(reasons(found))}"
        for other, found in _judgements(case).items()
        if found.status in (Status.UNFIT, Status.DOUBTFUL) and other != name
    ]
    instead = case.variant["build"]["dtype"] == "float16" and given_up
    if judgement.status == Status.FIT:
        if instead:
            return f"Deploy {name}: {'; '.join(given_up)}."
        return f"Deploy {name}: it {lost(loss)}; its file is {compared}."
    said = f"Not shown yet: {_utterances(loss.utterances)} cannot tell whether {name} "
    said += f"{_limit_broken(judgement)}; {_enough(judgement)}."
    return f"{said} {'; '.join(given_up)}." if instead else said


def cause(case: Case) -> str:
    """Return the likely cause of a variant that is unfit, as a phrase."""
    variant, report = case.variant, case.report
    for name in _unfit(case):
        if found := overflow(report["variants"][name]):
            return f"{name} overflows: {found}"
    for fault in sorted(report["suitability"], key=lambda fault: fault["set"]):
        return unsuited(fault)
    clipped = {n: e["outside"] for n, e in variant.get("inputs", {}).items()}
    if clipped and max(clipped.values()) > MUCH_CLIPPED:
        return f"the evaluation audio leaves the calibrated ranges ({_most(clipped)})"
    search = variant["build"].get("mixed_precision") or {}
    if "unavailable" in search:
        return f"no search for float16 layers was possible: {search['unavailable']}"
    if wrong := variant["long_stream"]["wrong"]:
        return f"states go wrong, {wrong[0]} first"
    kinds = {report["variants"][name]["build"]["dtype"] for name in _unfit(case)}
    if "float16" in kinds:
        return "it is not int8, since float16 does not do either; read the float model's own text"
    return "not found; the sections Every output and Mixed precision name what is worst"


def overflow(variant: Mapping[str, Any]) -> str | None:
    """Return what overflows in a variant that gives NaN, as a phrase; None if nothing is known."""
    found = (variant.get("time") or {}).get("overflow")
    if not found:
        return None
    return (
        f"the float model's tensor {found['tensor']} reaches {found['value']:,.0f}, and float16 "
        f"ends at {LARGEST:,}"
    )


def _judgements(case: Case) -> dict[str, Judgement]:
    found = case.report["choice"]["judgements"]
    return {name: Judgement.from_dict(entry) for name, entry in found.items()}


def _unfit(case: Case) -> dict[str, Judgement]:
    found = _judgements(case)
    return {name: entry for name, entry in found.items() if entry.status == Status.UNFIT}


def _limit_broken(judgement: Judgement) -> str:
    """Return what the audio cannot tell, as a phrase that continues the variant's name."""
    loss, limit = judgement.evidence.loss, allowed(judgement.evidence.loss, judgement.limits)
    if loss.transcribed:
        return f"loses more than {limit:g} point{'' if limit == 1 else 's'} {loss.metric}"
    return f"changes more than {limit:g} % of the float model's text"


def _enough(judgement: Judgement) -> str:
    if judgement.needed is None:
        return "its loss is as good as the limit, so no number of them would"
    return f"about {judgement.needed:,} would"


def _doubts(case: Case) -> list[str]:
    """Return what is known of a variant of which nothing is claimed: a sentence, or none."""
    judgement = case.judgement
    if judgement.status != Status.UNKNOWN or not judgement.evidence.chunks:
        return []
    level = _db(judgement.evidence.sqnr_db)
    return [f"Its encoder output is at {level}; whether its words are right is not known."]


def _text_figures(case: Case) -> tuple[dict[str, str], list[str]]:
    """Return what the best variant makes of the words: as a tile, and in sentences."""
    scores = case.report["recognition"]
    unit, metric, figures = scores["unit"], case.metric, scores["models"][case.name]
    same, loss = figures["same"], case.judgement.evidence.loss
    texts = (
        f"Its text is the same as the float model's in {same['same']} of "
        f"{_utterances(same['utterances'])}."
    )
    if not scores["transcribed"]:
        rate = figures["float"][unit]["rate"]
        said = "There are no transcripts: error rates are against the float model's own text"
        if loss:
            said += f", between {loss.low:.1f} and {loss.high:.1f} % with 95 % confidence"
        return _tile(metric, f"{rate:.1f} %", "against float's own text"), [texts, f"{said}."]
    mine = figures["transcript"][unit]
    whole = scores["models"][FLOAT]["transcript"][unit]
    points = mine["difference"]["points"]
    sentence = f"{metric} {mine['rate']:.1f} %, float {whole['rate']:.1f} %"
    if loss:
        sentence += (
            f"; the difference lies between {loss.low:+.1f} and {loss.high:+.1f} points with 95 % "
            "confidence"
        )
        if loss.points and loss.low <= 0 <= loss.high:
            sentence += ", so chance alone may make it"
    against = f"{points:+.1f} points; float {whole['rate']:.1f} %"
    return _tile(metric, f"{mine['rate']:.1f} %", against), [f"{sentence}.", texts]


def _encoder_tiles(case: Case) -> list[dict[str, str]]:
    build, evidence, tiles = case.variant["build"], case.judgement.evidence, []
    if evidence.chunks:
        said = "SQNR, on its own states; 10 dB more is a third of the error"
        if evidence.broken_chunks:
            said = f"NaN or infinity in {evidence.broken_chunks} of {evidence.chunks} chunks"
        tiles.append(_tile("encoder output", _db(evidence.sqnr_db), said))
    if (share := build.get("int8_macs_share")) is not None:
        tiles.append(_tile("work in int8", percent(share), "of all multiply-accumulates (MACs)"))
    if build["refusals"]:
        tiles.append(_tile("stock sherpa-onnx", "cannot use it", build["refusals"][0]))
    else:
        tiles.append(_tile("stock sherpa-onnx", "loads it", "types and metadata, read back"))
    return tiles


def _others(case: Case) -> dict[str, float]:
    """Return the sizes of what a variant is compared with, a float16 one first."""
    others = {"the float ONNX file": case.report["model"]["bytes"]}
    for name, entry in case.report["variants"].items():
        if not entry["failure"] and entry["build"]["dtype"] == "float16" and name != case.name:
            others = {f"the .rknn of {name}": entry["build"]["bytes"]} | others
    return others


def _size_tile(case: Case) -> dict[str, str]:
    size = case.variant["build"]["bytes"]
    name, other = next(iter(_others(case).items()))
    return _tile("size of the .rknn", mb(size), f"{_times(size, other)} {name}")


def _compared_sizes(case: Case) -> str:
    size = case.variant["build"]["bytes"]
    words = [f"{_times(size, other)} {name} ({mb(other)})" for name, other in _others(case).items()]
    return f"{mb(size)}, {' and '.join(words)}"


def _times(size: float, other: float) -> str:
    if 0.95 < size / other < 1.05:
        return "about as large as"
    if size < other:
        return f"{other / size:.1f} times smaller than"
    return f"{size / other:.1f} times as large as"


def _tile(what: str, figure: str, against: str) -> dict[str, str]:
    return {"what": what, "figure": figure, "against": against.replace(" %", "\u00a0%")}


def _failures(report: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} could not be built: {entry['failure']}"
        for name, entry in report["variants"].items()
        if entry["failure"]
    ]


def _measured_by(case: Case) -> str:
    time, scores = case.variant.get("time"), case.report["recognition"]
    if time and measures.on_board(time["target"]):
        said = f"The encoder was measured on a board ({time['target']}), all else in the simulator"
    elif time and time["target"] == measures.EMULATION:
        said = (
            "The encoder was measured in an emulation that was checked against the simulator, all "
            "else in the simulator"
        )
    else:
        said = "All figures are measured in the simulator"
    how = ", the error rates with greedy search." if scores else "; no text was made."
    return f"{said} of rknn-toolkit2{how}"


def ran_in(variants: Mapping[str, Any]) -> str:
    """Return what ran the variants on this machine, in words; those of a board are left out."""
    names: dict[str, list[str]] = {engine: [] for engine in measures.ENGINES}
    for name, entry in variants.items():
        if (time := entry.get("time")) and not measures.on_board(time["target"]):
            names[time["target"]].append(name)
    simulated, emulated = (", ".join(names[engine]) for engine in measures.ENGINES)
    if not emulated:
        return "the simulator"
    first = f"the simulator ({simulated}), or " if simulated else ""
    return (
        f"{first}an emulation ({emulated}) that was checked on a share of the audio against the "
        "simulator"
    )


# Along a stream


def along_a_stream(variant: Mapping[str, Any]) -> list[str]:
    """Return whether a variant's error grows along a stream: a sentence, or none.

    The long stream says so where there is one; the first and the second half of the utterances
    are no second voice beside it.
    """
    stream, halves = variant["long_stream"], variant["drift"]
    if stream["chunks"]:
        if stream["wrong"]:
            return [f"Over a stream of {stream['seconds']:.0f} s, {_went_wrong(stream)}."]
        return [f"Over a stream of {stream['seconds']:.0f} s no output goes wrong."]
    if not halves:
        return []
    change = halves["late_db"] - halves["early_db"]
    grows = math.isfinite(change) and change <= -DRIFT_DB
    said = "grows along a stream" if grows else "does not grow along a stream"
    return [f"Its error {said}: {halves_in_words(halves)}."]


def halves_in_words(halves: Mapping[str, Any]) -> str:
    """Return the SQNR of the first and the second half of the chunks."""
    (first, middle), (after, last) = halves["early"], halves["late"]
    return (
        f"{_db(halves['early_db'])} in chunks {first} to {middle}, {_db(halves['late_db'])} in "
        f"chunks {after} to {last}"
    )


def _went_wrong(stream: Mapping[str, Any]) -> str:
    """Return which outputs are wrong over a long stream, and how."""
    return ", ".join(
        f"{name} {fault_of(stream['outputs'][name], stream['chunks'])}" for name in stream["wrong"]
    )


def fault_of(output: Mapping[str, Any], chunks: int) -> str:
    """Return what is wrong with an output over a long stream, as a phrase.

    Args:
        output: what `drift.examine` says of it.
        chunks: of the stream.
    """
    if output["broken_chunks"]:
        return f"is NaN or infinite in {output['broken_chunks']} of {chunks} chunks"
    first, last = output["first_db"], output["last_db"]
    if first - last > DRIFT_DB:
        return f"gets worse, from {first:.1f} to {last:.1f} dB"
    return f"is wrong from the start, {last:.1f} dB"


def stream_title(name: str, stream: Mapping[str, Any]) -> str:
    """Return the title of the plot over a long stream."""
    if stream["wrong"]:
        return f"{name}: {len(stream['wrong'])} of {len(stream['outputs'])} outputs go wrong"
    return f"{name}: no output goes wrong over {duration(stream['seconds'] / 60)}"


def limited(limit: Mapping[str, Any]) -> str:
    """Return what `counters.counter_limit` has found, in words."""
    return (
        f"{limit['state']} counts the frames of a stream in float16: exactly for "
        f"{duration(limit['exact_minutes'])}, then rounded; after "
        f"{duration(limit['end_minutes'])} it overflows. End a stream before that, and "
        "begin a new one with all states zero."
    )


# Warnings


def warnings(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know before relying on the figures."""
    found = [_capital(unsuited(fault)) for fault in report["suitability"]]
    found += _about_restored(report.get("restored", {}))
    found += _about_scores(report["recognition"])
    for name, variant in report["variants"].items():
        found += _about_variant(name, variant)
    for name, audio in report["audio"].items():
        found += _about_files(name, audio)
    if outliers := report["calibration"]["outliers"]:
        found.append(
            f"{outliers} chunks of calibration audio look broken and were left out; see "
            "calibration/outliers.tsv"
        )
    return found


def _about_restored(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which parts of the reference were not float32, and how far they are from their files."""
    found = []
    for part, record in parts.items():
        if record["precision"] == "float32":
            continue
        words = (
            f"The reference is a restored model: its {part} was {record['precision']} "
            f"({record['evidence']}) and was turned back into float32, so what that file had lost "
            "before is in all figures"
        )
        if "not_compared" in record:
            words += "; onnxruntime cannot run the file, so the two were not compared"
        else:
            words += f". The two differ by {record['sqnr_db']:.1f} dB on {record['rows']} rows"
        if "rounded_sqnr_db" in record:
            words += (
                ", which is the rounding of the file's activations: with it put back it is "
                f"{record['rounded_sqnr_db']:.1f} dB"
            )
        found.append(words)
    return found


def unsuited(fault: Mapping[str, Any]) -> str:
    """Return why audio cannot serve, as a phrase; see `suitability.examine`."""
    name = f"the {fault['set']} audio"
    if fault["kind"] == "silent":
        return f"{fault['silent']} of {fault['used']} files of {name} are silent"
    if fault["kind"] == "level":
        other = "evaluation" if fault["set"] == "calibration" else "calibration"
        return (
            f"{name} is {fault['high_db'] - fault['low_db']:.0f} dB quieter than the {other} audio "
            f"({fault['low_db']:.0f} and {fault['high_db']:.0f} dB of full scale)"
        )
    if fault["kind"] == "narrow":
        return (
            f"{name} is of a narrower band: the calibration audio has "
            f"{fault['calibration_rate']} Hz, the evaluation audio {fault['evaluation_rate']} Hz"
        )
    return (
        f"the files of {name} are too short to fill the states: the longest has {fault['chunks']} "
        f"chunk{'' if fault['chunks'] == 1 else 's'} ({fault['seconds']:.1f} s), and caches and "
        f"means need about {fault['needed_seconds']:.1f} s"
    )


def features(kind: str, bins: int) -> str:
    """Return what an encoder is fed with, as a phrase.

    Args:
        kind: `fbank` or `whisper`, see `Contract.features`.
        bins: mel bins.
    """
    if kind == "whisper":
        return f"Whisper's of {bins} bins, normalised in each chunk as sherpa-onnx does it"
    return f"log-mel of {bins} bins, natural logarithms as in sherpa-onnx"


def overlap(count: int, evaluation: str, calibration: str) -> str:
    """Return the warning that evaluation audio is also calibrated with."""
    return (
        f"{count} evaluation utterance(s) have the content of calibration audio, so the figures "
        f"look better than they are; the first is {evaluation} (the same as {calibration})"
    )


def _about_scores(scores: Mapping[str, Any] | None) -> list[str]:
    if not scores or not scores["transcribed"]:
        return []
    rate = scores["models"][FLOAT]["transcript"][scores["unit"]]["rate"]
    if rate < POOR:
        return []
    return [
        f"The float model itself has {rate:.0f} % {METRICS[scores['unit']]}: look at the audio, "
        "the transcripts and the tokens before the variants"
    ]


def _about_variant(name: str, variant: Mapping[str, Any]) -> list[str]:
    if variant["failure"]:
        return [f"variant {name} could not be built: {variant['failure']}"]
    build, found = variant["build"], []
    found += [f"a stock sherpa-onnx cannot use {name}: {reason}" for reason in build["refusals"]]
    if variant["broken_chunks"]:
        why = f": {overflow(variant)}" if overflow(variant) else ""
        found.append(
            f"{name} gives NaN or infinity in {variant['broken_chunks']} of {variant['chunks']} "
            f"chunks{why}"
        )
    clipped = {n: e["outside"] for n, e in variant["inputs"].items() if e["outside"] > CLIPPED}
    if clipped:
        found.append(
            f"{name}: {len(clipped)} inputs have more than {100 * CLIPPED:g} % of the evaluation "
            f"audio's values outside of the calibrated range ({_most(clipped)}); calibrate with "
            "more audio like it, or more rows"
        )
    stream = variant["long_stream"]
    if stream["wrong"]:
        found.append(f"{name}, over a stream of {stream['seconds']:.0f} s: {_went_wrong(stream)}")
    if inexact := [counter for counter, exact in stream["counters"].items() if not exact]:
        found.append(f"{name} counts wrong: {', '.join(inexact)}")
    if sums := build.get("cumulative_sums"):
        found.append(f"{name} has CumSum left, which RK3588 boards compute wrong: {sums}")
    checks = (variant.get("time") or {}).get("emulation", [])
    found += [f"{name}: {check['problem']}" for check in checks if "problem" in check][:1]
    return found + _about_search(name, build.get("mixed_precision"))


def _about_search(name: str, search: Mapping[str, Any] | None) -> list[str]:
    """Return whether a search for float16 layers has not reached what it was asked for."""
    if not search:
        return []
    if reason := search.get("unavailable"):
        return [f"{name}: the layers that need float16 were not searched: {reason}"]
    if search["met"]:
        return []
    return [
        f"{name} misses its target ({target(search)}): no choice that leaves "
        f"{100 * search['least_int8_macs']:g} % of the MACs in int8 is enough, and the best of "
        "them was taken. Lower mixed_precision.least_int8_macs or the target, or calibrate with "
        "other rows"
    ]


def _about_files(name: str, audio: Mapping[str, Any]) -> list[str]:
    found = []
    if audio["skipped"]:
        found.append(
            f"{len(audio['skipped'])} {name} file(s) were left out; the first: "
            f"{audio['skipped'][0]}"
        )
    if audio["warnings"]:
        found.append(
            f"{len(audio['warnings'])} {name} file(s) are used, but look odd; the first: "
            f"{audio['warnings'][0]}"
        )
    return found


def _most(clipped: Mapping[str, float]) -> str:
    worst = max(clipped, key=clipped.__getitem__)
    return f"{worst} the most, {100 * clipped[worst]:.1f} %"


# Titles, and figures in words


def target(search: Mapping[str, Any]) -> str:
    """Return what a search for float16 layers was asked for."""
    asked = []
    if search["target_sqnr"] is not None:
        asked.append(f"an SQNR of at least {search['target_sqnr']:g} dB")
    if search["target_wer_loss"] is not None:
        asked.append(f"at most {search['target_wer_loss']:g} % of words lost")
    return " and ".join(asked)


def precision_title(name: str, search: Mapping[str, Any]) -> str:
    """Return the title of the curve of a search for float16 layers."""
    taken = search["steps"][search["chosen"]]
    said = "which meets" if search["met"] else "which misses"
    return (
        f"{name}: {percent(taken['int8_macs_share'])} of the work in int8 gives "
        f"{_db(taken['sqnr_db'])}, {said} the target"
    )


def inputs_title(variant: str, outside: Mapping[str, float]) -> str:
    """Return the title of the inputs' histograms.

    Args:
        variant: the variant whose ranges they are.
        outside: share of the evaluation audio's values outside of the range, by input.
    """
    left = {name: share for name, share in outside.items() if share}
    if not left:
        return f"{variant}: all {len(outside)} inputs stay within the calibrated range"
    worst = max(left, key=left.__getitem__)
    return (
        f"{variant}: {len(left)} of {len(outside)} inputs leave the calibrated range, {worst} "
        f"with {share_of(left[worst])} of its values"
    )


def outputs_title(variant: str, shown: int, exact: int) -> str:
    """Return the title of the plot of the worst outputs."""
    title = f"SQNR of the {shown} worst outputs of {variant}"
    return f"{title}; {exact} are exact and left out" if exact else title


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
    return "NaN" if math.isnan(value) else "exact" if value == math.inf else f"{value:.1f} dB"


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


def duration(minutes: float) -> str:
    """Return a time as seconds, minutes or hours, whichever reads best."""
    if minutes < 2:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def span(ends: Sequence[float] | None) -> str:
    """Return an interval."""
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "none seen"


def _utterances(count: int) -> str:
    return f"{count:,} utterance{'' if count == 1 else 's'}"


def _and(phrases: Sequence[str]) -> str:
    return " and ".join(phrases)


def _capital(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]
