"""Which chunks calibrate: one global sample over all shards, drawn by a strategy."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from zipquant.calibration import ranges
from zipquant.calibration.outliers import OutlierLimits, find_limits
from zipquant.calibration.strategies import STRATEGIES, Chunk
from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.model.contract import Contract
from zipquant.traces import chunk_table


@dataclass(frozen=True)
class Draw:
    """How a sample is drawn.

    Attributes:
        strategy: a key of `STRATEGIES`.
        rows: how many chunks at most.
        seed: another seed draws another sample.
        guard: whether chunks of broken audio are left out; not with features in other units than
            the runtime's, in which the limits are made.
    """

    strategy: str
    rows: int
    seed: int
    guard: bool = True


def sample(
    tables: Sequence[str | Path],
    contract_file: str | Path,
    output: str | Path,
    coverage_file: str | Path,
    outliers_file: str | Path,
    draw: Draw,
) -> None:
    """Draw the calibration sample and write it as TSV, one chunk a line.

    Outliers of broken audio (`outliers.find_limits`) are left out before any strategy sees them.

    Args:
        tables: the Parquet chunk tables of all shards, in the order of the shards.
        contract_file: the model's contract.
        output: the TSV to write: priority, utterance, chunk, shard, row.
        coverage_file: the TSV to write: of each input and the encoder output the range of all
            chunks, that of the sample, and the covered part of it, 0 to 1.
        outliers_file: the TSV to write: utterance, chunk and reason of all that is left out.
        draw: how it is drawn.

    Raises:
        UserError: the audio gives not a single chunk, or a table is damaged.
    """
    contract = Contract.load(contract_file)
    names = ranges.tensors(contract)
    limits = find_limits(
        lambda: (read_table(path, names) for path in tables if draw.guard), contract
    )
    left_out, whole, count = _judge(tables, names, limits)
    candidates = (_sound(read_table(path, names), limits) for path in tables)
    chosen = STRATEGIES[draw.strategy](candidates, draw.rows, draw.seed, names)
    if not chosen:
        raise UserError(
            "the calibration audio gives not a single chunk: every file is unusable or shorter "
            "than one chunk of the model; see the index files for the reasons, and give longer "
            "audio in audio.calibration"
        )
    _warn(left_out, count, draw.rows)
    _write_tsv(output, pd.DataFrame(chosen))
    _write_tsv(outliers_file, pd.DataFrame(left_out, columns=["utterance", "chunk", "reason"]))
    covered = coverage_table(names, reach_of(tables, chosen, names), whole)
    _write_tsv(coverage_file, covered)
    worst = covered.loc[covered["coverage"].idxmin()]
    print(
        f"{len(chosen)} of {count} chunks cover {covered['coverage'].mean():.1%} of the tensors' "
        f"ranges, {worst['coverage']:.1%} of the worst, {worst['tensor']}",
        file=sys.stderr,
    )


def _judge(
    tables: Sequence[str | Path], names: Sequence[str], limits: OutlierLimits
) -> tuple[list[tuple[str, int, str]], np.ndarray, int]:
    """Return what is left out and why, how far the other chunks reach, and how many these are."""
    left_out: list[tuple[str, int, str]] = []
    whole, count = np.full(2 * len(names), -np.inf), 0
    for path in tables:
        for piece in ranges.pieces(read_table(path, names)):
            reasons = limits.judge(piece)
            odd = piece[reasons != ""]
            left_out += zip(odd["utterance"], odd["chunk"], reasons[reasons != ""], strict=True)
            sound = ranges.reach(piece[reasons == ""], names)
            count += len(sound)
            whole = np.maximum(whole, sound.max(axis=0, initial=-np.inf))
    return sorted(left_out), whole, count


def read_table(path: str | Path, names: Sequence[str]) -> pd.DataFrame:
    """Read what sampling needs of a Parquet chunk table.

    Args:
        path: the table, written by `traces.trace_shard`.
        names: the tensors whose ranges are wanted.
    """
    sides = [f"{name}.{side}" for name in names for side in ("min", "max")]
    return chunk_table.read(path, ["utterance", "chunk", "row", "energy", *sides])


def reach_of(
    tables: Sequence[str | Path], chosen: Sequence[Chunk], names: Sequence[str]
) -> np.ndarray:
    """Return how far a sample reaches on both sides of each tensor, see `ranges.reach`.

    Args:
        tables: the Parquet chunk tables of all shards.
        chosen: the sample.
        names: the tensors.
    """
    reached = np.full(2 * len(names), -np.inf)
    by_shard = sorted(chosen, key=lambda chunk: chunk.shard)
    for shard, group in itertools.groupby(by_shard, key=lambda chunk: chunk.shard):
        table = read_table(tables[shard], names)
        table = table.set_index("row").loc[[chunk.row for chunk in group]]
        reached = np.maximum(reached, ranges.reach(table, names).max(axis=0))
    return reached


def coverage_table(names: Sequence[str], reached: np.ndarray, whole: np.ndarray) -> pd.DataFrame:
    """Return one row a tensor: its range in all chunks, that in the sample, and its share."""
    sides = len(names)
    return pd.DataFrame(
        {
            "tensor": names,
            "min": -whole[sides:],
            "max": whole[:sides],
            "rows_min": -reached[sides:],
            "rows_max": reached[:sides],
            "coverage": ranges.coverage(reached, whole),
        }
    )


def read(path: str | Path) -> list[Chunk]:
    """Read a sample that `sample` has written."""
    table = pd.read_csv(
        path,
        sep="\t",
        dtype={"utterance": str, "priority": "uint64"},
        keep_default_na=False,
        encoding_errors="surrogateescape",
    )
    return [Chunk(*row) for row in table.itertuples(index=False, name=None)]


def _sound(table: pd.DataFrame, limits: OutlierLimits) -> pd.DataFrame:
    return table[limits.judge(table) == ""]


def _warn(outliers: Sequence[tuple], count: int, rows: int) -> None:
    if outliers:
        worst = sorted({utterance for utterance, _, _ in outliers})
        print(
            f"warning: {len(outliers)} chunks of {len(worst)} utterance(s) look like broken audio "
            f"and are left out of the sample: {', '.join(worst[:5])}"
            f"{' and others' if len(worst) > 5 else ''}; see outliers.tsv for the reasons",
            file=sys.stderr,
        )
    if count < rows:
        print(
            f"warning: calibration.rows is {rows}, but the audio has only {count} chunks; "
            "all of them are taken",
            file=sys.stderr,
        )


def _write_tsv(path: str | Path, table: pd.DataFrame) -> None:
    with files.atomic(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, errors="surrogateescape")
