"""Where things are: the project, the demo's model, and the shared folder beside the project."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


DEMO_MODEL = ROOT / "models/demo/encoder.onnx"


SHARED_SPEECH = ROOT.parent / "shared/speech"


needs_shared_speech = pytest.mark.skipif(
    not SHARED_SPEECH.is_dir(), reason="needs the folder shared/speech beside the project"
)


SHARED_EXPORTS = ROOT.parent / "shared/icefall"


needs_shared_exports = pytest.mark.skipif(
    not SHARED_EXPORTS.is_dir(), reason="needs the folder shared/icefall beside the project"
)


def exported(kind: str) -> Path:
    """Return the float32 encoder of one of icefall's own exports, such as `zipformer2`."""
    files = SHARED_EXPORTS.glob(f"{kind}/*.onnx")
    names = ("encoder", "ctc")
    return next(f for f in files if f.name.startswith(names) and ".int8" not in f.name)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Put a disk of some size in the place of a folder; skip the test where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount a small disk: {done.stderr.splitlines()[0]}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
