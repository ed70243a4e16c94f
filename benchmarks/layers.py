"""How many layers the compiler makes of encoders, as they are and in the form that it likes.

    python benchmarks/layers.py [encoder ...] [--demo results]

Encoders: demo, zipformer and zipformer2 (real exports in ../shared/icefall), 20m; all where none is
named, but for exports that are not there. The float16 encoders are built here, one after another,
in both forms: half a minute to two minutes of a core each. The int8 figures of the demo are those
of a run as config.yaml stands: of the results folder `--demo`, or of one that is made here, in five
minutes. A quarter of an hour in all. Writes benchmarks/results.json after each encoder and prints
what it counts.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from encoders import DEMO, EXPORTS, ROOT
from record import record

from zipquant.evaluation import measures
from zipquant.model import contract as contracts
from zipquant.toolkit.layer_table import Table
from zipquant.toolkit.platforms import Npu
from zipquant.toolkit.variant_folder import LAYERS
from zipquant.variants import preparation
from zipquant.variants.build import Settings, Source, build_variant

ENCODERS = {
    "demo": DEMO,
    **{name: EXPORTS[name] for name in ("zipformer", "zipformer2")},
    "20m": None,  # is exported when it is needed
}
PLATFORM = "rk3588"


def processor_seconds() -> float:
    """Return what this process and its children have used so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(times.ru_utime + times.ru_stime for times in used)


def layers(model: Path, native: bool) -> tuple[Table, float]:
    """Return the layers of a float16 encoder, and the processor seconds of its build."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contracts.inspect(model).save(folder / "model.json")
        prepared = folder / "encoder.onnx"
        rewrites = dict.fromkeys(preparation.REWRITES, True)
        begin = processor_seconds()
        preparation.prepare(model, folder / "model.json", rewrites, prepared)
        build = build_variant(
            folder / "variant",
            Npu(PLATFORM),
            Source(prepared, folder / "model.json"),
            Settings("float16", npu_native=native),
        )
        if native and build.graph != "native":
            raise SystemExit(f"{model} is built as it is: {build.plain_because}")
        kept = folder / "kept.tsv"
        shutil.copyfile(folder / "variant" / LAYERS, kept)
        return Table.read(kept), processor_seconds() - begin


def shown(name: str, table: Table, seconds: float | None = None) -> int:
    """Print what is counted, and return how many layers there are."""
    cpu = sum(layer.target == "CPU" for layer in table.layers)
    weights = f"{table.weight_memory / 1e6:.2f} MB of weights" if table.weight_memory else ""
    cycles = sum(layer.cycles or 0 for layer in table.layers)
    took = f", built in {seconds:.0f} s of processor time" if seconds else ""
    print(
        f"{name}: {len(table.layers)} layers, {cpu} on the CPU, "
        f"{table.summary()['kinds'].get('conversion', 0)} changes of type, {weights}, "
        f"{cycles} cycles{took}",
        flush=True,
    )
    return len(table.layers)


def compare(name: str, model: Path) -> dict[str, float]:
    """Build a float16 encoder in both forms, and return the figures that are kept of it."""
    before, plain_s = layers(model, False)
    after, native_s = layers(model, True)
    was = shown(f"{name}, float16, as it is", before, plain_s)
    now = shown(f"{name}, float16", after, native_s)
    if name == "20m":
        return {"layers_20m_share": now / was, "native_build_time_20m": native_s / plain_s}
    return {"layers_demo_fp16" if name == "demo" else f"layers_{name}": now}


def int8_of(results: Path) -> dict[str, float]:
    """Return the figures of the demo's int8 variant, from a run as config.yaml stands."""
    table = Table.read(results / "variants/int8" / LAYERS)
    report = json.loads((results / "report/report.json").read_text())
    return {
        "layers_demo_int8": shown("demo, int8", table),
        "cpu_layers_demo_int8": sum(layer.target == "CPU" for layer in table.layers),
        "native_demo_int8_db": encoder_out_db(report),
    }


def encoder_out_db(report: dict) -> float:
    """Return the int8 variant's SQNR of the encoder output, free-running, in dB."""
    return report["variants"]["int8"]["encoder_out"][measures.FREE_RUNNING]["sqnr_db"]


def run_demo(folder: Path) -> Path:
    """Run the demo up to the report, without what is not counted; return its results folder."""
    settings = folder / "settings.yaml"
    settings.write_text(
        json.dumps({"results": str(folder / "results"), "evaluation": {"long_stream": 0}})
    )
    report = folder / "results/report/report.json"
    command = [sys.executable, "-m", "snakemake", str(report), "--cores", "2"]
    subprocess.run([*command, "--configfile", str(settings)], cwd=ROOT, check=True)
    return folder / "results"


def export_large(folder: Path) -> Path:
    """Export the encoder of 20 M parameters, with random weights."""
    out = folder / "large"
    command = [sys.executable, "demo/export.py", "--scale", "large", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return out / "encoder.onnx"


def main() -> None:
    """Count, and write benchmarks/results.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="*", help=f"of {', '.join(ENCODERS)}")
    parser.add_argument("--demo", type=Path, help="results of the demo, as config.yaml stands")
    arguments = parser.parse_args()
    if unknown := set(arguments.encoders) - set(ENCODERS):
        parser.error(f"no such encoder: {', '.join(sorted(unknown))}")
    for name in arguments.encoders or ENCODERS:
        model = ENCODERS[name]
        if model and not model.exists():
            print(f"{name}: {model} is not there")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            record(compare(name, model or export_large(Path(scratch))))
            if name == "demo":
                record(int8_of(arguments.demo or run_demo(Path(scratch))))


if __name__ == "__main__":
    main()
