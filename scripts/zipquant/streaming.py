"""The streaming loop: encoder calls chunk by chunk, states handed on, as sherpa-onnx does it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from zipquant.contract import Contract, inspect
from zipquant.errors import UserError


class Encoder(Protocol):
    """Anything that runs one chunk: the ONNX model, or the toolkit's simulator."""

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk.

        Args:
            x: features, float32 of shape (lanes, T, bins).
            states: the states before this chunk, in the contract's order.

        Returns:
            The encoder output, and the states after this chunk in the contract's order.
        """


def open_session(path: str | Path) -> onnxruntime.InferenceSession:
    """Load an ONNX file into onnxruntime, for one thread.

    Raises:
        UserError: onnxruntime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    # One thread makes the result independent of the machine's cores; the workflow runs several
    # shards at once instead.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise UserError(f"onnxruntime cannot load {path}: {error}") from None


class OnnxEncoder:
    """The float model in onnxruntime."""

    def __init__(self, path: str | Path, contract: Contract):
        """Load the model.

        Raises:
            UserError: onnxruntime refuses the model.
        """
        self._session = open_session(path)
        self._path = path
        self._names = [tensor.name for tensor in contract.inputs]
        self._outputs = list(contract.outputs)

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk of every lane; see `Encoder.run`."""
        try:
            encoder_out, *new_states = self._session.run(
                self._outputs, dict(zip(self._names, [x, *states], strict=True))
            )
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise UserError(f"onnxruntime cannot run {self._path}: {error}") from None
        return encoder_out, new_states


@dataclass(frozen=True)
class Step:
    """One chunk of one utterance, batch axis 1.

    Attributes:
        utterance: position of the utterance in the order in which they were given.
        chunk: 0 for the utterance's first chunk.
        inputs: x and the states before the chunk, in the contract's order.
        encoder_out: what the encoder gave for it.
        new_states: the states after it.
    """

    utterance: int
    chunk: int
    inputs: list[np.ndarray]
    encoder_out: np.ndarray
    new_states: list[np.ndarray]


@dataclass
class _Lane:
    utterance: int
    frames: np.ndarray
    chunks: int
    chunk: int = 0


def stream(
    encoder: Encoder, contract: Contract, utterances: Iterable[np.ndarray], lanes: int = 1
) -> Iterator[Step]:
    """Run utterances through the encoder, several at once as lanes of one call.

    Each utterance starts with zero states and ends when fewer frames are left than a chunk takes.
    A lane whose utterance has ended takes the next one. Lanes do not influence each other: the
    result is bit-identical to one utterance at a time.

    Args:
        encoder: the model.
        contract: its contract.
        utterances: features of each utterance, float32 of shape (frames, bins); fetched only when
            a lane is free, so at most `lanes` of them are in memory.
        lanes: utterances a call; 1 is used where the model has a fixed batch.

    Yields:
        A step for every chunk; the steps of one utterance come in order, those of different
        utterances are interleaved.
    """
    lanes = lanes if contract.takes_lanes else 1
    axes = [state.tensor.batch_axis or 0 for state in contract.states]
    start = [state.tensor.zeros() for state in contract.states]
    waiting = enumerate(utterances)
    active: list[_Lane] = []
    states: list[np.ndarray] = []
    while True:
        while len(active) < lanes and (following := next(waiting, None)):
            utterance, frames = following
            if chunks := contract.chunk_count(len(frames)):
                states = _join(states, start, axes) if active else start
                active.append(_Lane(utterance, frames, chunks))
        if not active:
            return
        x = np.stack([_window(lane, contract) for lane in active])
        encoder_out, new_states = encoder.run(x, states)
        for position, lane in enumerate(active):
            cut = slice(position, position + 1)
            yield Step(
                lane.utterance,
                lane.chunk,
                [x[cut], *(_cut(s, a, cut) for s, a in zip(states, axes, strict=True))],
                encoder_out[cut],
                [_cut(s, a, cut) for s, a in zip(new_states, axes, strict=True)],
            )
            lane.chunk += 1
        going = [position for position, lane in enumerate(active) if lane.chunk < lane.chunks]
        states = new_states
        if len(going) < len(active):
            states = [np.take(s, going, axis=a) for s, a in zip(new_states, axes, strict=True)]
            active = [active[position] for position in going]


def _window(lane: _Lane, contract: Contract) -> np.ndarray:
    first = lane.chunk * contract.chunk_shift
    return lane.frames[first : first + contract.chunk_frames]


def _join(
    states: Sequence[np.ndarray], more: Sequence[np.ndarray], axes: Sequence[int]
) -> list[np.ndarray]:
    pairs = zip(states, more, axes, strict=True)
    return [np.concatenate([state, new], axis=axis) for state, new, axis in pairs]


def _cut(array: np.ndarray, axis: int, lanes: slice) -> np.ndarray:
    return array[(slice(None),) * axis + (lanes,)]


def inspect_and_try(
    model: str | Path, state_outputs: Mapping[str, str], output: str | Path
) -> None:
    """Read a model's contract, run two chunks of zeros to see that it holds, and write it.

    Args:
        model: the encoder's ONNX file.
        state_outputs: see `contract.inspect`.
        output: the JSON file to write.

    Raises:
        UserError: the model is not a streaming encoder, or a state changes its shape or type.
    """
    contract = inspect(model, state_outputs)
    encoder = OnnxEncoder(model, contract)
    states = [state.tensor.zeros() for state in contract.states]
    for _ in range(2):
        _, states = encoder.run(contract.x.zeros(), states)
        for state, array in zip(contract.states, states, strict=True):
            expected = state.tensor
            if array.shape != expected.shape or array.dtype != expected.dtype:
                raise UserError(
                    f"{model} is not a streaming encoder: output '{state.next_output}' is "
                    f"{array.dtype} {list(array.shape)}, but input '{expected.name}', which takes "
                    f"it, is {expected.dtype} {list(expected.shape)}"
                )
    contract.save(output)
