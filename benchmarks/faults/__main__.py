"""The fault campaign: kills, damage, full disks, hostile input, and what became of it.

    python benchmarks/faults                     # all of it; as root, for the disks
    python benchmarks/faults kills damage        # some parts; the figures of the others stay

Works on a small project with audio of its own, once undisturbed and then under each fault, and
compares: the calibration set, all tables and features byte for byte, evaluation figures exactly.
Writes benchmarks/faults.json. `lost` counts what had been finished before a fault and was gone or
done again after it; `silently_wrong` what differed from the undisturbed run without a word.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

import changes  # noqa: E402
import damage  # noqa: E402
import hostile_input  # noqa: E402
import kills  # noqa: E402
import places  # noqa: E402
from project import OUTCOME, make_project, succeed  # noqa: E402

FIGURES = ROOT / "benchmarks/faults.json"


CAMPAIGN = {
    "inputs": hostile_input.inputs,
    "toolkit": hostile_input.toolkit,
    "damage": damage.damage,
    "repair": damage.repair,
    "places": places.places,
    "kills": kills.kills,
    "changes": changes.changes,
    "obstacles": changes.obstacles,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(CAMPAIGN)}; all by default")
    parser.add_argument("--scratch", help="a folder to work in and to keep; its reference is used")
    parser.add_argument("--minutes", type=float, default=kills.MINUTES, help="of killing, at most")
    chosen = parser.parse_args()
    kills.MINUTES = chosen.minutes
    random.seed(0)
    parts = chosen.parts or list(CAMPAIGN)
    with contextlib.ExitStack() as stack:
        scratch = Path(chosen.scratch or stack.enter_context(tempfile.TemporaryDirectory()))
        reference = scratch / "reference"
        if not reference.exists():
            succeed(make_project(scratch / "making"))
            (scratch / "making").rename(reference)
        for part in parts:
            OUTCOME.update(lost=[], silently_wrong=[])
            start = time.monotonic()
            details = CAMPAIGN[part](reference, scratch)
            print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)
            write(part, details, {kind: list(found) for kind, found in OUTCOME.items()})


def write(part: str, of_part: dict, wrong_in_part: dict) -> None:
    """Sum up, and write the figures after each part; those of other parts stay."""
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    details = known.get("details", {}) | {part: of_part}
    wrong = known.get("found", {}) | {part: wrong_in_part}
    figures = {
        "kills": sum(sum(kinds.values()) for kinds in details.get("kills", {}).values()),
        "damaged": sum(sum(kinds.values()) for kinds in details.get("damage", {}).values())
        + sum(details.get("repair", {}).values()),
        "bad_inputs": sum(kind.get("tried", 0) for kind in details.get("inputs", {}).values()),
        "lost": sum(len(part["lost"]) for part in wrong.values()),
        "silently_wrong": sum(len(part["silently_wrong"]) for part in wrong.values()),
        "details": details,
        "found": wrong,
    }
    FIGURES.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    print({key: value for key, value in figures.items() if isinstance(value, int)}, flush=True)


if __name__ == "__main__":
    main()
