"""The encoders that benchmarks measure: the demo's, and real exports of icefall."""

from record import RESULTS

ROOT = RESULTS.parent.parent
DEMO = ROOT / "models/demo/encoder.onnx"
_ICEFALL = ROOT.parent / "shared/icefall"
EXPORTS = {
    "zipformer": _ICEFALL / "zipformer/encoder-epoch-99-avg-1.onnx",
    "zipformer2": _ICEFALL / "zipformer2/encoder-epoch-99-avg-1-chunk-16-left-64.onnx",
    "zipformer2_ctc": _ICEFALL / "zipformer2-ctc/ctc-epoch-99-avg-1-chunk-16-left-64.onnx",
}
