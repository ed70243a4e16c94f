"""Where all benchmarks put their figures: benchmarks/results.json."""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results.json"

# Benchmarks measure the library that the workflow runs.
sys.path.insert(0, str(RESULTS.parent.parent / "scripts"))


def record(figures: dict[str, float]) -> None:
    """Add or replace figures by name, print them, and leave those of other benchmarks as they are.

    Args:
        figures: numbers by name, ratios where speed is meant; rounded to four significant digits.
    """
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    known.update(rounded)
    RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")
    for name, value in rounded.items():
        print(f"{name}: {value}", flush=True)
