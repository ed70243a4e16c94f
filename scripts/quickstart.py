"""`make model`: check what the user asks for, write the settings, and run the workflow.

    python scripts/quickstart.py check MODEL AUDIO PLATFORM [NAME [RUNTIME]]
    python scripts/quickstart.py run MODEL AUDIO PLATFORM [NAME [RUNTIME]]

The first needs Python alone, and runs before anything is installed.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from zipquant import quickstart
from zipquant.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent


def main(command: str, *arguments: str) -> None:
    """Do one of the two; `run` does not come back."""
    try:
        asked = quickstart.request(*arguments)
        new = quickstart.write(asked)
    except UserError as error:
        sys.exit(f"error: {error}")
    if command == "check":
        return
    print(f"settings: {asked.settings_file}{' (written)' if new else ' (as it was)'}", flush=True)
    cores = os.environ.get("CORES") or str(os.cpu_count())
    run = ["snakemake", "--cores", cores, "--configfile", str(asked.settings_file)]
    if Path.cwd() != PROJECT:
        run += ["--snakefile", str(PROJECT / "Snakefile")]
    print(f"running: {' '.join(run)}", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", *run])


if __name__ == "__main__":
    main(*sys.argv[1:])
