"""Features, streams and traces of made-up audio."""

from pathlib import Path

import numpy as np
import onnxruntime

from helpers.audio import make_audio
from zipquant.audio import features
from zipquant.audio.frame_store import FrameWriter
from zipquant.model import contract
from zipquant.traces import tracing


def store(path: Path, audio: list[np.ndarray]) -> None:
    """Write the features of utterances named u0, u1, ..."""
    with FrameWriter(path) as writer:
        for number, frames in enumerate(audio):
            writer.add(f"u{number}", frames)


def trace(folder: Path, model: Path, audio: list[np.ndarray], lanes: int) -> contract.Contract:
    """Trace utterances named u0, u1, ... into t.h5 and t.parquet of a folder."""
    folder.mkdir(exist_ok=True)
    shape = contract.inspect(model)
    shape.save(folder / "model.json")
    store(folder / "f.h5", audio)
    names = ("model.json", "f.h5", "t.h5", "t.parquet")
    tracing.trace_shard(model, *(folder / name for name in names), lanes=lanes)
    return shape


def plain_loop(model, frames, chunk_frames, chunk_shift):
    """Stream one utterance the plain way; yield inputs and outputs of every call by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    shapes = {
        i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()
    }
    kinds = {i.name: np.int64 if "int64" in i.type else np.float32 for i in session.get_inputs()}
    states = {name: np.zeros(shapes[name], kinds[name]) for name in shapes if name != "x"}
    names = [output.name for output in session.get_outputs()]
    processed = 0
    while processed + chunk_frames < len(frames):
        inputs = {"x": frames[None, processed : processed + chunk_frames], **states}
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        yield inputs, outputs
        states = {name: outputs[f"new_{name}"] for name in states}
        processed += chunk_shift


def utterances():
    """Features of utterances of 0 to 12 chunks, in an order that refills lanes mid-way."""
    return [
        features.fbank(make_audio(seconds, seed))
        for seed, seconds in enumerate((1.5, 4.0, 0.2, 0.9, 2.6, 0.05, 3.1, 0.41))
    ]


class InMemory:
    """Features of utterances, as a `FrameReader` gives them.

    Args:
        utterances: float32 (frames, bins) by id.
    """

    def __init__(self, utterances: dict[str, np.ndarray]):
        self.ids = list(utterances)
        self.frame_counts = [len(frames) for frames in utterances.values()]
        self._frames = list(utterances.values())

    def frames(self, position: int) -> np.ndarray:
        return self._frames[position]
