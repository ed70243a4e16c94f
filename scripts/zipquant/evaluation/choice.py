"""Which variant is the best, by a rule, with the reasons in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from zipquant.errors import UserError
from zipquant.evaluation import board_result, keyword_scores, measures, scores
from zipquant.evaluation.board_result import BoardResult
from zipquant.evaluation.verdict import (
    KEYWORDS,
    USELESS,
    Evidence,
    Judgement,
    Limits,
    Status,
    alarms_of,
    judge,
    loss_of,
    reasons,
)
from zipquant.jobs import files
from zipquant.model.contract import Contract
from zipquant.phrases import Phrase, listed, say, time_between
from zipquant.recognition import error_rates
from zipquant.toolkit import layer_costs
from zipquant.toolkit.layer_costs import Costs, Range
from zipquant.toolkit.layer_table import Table
from zipquant.toolkit.platforms import FLOAT16
from zipquant.variants.record import Build

EQUAL_DB = 0.5
"""Without texts, variants whose encoder outputs differ by no more count as equally accurate."""

EQUAL_SIZE = 0.01
"""Files whose sizes differ by no more than this part count as equally large."""


MEASURED = "measured"
TIMED = {layer_costs.ESTIMATED: "estimated", layer_costs.OWN: "own"}
"""How the time of a chunk is known; what is estimated, by the label of its costs."""

SOUND = (Status.FIT, Status.NOT_SHOWN, Status.UNKNOWN)
"""What is known of variants of which any may be taken."""

UNSEEN = Evidence(chunks=0)


@dataclass(frozen=True)
class Rule:
    """Which of several good variants is taken, the section `choose` of the settings.

    Attributes:
        prefer: `size` for the smallest file, `speed` for the least time for a chunk.
        loadable: whether what a stock sherpa-onnx refuses comes after all else.
    """

    prefer: str = "size"
    loadable: bool = True


@dataclass(frozen=True)
class Models:
    """The variants of a run.

    Attributes:
        names: their names.
        builds: build.json of each.
        evaluations: the evaluation tables, all shards of the first variant, then of the next.
        times: what ran them and how long chunks took, in the same order.
        layers: the table of layers of each.
        keywords: names of the keywords that are looked for; empty for none.
        heard: files of `spotting.spot_shard`, all shards of the float model, then of each variant;
            empty likewise.
        board_result: what was measured on a board, see `board_result.read`; None for nothing.
    """

    names: Sequence[str]
    builds: Sequence[str | Path]
    evaluations: Sequence[str | Path]
    times: Sequence[str | Path]
    layers: Sequence[str | Path]
    keywords: Sequence[str] = ()
    heard: Sequence[str | Path] = ()
    board_result: str | Path | None = None

    def tables(self, position: int) -> Sequence[str | Path]:
        """Return the evaluation tables of one variant."""
        return self.evaluations[self._shards(position)]

    def time(self, position: int, costs: Costs | None) -> tuple[Range | None, str]:
        """Return the time for a chunk of one variant, and its source: a board, else estimated."""
        found = [files.read_json(path) for path in self.times[self._shards(position)]]
        measured = [
            entry["median_ms"]
            for entry in found
            if entry.get("chunks") and measures.on_board(entry["target"])
        ]
        if measured:
            return Range(min(measured), max(measured)), MEASURED
        if not costs:
            return None, ""
        return layer_costs.price(Table.read(self.layers[position]), costs), TIMED[costs.label]

    def _shards(self, position: int) -> slice:
        shards = len(self.evaluations) // len(self.names)
        return slice(position * shards, (position + 1) * shards)


@dataclass
class Entry:
    """A variant that could be chosen, and what is known of it.

    Attributes:
        variant: its name.
        bytes: size of its .rknn file.
        int8_macs: part of its multiplications that are done in int8, where it is known.
        chunk_ms: how long a chunk takes, where it is known.
        timed: how that is known: `MEASURED`, or one of `TIMED`.
        quantized: whether it is; float16 is taken only if no quantized variant will do.
        refusals: why a stock sherpa-onnx refuses it.
        evidence: what was measured of it.
        judgement: what follows from that.
        counts: its errors, against the transcripts, or the float model's text where there are none;
            None where no text is made.
        error_rate: what they make, in per cent.
        above: how far its error rate lies above the lowest one, see `error_rates.difference`; None
            for that one itself.
        equal: whether it is as accurate as the most accurate one, as far as the audio shows.
    """

    variant: str
    bytes: int
    int8_macs: float | None = None
    quantized: bool = True
    refusals: Sequence[str] = ()
    evidence: Evidence = UNSEEN
    judgement: Judgement | None = None
    counts: error_rates.Counts | None = None
    error_rate: float | None = None
    above: dict[str, Any] | None = None
    equal: bool = False
    chunk_ms: Range | None = None
    timed: str = ""

    @property
    def sqnr_db(self) -> float | None:
        """Of the free-running encoder output; None where it is not known."""
        return self.evidence.sqnr_db

    @property
    def status(self) -> Status:
        """How fit it is."""
        return self.judgement.status if self.judgement else Status.UNKNOWN

    @property
    def inaccuracy(self) -> tuple[float, float]:
        """What the most accurate has least of."""
        return self.error_rate or 0.0, math.inf if self.sqnr_db is None else -self.sqnr_db

    def row(self) -> dict[str, Any]:
        """Return what the report shows of it."""
        exact = self.sqnr_db == math.inf
        return {
            "variant": self.variant,
            "status": self.status,
            "bytes": self.bytes,
            "int8_macs": self.int8_macs,
            # JSON has no infinity.
            "sqnr_db": None if exact else self.sqnr_db,
            "refusals": list(self.refusals),
            "error_rate": self.error_rate,
            "above": self.above,
            "equal": self.equal,
        }


def write(
    models: Models,
    contract_file: str | Path,
    texts: Sequence[str | Path],
    transcripts: str | Path | None,
    rule: Rule,
    limits: Limits,
    costs: Costs | None,
    output: str | Path,
) -> None:
    """Choose the best variant, and write its name and the reasons as JSON.

    Args:
        models: the variants and what was measured of them.
        contract_file: the model's contract.
        texts: tables of `decoding.decode_shard`, all shards of the float model, then of each
            variant; empty where no text is made.
        transcripts: the table of transcripts, see `scores.read_references`, or None.
        rule: which of several good variants is taken.
        limits: what makes a variant unfit for use.
        costs: of the board, to estimate times with that were not measured; None for no estimates.
        output: the file to write: `best`, the name; `status`, how fit it is, see `verdict.Status`;
            `measure`, what accuracy was measured by; `why`, sentences; `phrases`, these for other
            languages, see `Phrase.as_dict`; `failures`, by variant why it could not be built;
            `judgements`, by variant what `verdict.judge` says; `table`, what is known of each
            variant that was built, the best first.

    Raises:
        UserError: no variant could be built.
    """
    built = dict(zip(models.names, map(Build.load, models.builds), strict=True))
    failures = {name: build.failure for name, build in built.items() if build.failure}
    failed = [say("failed.built", name=name, why=failure) for name, failure in failures.items()]
    if len(failed) == len(built):
        raise UserError(f"no variant is left to choose from: {'; '.join(failed)}")
    unsearched = [
        say("choice.no-search", name=name, why=build.mixed_precision["unavailable"])
        for name, build in built.items()
        if "unavailable" in (build.mixed_precision or {})
    ]
    contract = Contract.load(contract_file)
    entries = []
    for position, (name, build) in enumerate(built.items()):
        if name not in failures:
            quantized = build.dtype != FLOAT16
            entry = Entry(name, build.bytes, build.int8_macs_share, quantized, build.refusals)
            entry.evidence = evidence(models.tables(position), contract.encoder_out)
            entry.chunk_ms, entry.timed = models.time(position, costs)
            entries.append(entry)
    if models.board_result:
        take_board_result(entries, board_result.read(models.board_result), built)
    measure = say("measure.sqnr")
    if texts:
        found = scores.read([error_rates.FLOAT, *models.names], texts)
        measure = count(entries, found, scores.read_references(transcripts))
    if models.keywords:
        count_keywords(entries, models, scores.read_references(transcripts))
    for entry in entries:
        entry.judgement = judge(entry.evidence, limits)
    ranked, why = decide(entries, measure, rule)
    why += [*failed, *unsearched]
    best = ranked[0]
    files.write_json(
        output,
        {
            "best": best.variant,
            "status": best.judgement.status,
            "measure": measure,
            "why": why,
            "phrases": [phrase.as_dict() for phrase in why],
            "failures": failures,
            "judgements": {entry.variant: entry.judgement.as_dict() for entry in ranked},
            "table": [entry.row() for entry in ranked],
        },
    )


def take_board_result(
    entries: Sequence[Entry], found: BoardResult, builds: Mapping[str, Build]
) -> None:
    """Put the times that a board has shown in place of others.

    Raises:
        UserError: it is of another encoder.
    """
    hashes = {entry.variant: builds[entry.variant].rknn_sha256 for entry in entries}
    found.check_encoder(hashes.values())
    for entry in entries:
        if measured := found.of(hashes[entry.variant]):
            entry.chunk_ms = Range(measured["median_ms"], measured["median_ms"])
            entry.timed = MEASURED


def evidence(tables: Sequence[str | Path], encoder_out: str) -> Evidence:
    """Return what the evaluation tables of a variant say of it, without its text.

    Args:
        tables: those of all shards.
        encoder_out: name of the encoder output.
    """
    table = pd.concat([pd.read_parquet(path) for path in tables])
    table = table[table["mode"] == measures.FREE_RUNNING]
    chunks = table.groupby(["utterance", "chunk"])["broken"].sum()
    if not len(chunks):
        return Evidence(0)
    row = measures.summarize(table[table["output"] == encoder_out], ["mode"]).iloc[0]
    sqnr_db = None if math.isnan(row["sqnr_db"]) else float(row["sqnr_db"])
    return Evidence(len(chunks), int((chunks > 0).sum()), sqnr_db)


def count(
    entries: Sequence[Entry],
    texts: Mapping[str, Mapping[str, str]],
    references: Mapping[str, str],
) -> Phrase:
    """Fill in the errors and the loss of each entry, all on the same utterances.

    Args:
        entries: those to fill in.
        texts: text by utterance id, by model.
        references: transcript by utterance id; without any, the float model's text is taken.

    Returns:
        What was counted, in words.
    """
    own = texts[error_rates.FLOAT]
    spoken = {name: references[name] for name in sorted(own) if references.get(name)}
    expected = spoken or {name: own[name] for name in sorted(own)}
    unit = error_rates.unit_of(expected.values())
    said = list(expected.values())
    baseline = error_rates.count(said, [own[name] for name in expected], unit)
    unmeasured = "no words" if not baseline.units.sum() else ""
    if error_rates.rate(baseline)["rate"] >= USELESS:
        unmeasured = unmeasured or "float fails"
    for entry in entries:
        got = [texts[entry.variant][name] for name in expected]
        entry.counts = error_rates.count(said, got, unit)
        entry.error_rate = error_rates.rate(entry.counts)["rate"]
        loss = None if unmeasured else loss_of(entry.counts, baseline, unit, bool(spoken))
        entry.evidence = replace(entry.evidence, loss=loss, unmeasured=unmeasured)
    return say(f"measure.{unit}{'' if spoken else '-own'}")


def count_keywords(entries: Sequence[Entry], models: Models, references: Mapping[str, str]) -> None:
    """Fill in what each entry loses in keywords.

    Args:
        entries: those to fill in.
        models: the variants, with what was heard.
        references: see `keyword_scores.tally`.
    """
    heard = keyword_scores.read_models([error_rates.FLOAT, *models.names], models.heard)
    heard = {name: heard[name] for name in (error_rates.FLOAT, *(e.variant for e in entries))}
    found = keyword_scores.tally(heard, models.keywords, references)
    own, transcribed = found[error_rates.FLOAT], any(map(references.get, heard[error_rates.FLOAT]))
    for entry in entries:
        misses, missed = found[entry.variant].misses, None
        if misses.units.sum():
            missed = loss_of(misses, own.misses, KEYWORDS, transcribed)
        alarms = alarms_of(found[entry.variant].false, own.false)
        entry.evidence = replace(entry.evidence, missed=missed, alarms=alarms)


def decide(
    entries: Sequence[Entry], measure: Phrase, rule: Rule
) -> tuple[list[Entry], list[Phrase]]:
    """Return the entries, the best first, and sentences that say why it is the best.

    1. A quantized variant is taken unless all are unfit and a float16 one is not, or all are
       doubtful and a float16 one is shown to be fit. Among those left, one that is unfit or
       doubtful is taken only if all are.
    2. Variants that a stock sherpa-onnx refuses come after the others, if `loadable`.
    3. Those whose error rate does not differ from the lowest come first: the 95 % interval of the
       paired difference reaches down to 0. Without texts, those whose encoder output is within
       `EQUAL_DB` of the highest SQNR.
    4. Of these comes first the one with the smallest file (`prefer` is `size`), or with the least
       time for a chunk (`speed`); where that is not known of all of them, with the largest part of
       its multiplications in int8. Of equals, the one with the highest SQNR.

    Args:
        entries: the candidates; `above` and `equal` are filled in.
        measure: what accuracy is measured by, in words.
        rule: see `Rule`.
    """
    pool = _pool(entries)
    refused = [entry for entry in pool if rule.loadable and entry.refusals]
    taken = [entry for entry in pool if entry not in refused] or pool
    top = min(taken, key=lambda entry: entry.inaccuracy)
    for entry in entries:
        if entry is not top and top.counts is not None:
            entry.above = error_rates.difference(entry.counts, top.counts)
        entry.equal = entry is top or _is_equal(entry, top)
    equals = [entry for entry in taken if entry.equal]
    smallest = min(entry.bytes for entry in equals)
    fastest = min(map(_slowness, equals)) if _is_timed(equals) else None

    def order(entry: Entry) -> tuple:
        last = (entry not in taken) + (entry not in pool)
        if not entry.equal:
            return last, True, entry.inaccuracy
        size = 0 if entry.bytes <= smallest * (1 + EQUAL_SIZE) else entry.bytes
        if fastest is None or entry.chunk_ms is None:
            slowness = -round(entry.int8_macs or 0.0, 2)
        else:
            slowness = _slowness(entry)
            slowness = 0 if slowness <= fastest * (1 + layer_costs.EQUAL_TIME) else slowness
        costs = (slowness, size) if rule.prefer == "speed" else (size, slowness)
        return last, False, costs, entry.inaccuracy[1]

    ranked = sorted(entries, key=order)
    if len(taken) == 1:
        why = [_alone(ranked[0], entries)]
    else:
        why = _reasons(ranked[0], top, taken, measure, rule.prefer)
    why += [
        say("judged", name=entry.variant, what=reason)
        for entry in ranked
        for reason in _faults(entry)
    ]
    if len(refused) == len(pool):
        why.append(say("choice.all-refused"))
    else:
        why += [
            say("choice.refused", name=entry.variant, why=listed(entry.refusals, "semicolon"))
            for entry in refused
        ]
    return ranked, why


def _pool(entries: Sequence[Entry]) -> list[Entry]:
    """Return those that the choice is among, see `decide`."""
    quantized = [entry for entry in entries if entry.quantized]
    float16 = [entry for entry in entries if not entry.quantized]
    least = min(map(_fault, quantized), default=None)
    other = min(map(_fault, float16), default=None)
    shown = any(entry.status == Status.FIT for entry in float16)
    gives_way = least is None or (least == 2 and other is not None and other < 2)
    if gives_way or (least == 1 and shown):
        return [entry for entry in float16 if _fault(entry) == other]
    return [entry for entry in quantized if _fault(entry) == least]


def _fault(entry: Entry) -> int:
    """Return how much stands against a variant: 0 nothing, 1 doubt, 2 a limit that it breaks."""
    return 0 if entry.status in SOUND else 1 if entry.status == Status.DOUBTFUL else 2


def _faults(entry: Entry) -> list[Phrase]:
    """Return why a variant is unfit or doubtful, as phrases."""
    known = entry.judgement is not None and entry.status not in SOUND
    return reasons(entry.judgement) if known else []


def _is_timed(entries: Sequence[Entry]) -> bool:
    return all(entry.chunk_ms for entry in entries)


def _slowness(entry: Entry) -> float:
    """Return the middle of what a chunk may take, by which variants are compared."""
    return sum(entry.chunk_ms) / 2


def _is_equal(entry: Entry, top: Entry) -> bool:
    if entry.above is None:
        return entry.inaccuracy[1] - top.inaccuracy[1] <= EQUAL_DB
    interval = entry.above["interval"]
    return interval is None or interval[0] <= 0


def _reasons(
    best: Entry, top: Entry, taken: Sequence[Entry], measure: Phrase, prefer: str
) -> list[Phrase]:
    """Return the first sentences of the reasons: accuracy, then what decided among equals."""
    if top.counts is None:
        level = _decibel(top.sqnr_db)
        found = [say("choice.highest", name=top.variant, measure=measure, level=level)]
    else:
        rate = top.error_rate
        found = [say("choice.lowest", name=top.variant, measure=measure, rate=rate)]
    for entry in taken:
        if entry is not top:
            key = "choice.equal" if entry.equal else "choice.worse"
            found.append(say(key, name=entry.variant, figure=_against(entry, top)))
    equals = [entry for entry in taken if entry.equal]
    if len(equals) > 1:
        what, figures = say("choice.smallest"), [f"{e.bytes / 1e6:.2f} MB" for e in equals]
        if prefer == "speed" and _is_timed(equals):
            sources = [say(f"timed.{entry.timed}") for entry in equals]
            what = say("choice.fastest", how=listed(dict.fromkeys(sources), "or"))
            figures = [time_between(entry.chunk_ms) for entry in equals]
        elif prefer == "speed":
            what = say("choice.most-int8")
        said = listed(
            say("about", name=entry.variant, what=figure)
            for entry, figure in zip(equals, figures, strict=True)
        )
        found.append(
            say("choice.of-these", count=len(equals), name=best.variant, what=what, said=said)
        )
    return found


def _alone(best: Entry, entries: Sequence[Entry]) -> Phrase:
    """Return why a variant stands alone, as a sentence."""
    if len(entries) == 1:
        return say("choice.only", name=best.variant)
    if not best.quantized and any(entry.quantized for entry in entries):
        return say("choice.no-quantized", name=best.variant)
    others = [entry for entry in entries if entry.quantized == best.quantized]
    if best.quantized:
        left = "choice.only-quantized-left" if len(others) > 1 else "choice.only-quantized"
    else:
        left = "choice.only-left" if len(others) > 1 else "choice.only"
    return say(left, name=best.variant)


def _decibel(value: float | None) -> str:
    if value is None:
        return say("unknown")
    return say("exact") if value == math.inf else f"{value:.1f} dB"


def _against(entry: Entry, top: Entry) -> str:
    if entry.above is None:
        return _decibel(entry.sqnr_db)
    points, interval = entry.above["points"], entry.above["interval"]
    if not interval:
        return say("points", points=points)
    return say("points-between", points=points, low=interval[0], high=interval[1])
