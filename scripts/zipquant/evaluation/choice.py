"""Which variant is the best, by a rule, with the reasons in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from zipquant.errors import UserError
from zipquant.evaluation import measures, scores
from zipquant.jobs import files
from zipquant.model.contract import Contract
from zipquant.model.noise import sqnr
from zipquant.recognition import error_rates
from zipquant.variants.record import Build

EQUAL_DB = 0.5
"""Without texts, variants whose encoder outputs differ by no more count as equally accurate."""

EQUAL_SIZE = 0.01
"""Files whose sizes differ by no more than this part count as equally large."""


@dataclass
class Entry:
    """A variant that could be chosen, and what is known of it.

    Attributes:
        variant: its name.
        bytes: size of its .rknn file.
        int8_macs: part of its multiplications that are done in int8, where it is known.
        sqnr_db: of the free-running encoder output; None where nothing was evaluated.
        refusals: why a stock sherpa-onnx refuses it.
        counts: its errors, against the transcripts, or the float model's text where there are none;
            None where no text is made.
        error_rate: what they make, in per cent.
        above: how far its error rate lies above the lowest one, see `scoring.difference`; None for
            that one itself.
        equal: whether it is as accurate as the most accurate one, as far as can be told.
    """

    variant: str
    bytes: int
    int8_macs: float | None = None
    sqnr_db: float | None = None
    refusals: Sequence[str] = ()
    counts: error_rates.Counts | None = None
    error_rate: float | None = None
    above: dict[str, Any] | None = None
    equal: bool = False

    @property
    def inaccuracy(self) -> tuple[float, float]:
        """What the most accurate has least of."""
        return self.error_rate or 0.0, math.inf if self.sqnr_db is None else -self.sqnr_db


def write(
    variants: Sequence[str],
    candidates: Sequence[str],
    builds: Sequence[str | Path],
    evaluations: Sequence[str | Path],
    contract_file: str | Path,
    texts: Sequence[str | Path],
    transcripts: str | Path | None,
    prefer: str,
    loadable: bool,
    output: str | Path,
) -> None:
    """Choose the best variant, and write its name and the reasons as JSON.

    Args:
        variants: names of all variants.
        candidates: those to choose from.
        builds: build.json of each variant.
        evaluations: the evaluation tables, all shards of the first variant, then of the next.
        contract_file: the model's contract.
        texts: tables of `decoding.decode_shard`, all shards of the float model, then of each
            variant; empty where no text is made.
        transcripts: the table of transcripts, see `scores.read_references`, or None.
        prefer: see `decide`.
        loadable: see `decide`.
        output: the file to write: `best`, the name; `measure`, what accuracy was measured by;
            `why`, sentences; `failures`, by variant why it could not be built; `table`, what is
            known of each candidate that was built, the best first.

    Raises:
        UserError: no candidate could be built.
    """
    built = dict(zip(variants, map(Build.load, builds), strict=True))
    failures = {name: build.failure for name, build in built.items() if build.failure}
    left = [name for name in candidates if name not in failures]
    if not left:
        reasons = "; ".join(f"{name} could not be built: {failures[name]}" for name in candidates)
        raise UserError(f"no variant is left to choose from: {reasons}")
    encoder_out = Contract.load(contract_file).encoder_out
    shards = len(evaluations) // len(variants)
    entries = []
    for name in left:
        position, build = variants.index(name), built[name]
        tables = evaluations[position * shards : (position + 1) * shards]
        sqnr = _sqnr(tables, encoder_out)
        entries.append(Entry(name, build.bytes, build.int8_macs_share, sqnr, build.refusals))
    measure = "SQNR of the encoder output"
    if texts:
        found = scores.read([error_rates.FLOAT, *variants], texts)
        measure = count(entries, found, scores.read_references(transcripts))
    ranked, why = decide(entries, measure, prefer, loadable)
    why += [f"{name} could not be built: {failure}" for name, failure in failures.items()]
    table = [
        {
            "variant": entry.variant,
            "bytes": entry.bytes,
            "int8_macs": entry.int8_macs,
            "sqnr_db": entry.sqnr_db,
            "refusals": list(entry.refusals),
            "error_rate": entry.error_rate,
            "above": entry.above,
            "equal": entry.equal,
        }
        for entry in ranked
    ]
    best = ranked[0].variant
    files.write_json(
        output,
        {"best": best, "measure": measure, "why": why, "failures": failures, "table": table},
    )


def count(
    entries: Sequence[Entry],
    texts: Mapping[str, Mapping[str, str]],
    references: Mapping[str, str],
) -> str:
    """Fill in the errors of each entry, all on the same utterances.

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
    for entry in entries:
        got = [texts[entry.variant][name] for name in expected]
        entry.counts = error_rates.count(list(expected.values()), got, unit)
        entry.error_rate = error_rates.rate(entry.counts)["rate"]
    return f"{unit} error rate" + ("" if spoken else " against the float model's text")


