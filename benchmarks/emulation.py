"""How near the emulation of a quantized encoder comes to the toolkit's simulator.

    python benchmarks/emulation.py  # the demo's encoder and those of ../shared/icefall
    python benchmarks/emulation.py --encoder mine=path/to/encoder.onnx
    python benchmarks/emulation.py --encoder 20m=large/encoder.onnx

Builds encoders in int8 without and with a search for float16 layers, through the workflow's own
rules, and takes what each evaluation notes of the check that every run makes: the signal to noise
ratios of the encoder output, free-running, in the emulation and in the simulator, over the demo's
evaluation audio. Some minutes a model.

Puts the difference of both in dB, emulated less simulated, into benchmarks/results.json. With the
encoder of 20 M parameters of `python demo/export.py --scale large --out large`, which is called
20m, it also puts there `emulation_vs_simulator`: how many times as many chunks the emulation, with
32 utterances at once, runs in a second of processor time as the simulator, one after the other.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import processor
import yaml
from encoders import DEMO, EXPORTS, ROOT
from record import record

from zipquant.audio.frame_store import FrameReader
from zipquant.jobs import isolation
from zipquant.model.contract import Contract
from zipquant.model.streaming import Encoder, stream_batches
from zipquant.variants.opening import open_emulation, open_encoder

ENCODERS = {"demo": DEMO, **EXPORTS}
VARIANTS = {"plain": {"dtype": "w8a8", "mixed_precision": None}, "int8": {}, "fp16": None}
"""`int8` is the configuration's own, which searches."""

LARGE, LANES = "20m", 32
"""The encoder whose speed is measured, and the utterances that a call of the emulation carries."""

CALLS = {1: 30, LANES: 8}
"""Calls that are timed, by lanes; the first one is left out."""


def agreements(encoder: Path, results: Path) -> dict[str, dict]:
    """Run the workflow as far as the evaluations, and return by variant what each has noted."""
    settings = {
        "results": str(results),
        "model": {"encoder": str(encoder)},
        "audio": {"shards": {"calibration": 1, "evaluation": 1}},
        "evaluation": {"one_step_chunks": 1, "long_stream": 0},
        "variants": VARIANTS,
    }
    config = results.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings))
    files = {name: results / f"evaluation/{name}/0.time.json" for name in ("plain", "int8")}
    command = [sys.executable, "-m", "snakemake", *map(str, files.values()), "--cores", "2"]
    subprocess.run([*command, "--configfile", str(config)], cwd=ROOT, check=True)
    return {name: json.loads(path.read_text())["emulation"] for name, path in files.items()}


def speed(folder: Path, prepared: Path, contract: Path, features: Path) -> dict[str, float]:
    """Return chunks per second of processor time: `simulator`, `emulation` and their `ratio`.

    Args:
        folder: a built variant.
        prepared: the ONNX file that it was built from.
        contract: the file of the model's contract.
        features: features of some utterances.
    """
    shape = Contract.load(contract)
    with FrameReader(features) as reader:
        utterances = [reader.frames(position) for position in range(len(reader.ids))]
    simulator = open_encoder(folder, prepared, shape)
    simulated = chunks_per_second(simulator, shape, utterances, 1)
    emulated = chunks_per_second(open_emulation(folder, shape), shape, utterances, LANES)
    return {"simulator": simulated, "emulation": emulated, "ratio": emulated / simulated}


def chunks_per_second(
    encoder: Encoder, contract: Contract, utterances: Sequence[np.ndarray], lanes: int
) -> float:
    """Return how many chunks an encoder runs in a second of the processor, with full lanes."""
    frames = np.concatenate(utterances)
    length = contract.chunk_frames + (CALLS[lanes] + 1) * contract.chunk_shift
    repeated = np.resize(frames, (max(length + lanes, len(frames)), frames.shape[1]))
    # Each lane begins elsewhere, so that they do not run the same.
    given = [np.roll(repeated, -lane, axis=0)[:length] for lane in range(lanes)]
    calls = stream_batches(encoder, contract, given, lanes)
    next(calls)
    start, chunks = processor.seconds(), 0
    for _ in range(CALLS[lanes]):
        chunks += len(next(calls).x)
    return chunks / (processor.seconds() - start)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", action="append", default=[], help="a name, =, and a file")
    named = [entry.split("=", 1) for entry in parser.parse_args().encoder]
    for name, path in (dict(named) or ENCODERS).items():
        if not (ROOT / path).exists():
            print(f"{name} is left out: there is no {path}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            results, figures = Path(scratch) / "results", {}
            found = agreements((ROOT / path).resolve(), results)
            if name == LARGE:
                rates = isolation.call(
                    speed,
                    folder=results / "variants/int8",
                    prepared=results / "prepared/encoder.onnx",
                    contract=results / "model.json",
                    features=results / "features/evaluation/0.h5",
                )
                print(f"{name}: {rates}")
                figures["emulation_vs_simulator"] = rates["ratio"]
        for variant, both in found.items():
            print(f"{name}, {variant}: {both}")
            difference = both["emulated_sqnr_db"] - both["simulated_sqnr_db"]
            figures[f"emulation_less_simulator_db_{name}_{variant}"] = difference
        record(figures)


if __name__ == "__main__":
    main()
