"""The rows of a calibration set: reading them, and which a variant takes."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zipquant.jobs import files
from zipquant.model.contract import Contract


def take(
    dataset: str | Path, sample: str | Path | None, count: int | None, output: str | Path
) -> None:
    """Write a dataset.txt with the rows that a variant is calibrated with.

    The strategies put first what shows most, so the first rows of a set are a good set. Those that
    keep the order of the utterances (`all` and `snapshot`) do not; of their rows, those of the
    smallest priorities are taken, a fair sample.

    Args:
        dataset: dataset.txt of the whole set.
        sample: the table of the sampled chunks, in the order of the rows (`sampling.sample`);
            not used where all are taken.
        count: how many rows to take at most; None for all.
        output: the dataset.txt to write, with paths relative to its own folder.
    """
    dataset, output = Path(dataset), Path(output)
    lines = dataset.read_text(encoding="utf-8").splitlines()
    order = list(range(len(lines)))
    if count is not None:
        with open(sample, encoding="utf-8", errors="surrogateescape", newline="") as file:
            chunks = list(csv.DictReader(file, dialect="excel-tab"))
        names = [(chunk["utterance"], int(chunk["chunk"])) for chunk in chunks]
        if names == sorted(names):
            order.sort(key=lambda row: int(chunks[row]["priority"]))
    # A shorter path than the folder's own, for a set in the same results folder.
    folder = os.path.relpath(dataset.parent, output.parent)
    rows = (lines[row].split(" ") for row in sorted(order[:count]))
    text = "".join(" ".join(f"{folder}/{path}" for path in row) + "\n" for row in rows)
    files.write_text(output, text)


def read_rows(dataset: str | Path, contract: Contract) -> Iterator[list[np.ndarray]]:
    """Yield the inputs of each row of a calibration set; states that it has not are zeros."""
    folder = Path(dataset).parent
    for line in Path(dataset).read_text(encoding="utf-8").splitlines():
        arrays = [np.load(folder / path) for path in line.split(" ")]
        yield arrays + [tensor.zeros() for tensor in contract.inputs[len(arrays) :]]
