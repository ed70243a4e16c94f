"""Where things are: the project, the demo's model, and the shared folder beside the project."""

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
