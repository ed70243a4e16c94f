"""Text of audio by the workflow's own stages."""

import csv
from pathlib import Path

import onnxruntime

from helpers.places import DEMO_MODEL
from zipquant.audio import features
from zipquant.audio.frame_store import FrameWriter
from zipquant.board import vocabulary
from zipquant.model import contract
from zipquant.recognition import decoding
from zipquant.recognition.encoding import encode_shard

TAIL = 0.66


class OnnxRunner:
    """A network in onnxruntime, in place of the NPU."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options)
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, arrays):
        return self._session.run(None, dict(zip(self._names, arrays, strict=True)))


def transcribe(folder: Path, model: Path, recognizer_files: dict, wavs: list[Path], lanes=16):
    """Return the tokens that the workflow's own stages find in some wavs."""
    found = contract.inspect(model)
    found.save(folder / "model.json")
    front_end = features.FrontEnd(features=found.features, bins=found.bins)
    with FrameWriter(folder / "features.h5") as writer:
        for number, wav in enumerate(wavs):
            writer.add(str(number), features.extract(wav, "mean", TAIL, front_end))
    encode_shard(model, folder / "model.json", folder / "features.h5", folder / "encoded.h5", lanes)
    decoding.decode_shard_float(folder / "encoded.h5", folder / "texts.tsv", **recognizer_files)
    known = vocabulary.read(recognizer_files["tokens"]).tokens
    with open(folder / "texts.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    return [[known[int(number)] for number in row["tokens"].split()] for row in rows]


PARTS = {
    name: str(DEMO_MODEL.with_name(file))
    for name, file in (
        ("tokens", "tokens.txt"),
        ("decoder", "decoder.onnx"),
        ("joiner", "joiner.onnx"),
    )
}
