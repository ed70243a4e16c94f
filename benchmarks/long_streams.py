"""What the float16 running mean is worth over a long stream, state by state.

    python benchmarks/long_streams.py --seconds 180

Builds the demo model in int8 with the running means in float16 and in int8, and runs both over one
stream in the simulator, through the workflow's own rules (about four minutes for 180 seconds).
Prints a Markdown table of the first and last third of the stream, for docs/long-streams.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {"int8": "float16", "int8-mean": "int8"}
"""The type of the running means, by variant."""


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180, help="length of the stream")
    parser.add_argument("--results", help="folder to keep the results in, for another run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(arguments.results or scratch).resolve()
        settings = {
            "results": str(results),
            "variants": {
                "int8": {"mixed_precision": None},
                "int8-mean": {"dtype": "w8a8", "running_mean": "int8"},
                "fp16": None,
            },
            "evaluation": {"long_stream": arguments.seconds},
        }
        config = Path(scratch) / "long.yaml"
        config.write_text(yaml.safe_dump(settings))
        files = {name: results / f"evaluation/{name}/0.stream.json" for name in VARIANTS}
        command = [sys.executable, "-m", "snakemake", *map(str, files.values()), "--cores", "1"]
        subprocess.run([*command, "--configfile", str(config)], cwd=ROOT, check=True)
        streams = {name: json.loads(path.read_text()) for name, path in files.items()}
    print(table(streams))


def table(streams: dict[str, dict]) -> str:
    """Return SQNR of the first and last third, and which states go wrong, as Markdown."""
    first = next(iter(streams.values()))
    lines = [f"{first['seconds']:.0f} s, {first['chunks']} chunks, SQNR in dB:", ""]
    heads = [
        f"{VARIANTS[name]} mean, {part} third" for name in streams for part in ("first", "last")
    ]
    lines += [f"| output | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"]
    for output in first["outputs"]:
        if output.startswith("new_cached_avg") or output == "encoder_out":
            cells = []
            for stream in streams.values():
                found = stream["outputs"][output]
                mark = " (goes wrong)" if found["wrong"] else ""
                cells += [f"{found['first_db']:.1f}", f"{found['last_db']:.1f}{mark}"]
            lines.append(f"| `{output}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
