"""How many layers the compiler makes of encoders, as they are and in the form that it likes.

    python benchmarks/layers.py --demo results [--icefall encoder.onnx]
        [--zipformer2 encoder.onnx] [--large encoder.onnx]

The float16 encoders are built here, one after another: half a minute to two minutes of a core
each. The int8 figures are those of a finished run of the demo with the results folder `--demo`,
whose search and simulation take longer. `--icefall` is a Zipformer v1 as icefall exports it,
`--zipformer2` a Zipformer2, `--large` the encoder of 20 M parameters of `python demo/export.py
--scale large --out large`. What is not given is left out. Writes benchmarks/results.json and prints
what it counts.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from record import RESULTS, record

from zipquant.evaluation import measures
from zipquant.model import contract as contracts
from zipquant.toolkit.layer_table import Table
from zipquant.toolkit.variant_folder import LAYERS
from zipquant.variants import preparation
from zipquant.variants.build import Settings, Source, build_variant

DEMO = RESULTS.parent.parent / "models/demo/encoder.onnx"
PLATFORM = "rk3588"


def layers(model: Path, native: bool) -> Table:
    """Return the layers of a float16 encoder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contracts.inspect(model).save(folder / "model.json")
        prepared = folder / "encoder.onnx"
        rewrites = dict.fromkeys(preparation.REWRITES, True)
        preparation.prepare(model, folder / "model.json", rewrites, prepared)
        build = build_variant(
            folder / "variant",
            PLATFORM,
            Source(prepared, folder / "model.json"),
            Settings("float16", npu_native=native),
        )
        if native and build.graph != "native":
            raise SystemExit(f"{model} is built as it is: {build.plain_because}")
        kept = folder / "kept.tsv"
        shutil.copyfile(folder / "variant" / LAYERS, kept)
        return Table.read(kept)


def shown(name: str, table: Table) -> Table:
    """Print what is counted, and return it."""
    cpu = sum(layer.target == "CPU" for layer in table.layers)
    weights = f"{table.weight_memory / 1e6:.2f} MB of weights" if table.weight_memory else ""
    cycles = sum(layer.cycles or 0 for layer in table.layers)
    print(f"{name}: {len(table.layers)} layers, {cpu} on the CPU, {weights}, {cycles} cycles")
    return table


def main() -> None:
    """Count, and write benchmarks/results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, help="results of the demo, as config.yaml stands")
    parser.add_argument("--icefall", type=Path, help="a Zipformer v1 that icefall has exported")
    parser.add_argument("--zipformer2", type=Path, help="a Zipformer2 that icefall has exported")
    parser.add_argument("--large", type=Path, help="the encoder of 20 M parameters")
    arguments = parser.parse_args()
    shown("demo, float16, as it is", layers(DEMO, False))
    found = {"layers_demo_fp16": len(shown("demo, float16", layers(DEMO, True)).layers)}
    exports = {"layers_zipformer": arguments.icefall, "layers_zipformer2": arguments.zipformer2}
    for figure, export in exports.items():
        if export:
            shown(f"{export.parent.name}, float16, as it is", layers(export, False))
            table = shown(f"{export.parent.name}, float16", layers(export, True))
            found[figure] = len(table.layers)
    if arguments.large:
        before = shown("20 M, float16, as it is", layers(arguments.large, False))
        after = shown("20 M, float16", layers(arguments.large, True))
        found["layers_20m_share"] = len(after.layers) / len(before.layers)
    if arguments.demo:
        table = shown("demo, int8", Table.read(arguments.demo / "variants/int8" / LAYERS))
        found["layers_demo_int8"] = len(table.layers)
        found["cpu_layers_demo_int8"] = sum(layer.target == "CPU" for layer in table.layers)
        report = json.loads((arguments.demo / "report/report.json").read_text())
        found["native_demo_int8_db"] = encoder_out_db(report)
    record(found)


def encoder_out_db(report: dict) -> float:
    """Return the int8 variant's SQNR of the encoder output, free-running, in dB."""
    return report["variants"]["int8"]["encoder_out"][measures.FREE_RUNNING]["sqnr_db"]


if __name__ == "__main__":
    main()
