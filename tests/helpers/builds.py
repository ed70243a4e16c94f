"""Calibrating, building and running a model, as the workflow does."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers.audio import make_audio
from helpers.streams import InMemory, trace
from zipquant.audio import features
from zipquant.calibration import dataset, sampling
from zipquant.evaluation import encoder_error, measures
from zipquant.jobs import isolation
from zipquant.model import contract
from zipquant.model.recognizer import Part
from zipquant.model.streaming import OnnxEncoder
from zipquant.toolkit import rknn_toolkit
from zipquant.toolkit.platforms import Npu, Scheme
from zipquant.toolkit.rknn_toolkit import Simulator
from zipquant.toolkit.versions import DEFAULT
from zipquant.variants.build import Settings, Source, build_variant


def calibrate(folder: Path, model: Path, rows: int = 20) -> contract.Contract:
    """Make a calibration set of made-up audio, as the workflow does, in a folder."""
    audio = [features.fbank(make_audio(3 + seed, seed)) for seed in range(3)]
    shape = trace(folder, model, audio, lanes=2)
    tables = ("sample.tsv", "coverage.tsv", "outliers.tsv")
    sampling.sample(
        [folder / "t.parquet"],
        folder / "model.json",
        *(folder / name for name in tables),
        sampling.Draw("coverage", rows, seed=0),
    )
    dataset.write(
        folder / "sample.tsv",
        [folder / "t.h5"],
        folder / "model.json",
        folder / "dataset.txt",
        folder / "arrays",
    )
    return shape


def build(folder: Path, model: Path, **settings) -> dict:
    """Build a variant of a model that is calibrated in the folder; return its record.

    Args:
        folder: where `calibrate` has worked.
        model: the encoder.
        settings: of the variant; `platform`, `toolkit`; for a search `original`, `features`,
            `board_costs`.
    """
    given = {"dtype": "w8a8"} | settings
    platform, toolkit = given.pop("platform", "rk3588"), given.pop("toolkit", DEFAULT)
    work = folder / "variant"
    searched = {
        key: given.pop(key)
        for key in ("original", "features", "sample", "board_costs")
        if key in given
    }
    source = Source(
        model, folder / "model.json", folder / "dataset.txt", context_size=2, **searched
    )
    build_variant(work, Npu(platform, toolkit), source, Settings(**given))
    return json.loads((work / "build.json").read_text())


def first_step(folder: Path, model: Path, shape: contract.Contract) -> tuple[Path, Path]:
    """Quantize a model that is calibrated in the folder; return the toolkit's graph and scales."""
    part = Part(str(model), shape.inputs, None, shape.metadata)
    found = []

    def run() -> list[Path]:
        rknn_toolkit.quantize_part(
            part,
            folder / "dataset.txt",
            folder / "step1",
            Npu("rk3588"),
            lambda *f: found.extend(f),
        )
        return [path.resolve() for path in found]

    return tuple(isolation.call(run))


def errors(folder: Path, model: Path, shape: contract.Contract, record: dict) -> pd.DataFrame:
    """Run unseen audio through the variant and onnxruntime; return the free-running figures.

    In a process of its own: where the toolkit has used threads, as for gdq, no build can be forked.
    """
    return isolation.call(_errors, folder=folder, model=model, shape=shape, record=record)


def _errors(folder: Path, model: Path, shape: contract.Contract, record: dict) -> pd.DataFrame:
    keys = ("platform", "dtype", "algorithm", "method")
    given = {key: record[key] for key in keys if key in record}
    scheme = Scheme(**given, toolkit=record["rknn_toolkit2"])
    simulator = Simulator(model, shape, folder / "variant", scheme)
    unseen = InMemory({"unseen": features.fbank(make_audio(4, 50))})
    compared = encoder_error.evaluate(OnnxEncoder(model, shape), simulator, shape, unseen, 1)
    rows = [row for found in compared for row in found.rows]
    table = pd.DataFrame(rows, columns=encoder_error.SCHEMA.names)
    figures = measures.summarize(table, ["mode", "output"])
    return figures[figures["mode"] == measures.FREE_RUNNING].set_index("output")


def unpadded(shape: Sequence[int], width: int) -> int:
    """Stand in for `layer_costs.laid_out` as if all channels filled their groups of bytes."""
    return width * math.prod(shape)
