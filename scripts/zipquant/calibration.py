"""The calibration set: the sampled chunks with their states as npy files, and dataset.txt."""

import hashlib
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from zipquant import files, sampling
from zipquant.contract import Contract, Tensor
from zipquant.errors import UserError
from zipquant.trace_store import TraceReader


def write(
    sample: str | Path,
    traces: Sequence[str | Path],
    contract_file: str | Path,
    dataset: str | Path,
    arrays: str | Path,
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
        dataset: the dataset.txt to write.
        arrays: the folder to write the npy files to, beside dataset.txt.

    Raises:
        UserError: a trace file is damaged, or what was written does not fit the model.
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
                    for tensor, array in zip(contract.inputs, reader.row(chunk.row), strict=True)
                ]
                lines[chunk] = " ".join(f"{arrays.name}/{path}" for path in paths)
    files.write_text(dataset, "".join(f"{lines[chunk]}\n" for chunk in chunks))
    check(dataset, contract)


def check(dataset: str | Path, contract: Contract) -> None:
    """Check that a calibration set is complete, unchanged and fits the model.

    rknn-toolkit2 takes wrong types and NaN features without a word, so they are looked for here.

    Raises:
        UserError: names the row, the input and what is wrong.
    """
    dataset = Path(dataset)
    seen: set[str] = set()
    for number, line in enumerate(dataset.read_text(encoding="utf-8").splitlines(), start=1):
        paths = line.split(" ")
        if len(paths) != len(contract.inputs):
            raise UserError(
                f"{dataset}, row {number}: {len(paths)} path(s), but the model has "
                f"{len(contract.inputs)} inputs: delete the file and run again"
            )
        for tensor, path in zip(contract.inputs, paths, strict=True):
            if path not in seen:
                _check_array(dataset, number, tensor, path)
                seen.add(path)
    if not seen:
        raise UserError(f"{dataset} has no rows: delete it and run again")


def _store(folder: Path, tensor: Tensor, array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    name = f"{tensor.name}.{_digest(content)}.npy"
    if not (folder / name).exists():
        with files.atomic(folder / name) as temporary:
            temporary.write_bytes(content)
    return name


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=10).hexdigest()


def _check_array(dataset: Path, number: int, tensor: Tensor, path: str) -> None:
    place = f"{dataset}, row {number}, input '{tensor.name}': {path}"
    mend = "delete the calibration folder and run again"
    try:
        content = (dataset.parent / path).read_bytes()
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror}): {mend}") from None
    if path.split(".")[-2] != _digest(content):
        raise UserError(f"{place} has been changed since it was written: {mend}")
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.shape != tensor.shape or array.dtype != tensor.dtype:
        raise UserError(
            f"{place} is {array.dtype} {list(array.shape)}, but the model takes "
            f"{tensor.dtype} {list(tensor.shape)}: {mend}"
        )
    if not np.isfinite(array).all():
        raise UserError(f"{place} holds NaN or infinite values: {mend}")
