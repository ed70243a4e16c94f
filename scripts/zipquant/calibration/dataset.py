"""The calibration set: the sampled chunks with their states as npy files, and dataset.txt."""

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from zipquant.calibration import dataset_check, sampling
from zipquant.jobs import files
from zipquant.model.contract import Contract, Tensor
from zipquant.traces.store import TraceReader


def write(
    sample: str | Path,
    traces: Sequence[str | Path],
    contract_file: str | Path,
    output: str | Path,
    arrays: str | Path,
    states: str = "real",
) -> None:
    """Write the calibration set.

    Each row of dataset.txt has one npy path for each input, in ONNX order, as `rknn.build` reads
    it: relative to the folder of dataset.txt, separated by single spaces. An array's file is named
    by the hash of its content, so that equal arrays (the zero states of first chunks) are stored
    once, and a changed file is noticed.

    Args:
        sample: the TSV of sampled chunks.
        traces: the trace files of all shards, in the order of the shards.
        contract_file: the model's contract.
        output: the dataset.txt to write.
        arrays: the folder to write the npy files to, beside dataset.txt.
        states: `real` as traced, `zero` in every row, or `none`: rows of features alone, which no
            build takes.

    Raises:
        UserError: a trace file is damaged.
    """
    contract = Contract.load(contract_file)
    arrays = Path(arrays)
    chunks = sampling.read(sample)
    lines: dict[sampling.Chunk, str] = {}
    # One open trace file at a time, whatever the number of shards.
    by_shard = sorted(chunks, key=lambda chunk: (chunk.shard, chunk.row))
    for shard, group in groupby(by_shard, key=lambda chunk: chunk.shard):
        with TraceReader(traces[shard], contract) as reader:
            for chunk in group:
                paths = [
                    _store(arrays, tensor, array)
                    for tensor, array in _row(reader.row(chunk.row), contract, states)
                ]
                lines[chunk] = " ".join(f"{arrays.name}/{path}" for path in paths)
    files.write_text(output, "".join(f"{lines[chunk]}\n" for chunk in chunks))


def _row(
    arrays: Sequence[np.ndarray], contract: Contract, states: str
) -> list[tuple[Tensor, np.ndarray]]:
    """Return the inputs that a row has, with what it holds for each."""
    if states == "none":
        return [(contract.x, arrays[0])]
    if states == "zero":
        arrays = [arrays[0], *(state.tensor.zeros() for state in contract.states)]
    return list(zip(contract.inputs, arrays, strict=True))


def _store(folder: Path, tensor: Tensor, array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    name = f"{tensor.name}.{dataset_check.digest(content)}.npy"
    if not (folder / name).exists():
        with files.atomic(folder / name) as temporary:
            temporary.write_bytes(content)
    return name