def decide(
    entries: Sequence[Entry], measure: str, prefer: str, loadable: bool
) -> tuple[list[Entry], list[str]]:
    """Return the entries, the best first, and sentences that say why it is the best.

    1. Variants that a stock sherpa-onnx refuses come after all others, if `loadable`.
    2. Those whose error rate cannot be told from the lowest come first: the 95 % interval of the
       paired difference reaches down to 0. Without texts, those whose encoder output is within
       `EQUAL_DB` of the highest SQNR.
    3. Of these comes first the one with the smallest file (`prefer` is `size`), or with the largest
       part of its multiplications in int8 (`speed`). Of equals, the one with the highest SQNR.

    Args:
        entries: the candidates; `above` and `equal` are filled in.
        measure: what accuracy is measured by, in words.
        prefer: `size` or `speed`.
        loadable: whether the first rule holds.
    """
    refused = [entry for entry in entries if loadable and entry.refusals]
    taken = [entry for entry in entries if entry not in refused] or list(entries)
    top = min(taken, key=lambda entry: entry.inaccuracy)
    for entry in entries:
        if entry is not top and top.counts is not None:
            entry.above = error_rates.difference(entry.counts, top.counts)
        entry.equal = entry is top or _is_equal(entry, top)
    smallest = min(entry.bytes for entry in taken if entry.equal)

    def order(entry: Entry) -> tuple:
        last = entry not in taken
        if not entry.equal:
            return last, True, entry.inaccuracy
        size = 0 if entry.bytes <= smallest * (1 + EQUAL_SIZE) else entry.bytes
        slowness = -round(entry.int8_macs or 0.0, 2)
        costs = (slowness, size) if prefer == "speed" else (size, slowness)
        return last, False, costs, entry.inaccuracy[1]

    ranked = sorted(entries, key=order)
    why = _reasons(ranked[0], top, taken, measure, prefer)
    if len(refused) == len(entries):
        why.append("a stock sherpa-onnx refuses every candidate, so the choice is among those")
    else:
        why += [
            f"{entry.variant} is passed over, because a stock sherpa-onnx refuses it: "
            + "; ".join(entry.refusals)
            for entry in refused
        ]
    return ranked, why


def _is_equal(entry: Entry, top: Entry) -> bool:
    if entry.above is None:
        return entry.inaccuracy[1] - top.inaccuracy[1] <= EQUAL_DB
    interval = entry.above["interval"]
    return interval is None or interval[0] <= 0


def _reasons(
    best: Entry, top: Entry, taken: Sequence[Entry], measure: str, prefer: str
) -> list[str]:
    """Return the first sentences of the reasons: accuracy, then what decided among equals."""
    if len(taken) == 1:
        return [f"{best.variant} is the only candidate"]
    if top.counts is None:
        figure = "unknown" if top.sqnr_db is None else f"{top.sqnr_db:.1f} dB"
        found = [f"{top.variant} has the highest {measure}, {figure}"]
    else:
        found = [f"{top.variant} has the lowest {measure}, {top.error_rate:.2f} %"]
    for entry in taken:
        if entry is not top:
            verdict = "which is no difference that can be told" if entry.equal else "which is worse"
            found.append(f"{entry.variant} has {_against(entry, top)}, {verdict}")
    equals = [entry for entry in taken if entry.equal]
    if len(equals) > 1:
        what = "is the smallest" if prefer == "size" else "has most of its work in int8"
        sizes = ", ".join(f"{entry.variant} {entry.bytes / 1e6:.2f} MB" for entry in equals)
        found.append(f"of these {len(equals)}, {best.variant} {what} ({sizes})")
    return found


def _against(entry: Entry, top: Entry) -> str:
    if entry.above is None:
        return "no figure" if entry.sqnr_db is None else f"{entry.sqnr_db:.1f} dB"
    interval = entry.above["interval"]
    ends = f" (95 % interval {interval[0]:+.2f} to {interval[1]:+.2f})" if interval else ""
    return f"{entry.above['points']:+.2f} points{ends}"


def _sqnr(tables: Sequence[str | Path], encoder_out: str) -> float | None:
    table = pd.concat([pd.read_parquet(path) for path in tables])
    table = table[(table["output"] == encoder_out) & (table["mode"] == measures.FREE_RUNNING)]
    if not len(table):
        return None
    return float(sqnr(table["signal"].sum(), table["noise"].sum()))
