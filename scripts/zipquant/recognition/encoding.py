"""Encoder outputs of whole utterances, which text is made of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zipquant.audio import index
from zipquant.audio.frame_store import FrameReader, FrameWriter
from zipquant.jobs.progress import Progress
from zipquant.model.contract import Contract
from zipquant.model.streaming import OnnxEncoder, stream


def encode_shard(
    model: str | Path,
    contract_file: str | Path,
    features: str | Path,
    encoded_file: str | Path,
    lanes: int,
    utterances: Sequence[str] | None = None,
) -> None:
    """Run the float encoder over a shard.

    Args:
        model: the encoder's ONNX file.
        contract_file: its contract.
        features: the shard's feature file.
        encoded_file: the frame file to write, of the encoder outputs.
        lanes: see `streaming.stream`.
        utterances: ids of those to run, as before they were cut; None for all.

    Raises:
        UserError: a file is damaged.
    """
    contract = Contract.load(contract_file)
    encoder = OnnxEncoder(model, contract)
    with FrameReader(features) as reader, FrameWriter(encoded_file) as writer:
        wanted = set(map(index.original, reader.ids) if utterances is None else utterances)
        positions = [i for i, name in enumerate(reader.ids) if index.original(name) in wanted]
        counts = [contract.chunk_count(reader.frame_counts[i]) for i in positions]
        progress = Progress("chunks", sum(counts))
        encoded: list[list[np.ndarray]] = [[] for _ in counts]
        written = 0

        def write_finished() -> None:
            # Lanes end out of turn; the file keeps the order of the features.
            nonlocal written
            while written < len(counts) and len(encoded[written]) == counts[written]:
                writer.add(reader.ids[positions[written]], join(encoded[written]))
                encoded[written].clear()
                written += 1

        frames = (reader.frames(i) for i in positions)
        for step in stream(encoder, contract, frames, lanes):
            encoded[step.utterance].append(as_frames(step.encoder_out))
            progress.advance()
            write_finished()
        write_finished()


def as_frames(encoder_out: np.ndarray) -> np.ndarray:
    """Return the encoder output of one chunk and one utterance as float32 (frames, dim)."""
    return encoder_out.reshape(-1, encoder_out.shape[-1]).astype(np.float32, copy=False)


def join(encoded: list[np.ndarray]) -> np.ndarray:
    """Return the outputs of successive chunks, each (frames, dim), as one array."""
    return np.concatenate(encoded) if encoded else np.zeros((0, 0), dtype=np.float32)
