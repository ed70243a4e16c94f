"""What the search for float16 layers costs, beside the toolkit's own two steps.

    python benchmarks/search.py                      # a quarter of an hour of an idle machine
    python benchmarks/search.py --only 20m --keep    # one encoder; prints, and records nothing

Builds each encoder in int8 with the search, with the settings that config.yaml has, and takes the
processor time of both in one run: what the search takes between the toolkit's two steps, over what
the rest of the build takes. Processor time is that of all threads and children; what else the
machine does changes it by some per cent. The real exports are those of ../shared/icefall; where
they are not there, they are left out.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import processor
from encoders import EXPORTS, ROOT
from planning import SETTINGS, shard
from record import record

from zipquant.jobs import isolation
from zipquant.model.contract import Contract
from zipquant.toolkit import quantized_graph, rknn_toolkit
from zipquant.toolkit.platforms import Scheme
from zipquant.variants import float16_search

ENCODERS = {"20m": None, **EXPORTS}
"""The one of 20 M parameters is exported when it is needed."""

MINUTES = 7.0
"""Of audio: more than the search takes in."""


def build(model: Path, work: Path) -> dict[str, float]:
    """Build in int8 with the search; return the seconds of each, and what was found."""
    contract = Contract.load(work / "model.json")
    variant = SETTINGS["variants"]["int8"]
    found = {}

    def enter(graph_file: Path, config_file: Path) -> None:
        graph = quantized_graph.Graph(graph_file)
        means = graph.running_means().values()
        kept = [*graph.borders(), *(name for cone in means for name in cone)]
        request = float16_search.Request(
            model=model,
            contract=contract,
            features=[work / "features.h5"],
            target=float16_search.Target(**variant["mixed_precision"]),
            per_channel=True,
        )
        begin = processor.seconds()
        result = float16_search.search(graph_file, config_file, kept, request)
        found["search_s"] = processor.seconds() - begin
        if reason := result.get("unavailable"):
            raise SystemExit(f"{model}: {reason}")
        taken = result["steps"][result["chosen"]]
        found.update(sqnr_db=taken["sqnr_db"], steps=len(result["steps"]))
        found["tensors"] = len(result["tensors"])
        quantized_graph.set_float16(config_file, [*kept, *result["float16"]])

    begin = processor.seconds()
    rows = work / "set/dataset.txt"
    scheme = Scheme(SETTINGS["platform"], "w8a8")
    rknn_toolkit.build(work / "prepared.onnx", contract, rows, work / "built", scheme, enter)
    found["toolkit_s"] = processor.seconds() - begin - found["search_s"]
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=ENCODERS, action="append")
    parser.add_argument("--keep", action="store_true", help="keep results.json as it is")
    args = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="zipquant-") as folder:
        for name in args.only or ENCODERS:
            work, model = Path(folder) / name, ENCODERS[name]
            work.mkdir()
            if model is None:
                model = work / "export/encoder.onnx"
                command = [sys.executable, str(ROOT / "demo/export.py"), "--scale", "large"]
                subprocess.run([*command, "--out", str(model.parent)], check=True)
            if not model.exists():
                print(f"{name} is left out: there is no {model}", flush=True)
                continue
            shard(model, work, MINUTES)
            found = isolation.call(build, model=model, work=work)
            print(name, found, flush=True)
            figures[f"search_vs_build_{name}"] = found["search_s"] / found["toolkit_s"]
    if args.keep:
        print(figures)
    else:
        record(figures)


if __name__ == "__main__":
    main()
