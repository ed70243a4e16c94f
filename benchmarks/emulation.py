"""How near the emulation of a quantized encoder comes to the toolkit's simulator.

    python benchmarks/emulation.py
    python benchmarks/emulation.py --encoder mine=path/to/encoder.onnx

Builds the demo's encoder, and others that are named, in int8 without and with a search for float16
layers, through the workflow's own rules, and takes what each evaluation notes of the check that
every run makes: the signal to noise ratios of the encoder output, free-running, in the emulation
and in the simulator, over the demo's evaluation audio. Some minutes a model.

Puts the difference of both in dB, emulated less simulated, into benchmarks/results.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from record import RESULTS, record

ROOT = RESULTS.parent.parent
VARIANTS = {"plain": {"dtype": "w8a8", "mixed_precision": None}, "int8": {}, "fp16": None}
"""`int8` is the configuration's own, which searches."""


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


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", action="append", default=[], help="a name, =, and a file")
    named = [entry.split("=", 1) for entry in parser.parse_args().encoder]
    encoders = dict(named) or {"demo": "models/demo/encoder.onnx"}
    for name, path in encoders.items():
        with tempfile.TemporaryDirectory() as scratch:
            found = agreements((ROOT / path).resolve(), Path(scratch) / "results")
        figures = {}
        for variant, both in found.items():
            print(f"{name}, {variant}: {both}")
            difference = both["emulated_sqnr_db"] - both["simulated_sqnr_db"]
            figures[f"emulation_less_simulator_db_{name}_{variant}"] = difference
        record(figures)


if __name__ == "__main__":
    main()
