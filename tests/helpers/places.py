"""Where things are: the project, the demo's model, and the shared folder beside the project."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


DEMO_MODEL = ROOT / "models/demo/encoder.onnx"


SHARED_SPEECH = ROOT.parent / "shared/speech"


needs_shared_speech = pytest.mark.skipif(
    not SHARED_SPEECH.is_dir(), reason="needs the folder shared/speech beside the project"
)
