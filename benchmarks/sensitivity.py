"""Which measure foretells best what a layer in float16 is worth.

    python benchmarks/sensitivity.py

Builds the demo model in int8 through the workflow's own rules. Three measures are compared that
need no build for each tensor: the backward pass that the search uses, the emulation with one tensor
rounded at a time, and the toolkit's own layer analysis (`accuracy_analysis`), its cosine of each
layer alone.

First the order that each gives is followed in the emulation, on calibration audio
(`--emulated` does no more; five minutes). Then the model is built again and again with the layers
around one tensor in float16, and run in the simulator; what that takes away of the noise is
compared with what each measure foretold. At last the orders are built and measured on evaluation
audio. A quarter of an hour on one core.

Prints Markdown tables and writes benchmarks/sensitivity.json.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import yaml
from record import RESULTS
from scipy.stats import spearmanr

from zipquant.audio.frame_store import FrameReader
from zipquant.jobs import isolation
from zipquant.model.contract import Contract
from zipquant.model.noise import varying_power
from zipquant.model.streaming import OnnxEncoder
from zipquant.toolkit import quantized_graph
from zipquant.variants import board_time, float16_order, float16_search, search_audio, sensitivity
from zipquant.variants.emulation import EmulatedEncoder, Emulation
from zipquant.variants.float16_choices import Yardstick, decibel

ROOT = RESULTS.parent.parent
FIGURES = RESULTS.parent / "sensitivity.json"
MODEL = ROOT / "models/demo/encoder.onnx"
PLATFORM = "rk3588"

EMULATED_TIMES = (0.005, 0.01, 0.02, 0.03, 0.05)
"""Shares of time added at which orders are compared in the emulation."""

LINE = re.compile(r"^\[\w+\] (\S+)\s+[\d.]+ \| \S+\s+([\d.]+) \| \S+", re.MULTILINE)
"""A line of error_analysis.txt: the tensor, and the cosine of the layer alone."""


def make_results(folder: Path) -> Path:
    """Run the workflow up to a plain int8 build and the features of both sets."""
    settings = {
        "results": str(folder),
        "audio": {"shards": {"calibration": 1, "evaluation": 1}},
        "variants": {"int8": {"mixed_precision": None}},
    }
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings))
    targets = [folder / "variants/int8/build.json"]
    targets += [folder / f"features/{part}/0.h5" for part in ("calibration", "evaluation")]
    command = [sys.executable, "-m", "snakemake", *map(str, targets), "--cores", "1"]
    subprocess.run([*command, "--configfile", str(config)], cwd=ROOT, check=True)
    return folder


class Study:
    """A plain int8 build, and the same with more of it in float16."""

    def __init__(self, results: Path, scratch: Path, chunks: int):
        self._scratch, self._built = scratch, results / "variants/int8"
        self._config = next((self._built / "toolkit").glob("*.cfg"))
        graph_file = next((self._built / "toolkit").glob("*.model"))
        self.contract = Contract.load(results / "model.json")
        head, self._parameters = self._config.read_text().split("quantize_parameters:", 1)
        self.fixed = list(yaml.safe_load(head)["custom_quantize_layers"] or {})
        self.graph = quantized_graph.Graph(graph_file)
        scales = quantized_graph.read_scales(self._config)
        self.emulation = Emulation(self.graph, scales, self.contract, per_channel=True)
        reference = OnnxEncoder(MODEL, self.contract)
        calibration = [results / "features/calibration/0.h5"]
        self.audio = search_audio.Audio(calibration, self.contract, reference)
        # The model is built and run many times: on less audio.
        self.tried = self.audio.beginnings(self.contract, chunks, float16_search.TRIED_LENGTH)
        self.encoded = search_audio.encode(reference, self.contract, self.tried)
        with FrameReader(results / "features/evaluation/0.h5") as reader:
            self.evaluation = [reader.frames(i) for i in range(len(reader.ids))]
        self.expected = search_audio.encode(reference, self.contract, self.evaluation)
        self._reference = reference
        fixed = frozenset(self.fixed)
        self.roundings = float16_search.Roundings(self.graph, self.emulation, fixed)
        self.grids = self.roundings.grids

    def backward(self) -> list[float]:
        """Return the noise of each rounding as the search estimates it."""
        self.roundings.measure(self.contract, self._reference, self.audio)
        return self.roundings.noise

    def one_by_one(self) -> list[float]:
        """Return the noise of each rounding by itself, emulated on the same chunks."""
        tried = self.audio.beginnings(
            self.contract, float16_search.TRIED_CHUNKS, float16_search.TRIED_LENGTH
        )
        expected = search_audio.encode(self._reference, self.contract, tried)
        signal = sum(map(varying_power, expected))
        fixed, noise = frozenset(self.fixed), [0.0] * len(self.grids)
        present = [i for i, g in enumerate(self.grids) if g.is_rounded(self.emulation, fixed)]
        for first in range(0, len(present), 64):
            lanes = present[first : first + 64]
            each = [self.grids[i].tensors for i in lanes]
            powers = sensitivity.alone(self.emulation, self.contract, tried, expected, each, fixed)
            for i, power in zip(lanes, powers, strict=True):
                noise[i] = float(power) / signal
        return noise

    def order(self, noise: Sequence[float], most_time: float) -> list[float16_order.Step]:
        """Return the order that a measure gives, up to a share of time added."""
        board = board_time.BoardTime(self.graph, self.emulation, board_time.price_of(PLATFORM))
        order = float16_order.Order(
            self.graph, self.emulation, self.grids, noise, board, self.fixed
        )
        return order.find(most_time)

    def simulated(self, float16: Collection[str], evaluation: bool = False) -> float:
        """Build with some tensors in float16, and return the noise in the simulator."""
        work = self._scratch / "build"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self._built, work)
        config = work / "toolkit" / self._config.name
        config.write_text(f"custom_quantize_layers: {{}}\nquantize_parameters:{self._parameters}")
        quantized_graph.set_float16(config, [*self.fixed, *float16])
        utterances = self.evaluation if evaluation else self.tried
        encoded = isolation.call(_simulate, work=work, contract=self.contract, given=utterances)
        return _noise(encoded, self.expected if evaluation else self.encoded)

    def emulated(self, float16: Collection[str]) -> float:
        """Return the noise of the emulation with some tensors in float16."""
        encoder = EmulatedEncoder(self.emulation, self.contract, {*self.fixed, *float16})
        encoded = search_audio.encode(encoder, self.contract, self.tried)
        return _noise(encoded, self.encoded)

    def analysis(self, row: int) -> list[float]:
        """Return 1 - cosine of each grid's worst layer, by the toolkit's analysis of one row."""
        cosines = isolation.call(
            _analyse, work=self._built, row=row, folder=self._scratch / "layers"
        )
        return [max(1 - cosines.get(name, 1.0) for name in grid.tensors) for grid in self.grids]

    def closure(self, grid: int) -> set[str]:
        """Return the tensors that must be float16 for the rounding of a grid to go."""
        outputs = {node.output[0]: node.output for node in self.graph.nodes}
        names = {name for first in self.grids[grid].closure for name in outputs[first]}
        return {name for name in names if name in self.emulation.scales}


def _simulate(work: Path, contract: Contract, given: Sequence[np.ndarray]) -> list[np.ndarray]:
    from zipquant.toolkit.platforms import Scheme
    from zipquant.toolkit.rknn_toolkit import Simulator

    simulator = Simulator(MODEL, contract, work, Scheme(PLATFORM, "w8a8"))
    return search_audio.encode(simulator, contract, given, lanes=1)


def _analyse(work: Path, row: int, folder: Path) -> dict[str, float]:
    from zipquant.toolkit.rknn_toolkit import _step2

    rows = (work / "toolkit/dataset.txt").read_text().splitlines()
    inputs = [str((work / "toolkit" / path).resolve()) for path in rows[row].split()]
    shutil.rmtree(folder, ignore_errors=True)
    rknn = _step2(work.resolve() / "toolkit")
    if rknn.accuracy_analysis(inputs=inputs, output_dir=str(folder)) != 0:
        raise SystemExit("the toolkit's accuracy_analysis failed")
    text = (folder / "error_analysis.txt").read_text()
    return {name: float(cosine) for name, cosine in LINE.findall(text)}


def _noise(encoded: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    pairs = zip(expected, encoded, strict=True)
    noise = sum(float(((a.astype(float) - b) ** 2).sum()) for a, b in pairs)
    return noise / sum(map(varying_power, expected))


def main() -> None:
    """Measure, print the tables and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worst", type=int, default=5, help="tensors that each measure names")
    parser.add_argument("--chunks", type=int, default=40, help="chunks that each build is run on")
    parser.add_argument("--most", type=float, default=0.05, help="share of time added at most")
    parser.add_argument("--results", help="folder to keep the results in, for another run")
    parser.add_argument("--emulated", action="store_true", help="emulate only, build nothing")
    arguments = parser.parse_args()
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        results = make_results(Path(arguments.results or f"{scratch}/results").resolve())
        study = Study(results, Path(scratch), arguments.chunks)
        measures, figures["emulated"] = emulate(study)
        if not arguments.emulated:
            rows = len((results / "variants/int8/toolkit/dataset.txt").read_text().splitlines())
            # The toolkit takes one row a call: the mean of some.
            analyses = [study.analysis(row) for row in range(0, rows, max(1, rows // 6))]
            measures["analysis"] = np.mean(analyses, axis=0).tolist()
            figures["chunks"] = sum(study.contract.chunk_count(len(f)) for f in study.tried)
            figures.update(compare(study, measures, arguments.worst))
            figures["orders"] = follow(study, measures, arguments.most)
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    print_tables(figures)


def emulate(study: Study) -> tuple[dict[str, list[float]], dict]:
    """Estimate by one backward pass and by one tensor at a time; follow both orders, emulated."""
    measures, seconds = {}, {}
    for name, measure in (("backward", study.backward), ("emulation", study.one_by_one)):
        begin = time.process_time()
        measures[name] = measure()
        seconds[name] = time.process_time() - begin
    yardstick = Yardstick(study.emulation, study.contract, study.audio, None)
    orders = []
    for time_added in EMULATED_TIMES:
        for name, noise in measures.items():
            steps = study.order(noise, time_added)
            kept = set(study.fixed).union(*(step.tensors for step in steps))
            orders.append(
                {
                    "measure": name,
                    "int8_macs_share": steps[-1].int8_macs_share,
                    "float16_tensors": len(kept),
                    "sqnr_db": yardstick.measure(kept)["sqnr_db"],
                }
            )
            print(orders[-1], file=sys.stderr, flush=True)
    backward, tried = np.array(measures["backward"]), np.array(measures["emulation"])
    worst = tried > float16_order.NEGLIGIBLE * tried.sum()
    return measures, {
        "chunks": study.audio.chunks,
        "tensors": int((tried > 0).sum()),
        "correlation": float(spearmanr(backward[tried > 0], tried[tried > 0]).statistic),
        "worst": int(worst.sum()),
        "correlation_of_worst": float(spearmanr(backward[worst], tried[worst]).statistic),
        "seconds": seconds,
        "orders": orders,
    }


def compare(study: Study, measures: dict[str, list[float]], worst: int) -> dict:
    """Leave the layers around each of the worst tensors in float16, one tensor at a time."""
    # No build takes away a rounding that the fixed tensors have taken away already.
    present = [i for i, value in enumerate(measures["emulation"]) if value > 0]
    named = {
        name: sorted(present, key=lambda i: -values[i])[:worst] for name, values in measures.items()
    }
    base, base_emulated = study.simulated(()), study.emulated(())
    rows = []
    for grid in sorted(set().union(*named.values())):
        closure = study.closure(grid)
        rows.append(
            {
                "tensor": study.grids[grid].tensors[0],
                "named_by": [name for name, found in named.items() if grid in found],
                "gain": (base - study.simulated(closure)) / base,
                "emulated_gain": (base_emulated - study.emulated(closure)) / base_emulated,
                **{name: values[grid] for name, values in measures.items()},
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    gains = [row["gain"] for row in rows]
    columns = ("backward", "emulation", "emulated_gain", "analysis")
    return {
        "sqnr_db": decibel(base),
        "correlation": {
            name: float(spearmanr([row[name] for row in rows], gains).statistic) for name in columns
        },
        "tensors": sorted(rows, key=lambda row: -row["gain"]),
    }


def follow(study: Study, measures: dict[str, list[float]], most: float) -> list[dict]:
    """Build along the order that each measure gives, with the same time added."""
    found = []
    for name, noise in measures.items():
        used = [
            value if e > 0 else 0.0 for value, e in zip(noise, measures["emulation"], strict=True)
        ]
        for time_added in (0.01, most):
            kept = set().union(*(step.tensors for step in study.order(used, time_added)))
            found.append(
                {
                    "measure": name,
                    "int8_macs_share": study.graph.int8_macs_share({*study.fixed, *kept}),
                    "float16_tensors": len(kept),
                    "sqnr_db": decibel(study.simulated(kept, evaluation=True)),
                }
            )
            print(found[-1], file=sys.stderr, flush=True)
    return found


def print_tables(figures: dict) -> None:
    """Print what the docs show."""
    emulated = figures["emulated"]
    print(
        f"{emulated['tensors']} tensors: rank correlation {emulated['correlation']:.3f}, of the "
        f"{emulated['worst']} worst {emulated['correlation_of_worst']:.3f}; processor seconds: "
        + ", ".join(f"{name} {value:.1f}" for name, value in emulated["seconds"].items())
    )
    _print_orders(emulated["orders"])
    if "correlation" not in figures:  # never built
        return
    print("\n| measure | rank correlation with the gain |\n| --- | --- |")
    for name, value in figures["correlation"].items():
        print(f"| {name} | {value:.2f} |")
    _print_orders(figures["orders"])


def _print_orders(orders: list[dict]) -> None:
    print("\n| measure | MACs in int8 | tensors in float16 | SQNR |\n| --- | --- | --- | --- |")
    for row in orders:
        share, sqnr = row["int8_macs_share"], row["sqnr_db"]
        print(f"| {row['measure']} | {share:.1%} | {row['float16_tensors']} | {sqnr:.1f} dB |")


if __name__ == "__main__":
    main()
