"""The trace engine against the loops that came before it, on the same model and audio.

    python benchmarks/traces.py            # a quarter of an hour on two idle cores
    python benchmarks/traces.py --quick    # only to see that it runs; records nothing

Three engines trace the same utterances, given as features, in turns, and what onnxruntime alone
takes is measured beside them:

- `05`: one utterance at a time, all 36 inputs of every step written as npy files;
- `09`: one utterance at a time, every step kept in memory, 200 of them written at the end;
- `ours`: two shards at a time, as `snakemake --cores 2` runs them, one thread each, packing and
  tables included;
- `limit`: as `ours`, but nothing is kept: onnxruntime runs as many chunks of full lanes, in each
  process as many as its shard has, which is never quite half of them.

The old loops are one process each with onnxruntime's default threads, as they were. All figures
include loading the model; none includes starting Python. Speeds are medians over the rounds of the
ratio within a round.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from record import record

from zipquant.audio import features, manifest, reading
from zipquant.audio.frame_store import FrameWriter
from zipquant.model import contract, streaming
from zipquant.model.contract import Contract
from zipquant.traces import tracing

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"": None, "_demo": ROOT / "models/demo/encoder.onnx"}
"""The 20 M encoder is exported when it is needed."""

SIZES = {"": (400, 1600), "_demo": (1600, 6400)}
"""About so many chunks are traced, for the encoder of 20 M parameters and for the demo's."""

ROUNDS = 3
KEPT = 200
"""So many of its candidates script 09 wrote."""


def speech(chunks: int, shape: Contract) -> list[np.ndarray]:
    """Return features of pieces of the demo's audio, 1.5 to 6 s long, of about so many chunks."""
    draw = random.Random(0)
    waves = [reading.load(path) for path in sorted((ROOT / "demo/audio").rglob("*.wav"))]
    tape = np.concatenate(waves)
    pieces: list[np.ndarray] = []
    while sum(shape.chunk_count(len(piece)) for piece in pieces) < chunks:
        length = int(draw.uniform(1.5, 6.0) * reading.SAMPLE_RATE)
        start = draw.randrange(len(tape) - length)
        pieces.append(features.fbank(tape[start : start + length]))
    return pieces


def old_loop(
    model: Path, shape: Contract, pieces: list[np.ndarray], keep: Callable[[dict], None]
) -> None:
    """Stream utterances one at a time, as the scripts 05 and 09 did, and keep every step."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for frames in pieces:
        states = {state.tensor.name: state.tensor.zeros() for state in shape.states}
        for chunk in range(shape.chunk_count(len(frames))):
            start = chunk * shape.chunk_shift
            window = frames[None, start : start + shape.chunk_frames]
            inputs = {shape.x.name: window, **states}
            keep(inputs)
            outputs = dict(zip(names, session.run(None, inputs), strict=True))
            states = {state.tensor.name: outputs[state.next_output] for state in shape.states}


def save(folder: Path, inputs: dict[str, np.ndarray]) -> None:
    """Write one step as npy files."""
    folder.mkdir()
    for name, array in inputs.items():
        np.save(folder / f"{name}.npy", array)


def script_05(model: Path, shape: Contract, pieces: list[np.ndarray], out: Path) -> None:
    """Write every step, 36 npy files each."""
    steps = iter(range(10**9))
    old_loop(model, shape, pieces, lambda inputs: save(out / str(next(steps)), inputs))


def script_09(model: Path, shape: Contract, pieces: list[np.ndarray], out: Path) -> None:
    """Keep every step in memory, and write some of them at random."""
    candidates: list[dict[str, np.ndarray]] = []
    old_loop(model, shape, pieces, candidates.append)
    chosen = random.Random(0).sample(candidates, min(KEPT, len(candidates)))
    for step, inputs in enumerate(chosen):
        save(out / str(step), inputs)


def shard(model: Path, number: int, folder: Path, lanes: int) -> None:
    """Trace a shard as the workflow's job does."""
    tracing.trace_shard(
        model,
        folder / "model.json",
        folder / f"{number}.features.h5",
        folder / f"{number}.h5",
        folder / f"{number}.parquet",
        lanes,
    )


def limit(model: Path, shape: Contract, chunks: int, lanes: int) -> None:
    """Run about so many chunks in onnxruntime, all lanes full, and keep none."""
    encoder = streaming.OnnxEncoder(model, shape)
    x = shape.x.zeros(lanes)
    states = [state.tensor.zeros(lanes) for state in shape.states]
    for _ in range(round(chunks / lanes)):
        _, states = encoder.run(x, states)


