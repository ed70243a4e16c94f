"""Which measure foretells best what a layer in float16 is worth.

    python benchmarks/sensitivity.py

Builds the demo model in int8 through the workflow's own rules, then again and again with the
layers around one tensor in float16, and runs each in the simulator, free-running, on calibration
audio. What that takes away of the noise is compared with what was foretold by two measures that
need no build for each tensor: the emulation, which the search uses, and the toolkit's own layer
analysis (`accuracy_analysis`), its cosine of each layer alone. At last the order that each of both
gives is followed, and the models are measured on evaluation audio. Half an hour on one core.

Prints Markdown tables for docs/mixed-precision.md and writes benchmarks/sensitivity.json.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import yaml
from record import RESULTS
from scipy.stats import spearmanr

from zipquant.audio.frame_store import FrameReader
from zipquant.jobs import isolation
from zipquant.model.contract import Contract
from zipquant.model.streaming import OnnxEncoder
from zipquant.toolkit import quantized_graph
from zipquant.variants import float16_search
from zipquant.variants.emulation import EmulatedEncoder, Emulation

ROOT = RESULTS.parent.parent
FIGURES = RESULTS.parent / "sensitivity.json"
MODEL = ROOT / "models/demo/encoder.onnx"
PLATFORM = "rk3588"

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
        # The chunks that the search tries each tensor on, and all of the evaluation audio.
        float16_search.COMPARED_CHUNKS = float16_search.TRIED_CHUNKS = chunks
        self.audio = float16_search.Audio(
            [results / "features/calibration/0.h5"], self.contract, reference
        )
        with FrameReader(results / "features/evaluation/0.h5") as reader:
            self.evaluation = [reader.frames(i) for i in range(len(reader.ids))]
        self.expected = float16_search.encode(reference, self.contract, self.evaluation)
        self.search = float16_search.Search(
            self.graph, self.emulation, self.contract, self.audio, self.fixed
        )
        self.grids = float16_search.grids(self.graph, self.emulation)

    def simulated(self, float16: Collection[str], evaluation: bool = False) -> float:
        """Build with some tensors in float16, and return the noise in the simulator."""
        work = self._scratch / "build"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self._built, work)
        config = work / "toolkit" / self._config.name
        config.write_text(f"custom_quantize_layers: {{}}\nquantize_parameters:{self._parameters}")
        quantized_graph.set_float16(config, [*self.fixed, *float16])
        utterances = self.evaluation if evaluation else self.audio.utterances
        encoded = isolation.call(_simulate, work=work, contract=self.contract, given=utterances)
        return _noise(encoded, self.expected if evaluation else self.audio.encoded)

    def emulated(self, float16: Collection[str]) -> float:
        """Return the noise of the emulation with some tensors in float16."""
        encoder = EmulatedEncoder(self.emulation, self.contract, {*self.fixed, *float16})
        encoded = float16_search.encode(encoder, self.contract, self.audio.utterances)
        return _noise(encoded, self.audio.encoded)

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
    return float16_search.encode(simulator, contract, given, lanes=1)


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
    pairs = list(zip(expected, encoded, strict=True))
    noise = sum(float(((a.astype(float) - b) ** 2).sum()) for a, b in pairs)
    return noise / sum(float((a.astype(float) ** 2).sum()) for a, _ in pairs)


def main() -> None:
    """Measure, print the tables and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worst", type=int, default=15, help="tensors that each measure names")
    parser.add_argument("--chunks", type=int, default=40, help="chunks that each build is run on")
    parser.add_argument("--least", type=float, default=0.93, help="share of MACs left in int8")
    parser.add_argument("--results", help="folder to keep the results in, for another run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = make_results(Path(arguments.results or f"{scratch}/results").resolve())
        study = Study(results, Path(scratch), arguments.chunks)
        rows = len((results / "variants/int8/toolkit/dataset.txt").read_text().splitlines())
        measures = {
            "emulation": study.search.sensitivities(),
            # The toolkit takes one row a call: the mean of some.
            "analysis": np.mean(
                [study.analysis(row) for row in range(0, rows, max(1, rows // 6))], axis=0
            ).tolist(),
        }
        figures = {"chunks": study.audio.chunks, **compare(study, measures, arguments.worst)}
        figures["orders"] = follow(study, measures, arguments.least)
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    print_tables(figures)


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
    columns = ("emulation", "emulated_gain", "analysis")
    return {
        "sqnr_db": float16_search.decibel(base),
        "correlation": {
            name: float(spearmanr([row[name] for row in rows], gains).statistic) for name in columns
        },
        "tensors": sorted(rows, key=lambda row: -row["gain"]),
    }


def follow(study: Study, measures: dict[str, list[float]], least: float) -> list[dict]:
    """Build along the order that each measure gives, at the same shares of MACs in int8."""
    found = []
    for name, noise in measures.items():
        used = [
            value if e > 0 else 0.0 for value, e in zip(noise, measures["emulation"], strict=True)
        ]
        for share in (0.99, 0.97, 0.95, least):
            kept = set().union(*(added for _, added in study.search.order(used, share)))
            found.append(
                {
                    "measure": name,
                    "int8_macs_share": study.graph.int8_macs_share({*study.fixed, *kept}),
                    "float16_tensors": len(kept),
                    "sqnr_db": float16_search.decibel(study.simulated(kept, evaluation=True)),
                }
            )
            print(found[-1], file=sys.stderr, flush=True)
    return found


def print_tables(figures: dict) -> None:
    """Print what the docs show."""
    print("| measure | rank correlation with the gain |\n| --- | --- |")
    for name, value in figures["correlation"].items():
        print(f"| {name} | {value:.2f} |")
    print("\n| measure | MACs in int8 | tensors in float16 | SQNR |\n| --- | --- | --- | --- |")
    for row in figures["orders"]:
        share, sqnr = row["int8_macs_share"], row["sqnr_db"]
        print(f"| {row['measure']} | {share:.1%} | {row['float16_tensors']} | {sqnr:.1f} dB |")


if __name__ == "__main__":
    main()