def measure(jobs: list[Callable[[], None]]) -> tuple[float, float]:
    """Run jobs at the same time, each in a process; return seconds, and the largest peak in MB."""
    begin = time.monotonic()
    children = []
    for job in jobs:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                job()
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                os.write(writing, json.dumps(peak).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        children.append((child, reading))
    peaks = []
    for child, reading in children:
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"a job failed with status {status}")
        peaks.append(json.loads(os.read(reading, 100)))
        os.close(reading)
    return time.monotonic() - begin, max(peaks)


def bytes_of(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def compare(
    kind: str, model: Path, sizes: tuple[int, ...], rounds: int, lanes: int, work: Path
) -> dict[str, float]:
    """Measure the three engines and the limit in turns; return figures by name."""
    shape = contract.inspect(model)
    figures: dict[str, float] = {}
    for size in sizes:
        pieces = speech(size, shape)
        shards: list[list[tuple[str, np.ndarray]]] = [[], []]
        for position, frames in enumerate(pieces):
            name = f"u{position}"
            shards[manifest.shard_of(name, 2)].append((name, frames))
        counts = [sum(shape.chunk_count(len(frames)) for _, frames in s) for s in shards]
        chunks = sum(counts)
        seconds: dict[str, list[float]] = {"05": [], "09": [], "ours": [], "limit": []}
        peak: dict[str, float] = {}
        written: dict[str, int] = {}
        for turn in range(rounds):
            for engine in (list(seconds) * 2)[turn % 4 : turn % 4 + 4]:
                out = work / "out"
                out.mkdir()
                if engine == "ours":
                    shape.save(out / "model.json")
                    for number, utterances in enumerate(shards):
                        with FrameWriter(out / f"{number}.features.h5") as writer:
                            for name, frames in utterances:
                                writer.add(name, frames)
                    jobs = [partial(shard, model, n, out, lanes) for n in range(2)]
                elif engine == "limit":
                    jobs = [partial(limit, model, shape, count, lanes) for count in counts]
                else:
                    loop = script_05 if engine == "05" else script_09
                    jobs = [partial(loop, model, shape, pieces, out)]
                taken, peak[engine] = measure(jobs)
                seconds[engine].append(taken)
                written[engine] = (
                    sum(bytes_of(out, f"{n}.h5") for n in range(2))
                    if engine == "ours"
                    else bytes_of(out, "*.npy")
                )
                shutil.rmtree(out)
                print(
                    f"{model.parent.name}, {chunks} chunks, round {turn + 1}, {engine}: "
                    f"{chunks / taken:.1f} chunks a second, {peak[engine]:.0f} MB, "
                    f"{written[engine] / chunks / 1000:.0f} kB a chunk",
                    flush=True,
                )
        for engine in ("05", "09", "ours"):
            name = f"trace_{engine}{kind}_{size}"
            figures[f"{name}_chunks_per_s"] = chunks / statistics.median(seconds[engine])
            figures[f"{name}_peak_mb"] = peak[engine]
            figures[f"{name}_bytes_per_chunk"] = written[engine] / chunks
        if size == sizes[-1]:
            shares = [a / b for a, b in zip(seconds["limit"], seconds["ours"], strict=True)]
            figures[f"trace_share_of_limit{kind}"] = statistics.median(shares)
            for old in ("09", "05"):
                ratios = [a / b for a, b in zip(seconds[old], seconds["ours"], strict=True)]
                figures[f"trace_speed_vs_{old}{kind}"] = statistics.median(ratios)
            figures[f"shard_bytes_vs_05{kind}"] = written["ours"] / written["05"]
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=Path, help="the exported 20 M encoder, if there is one")
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["large", "demo"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zipquant-") as folder:
        work = Path(folder)
        for kind, model in MODELS.items():
            if args.only and (args.only == "demo") != (kind == "_demo"):
                continue
            if kind == "":
                model = args.large or work / "large/encoder.onnx"
                if not args.large:
                    command = [sys.executable, str(ROOT / "demo/export.py"), "--scale", "large"]
                    subprocess.run([*command, "--out", str(model.parent)], check=True)
            sizes = tuple(size // 8 for size in SIZES[kind]) if args.quick else SIZES[kind]
            rounds = 1 if args.quick else ROUNDS
            figures = compare(kind, Path(model), sizes, rounds, args.lanes, work)
            if args.quick:
                print(json.dumps(figures, indent=2))
            else:
                record(figures)


if __name__ == "__main__":
    main()
