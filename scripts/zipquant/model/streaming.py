"""The streaming loop: encoder calls chunk by chunk, states handed on, as sherpa-onnx does it."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from zipquant.errors import UserError
from zipquant.model.contract import Contract, inspect


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
            The encoder output, and the states after this chunk in the contract's order: new
            arrays, which the caller may write to.
        """


def open_session(path: str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Load an ONNX file into onnxruntime.

    Args:
        path: the ONNX file.
        threads: with one, a chunk's result depends neither on the machine's cores nor on other
            lanes; the workflow runs several shards at once instead.

    Raises:
        UserError: onnxruntime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise UserError(f"onnxruntime cannot load {path}: {error}") from None


class OnnxEncoder:
    """The float model in onnxruntime."""

    def __init__(self, path: str | Path, contract: Contract, threads: int = 1):
        """Load the model.

        Args:
            path: the ONNX file.
            contract: its contract.
            threads: see `open_session`.

        Raises:
            UserError: onnxruntime refuses the model.
        """
        self._session = open_session(path, threads)
        self._path = path
        self._contract = contract
        self._names = [tensor.name for tensor in contract.inputs]

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk of every lane; see `Encoder.run`.

        Raises:
            UserError: onnxruntime fails, or what the model gives has another shape or type than
                what it takes.
        """
        outputs = self._contract.outputs
        try:
            encoder_out, *new_states = self._session.run(
                outputs, dict(zip(self._names, [x, *states], strict=True))
            )
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise UserError(f"onnxruntime cannot run {self._path}: {error}") from None
        if encoder_out.ndim != 3 or encoder_out.dtype != np.float32:
            raise UserError(
                f"{self._path} is not a streaming encoder: output '{outputs[0]}' is "
                f"{encoder_out.dtype} {list(encoder_out.shape)}, not float32 with three axes"
            )
        for state, before, after in zip(self._contract.states, states, new_states, strict=True):
            if after.shape != before.shape or after.dtype != before.dtype:
                raise UserError(
                    f"{self._path} is not a streaming encoder: output '{state.next_output}' is "
                    f"{after.dtype} {list(after.shape)}, but input '{state.tensor.name}', which "
                    f"takes it, is {before.dtype} {list(before.shape)}"
                )
        return encoder_out, new_states


@dataclass(frozen=True)
class Batch:
    """One call of the encoder: a chunk of each lane's utterance.

    The arrays hold all lanes, on each tensor's batch axis, and are valid until the next batch is
    asked for: what is to be kept has to be copied.

    Attributes:
        utterances: of each lane, the utterance's position in the order in which they were given.
        chunks: of each lane, which chunk of its utterance this is, from 0.
        last: of each lane, whether it is the utterance's last chunk.
        x: features, float32 of shape (lanes, T, bins).
        states: the states before the chunks, in the contract's order.
        encoder_out: what the encoder gave.
        new_states: the states after the chunks.
    """

    utterances: list[int]
    chunks: list[int]
    last: list[bool]
    x: np.ndarray
    states: list[np.ndarray]
    encoder_out: np.ndarray
    new_states: list[np.ndarray]


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


def stream_batches(
    encoder: Encoder, contract: Contract, utterances: Iterable[np.ndarray], lanes: int
) -> Iterator[Batch]:
    """Run utterances through the encoder, several at once as lanes of one call.

    Each utterance starts with zero states and ends when fewer frames are left than a chunk takes.
    A lane whose utterance has ended takes the next one. Lanes do not influence each other: the
    result is bit-identical to one utterance at a time. Give the longest utterances first, so that
    the lanes stay full until near the end.

    Args:
        encoder: the model.
        contract: its contract.
        utterances: features of each utterance, float32 of shape (frames, bins); fetched only when
            a lane is free, so at most `lanes` of them are in memory.
        lanes: utterances a call; 1 is used where the model has a fixed batch.

    Yields:
        A batch for every call; the chunks of one utterance come in order.
    """
    waiting = (
        _Lane(position, frames, count)
        for position, frames in enumerate(utterances)
        if (count := contract.chunk_count(len(frames)))
    )
    axes = [state.tensor.batch_axis for state in contract.states]
    active = list(itertools.islice(waiting, lanes if contract.takes_lanes else 1))
    states = [state.tensor.zeros(len(active)) for state in contract.states]
    while active:
        x = np.stack([_window(lane, contract) for lane in active])
        encoder_out, new_states = encoder.run(x, states)
        yield Batch(
            [lane.utterance for lane in active],
            [lane.chunk for lane in active],
            [lane.chunk + 1 == lane.chunks for lane in active],
            x,
            states,
            encoder_out,
            new_states,
        )
        states, going = new_states, []
        for position, lane in enumerate(active):
            lane.chunk += 1
            if lane.chunk < lane.chunks:
                going.append(position)
            elif following := next(waiting, None):
                active[position] = following
                going.append(position)
                for state, axis in zip(states, axes, strict=True):
                    state[_lane_at(axis, position)] = 0
        if len(going) < len(active) > 1:
            states = [np.take(s, going, axis=a) for s, a in zip(states, axes, strict=True)]
        active = [active[position] for position in going]


def stream(
    encoder: Encoder, contract: Contract, utterances: Iterable[np.ndarray], lanes: int = 1
) -> Iterator[Step]:
    """Run utterances as `stream_batches` does, and give each chunk by itself.

    Yields:
        A step for every chunk; the steps of one utterance come in order, those of different
        utterances are interleaved.
    """
    axes = [state.tensor.batch_axis for state in contract.states]
    for batch in stream_batches(encoder, contract, utterances, lanes):
        for position, (utterance, chunk) in enumerate(
            zip(batch.utterances, batch.chunks, strict=True)
        ):
            before, after = (
                [lane_of(s, a, position) for s, a in zip(states, axes, strict=True)]
                for states in (batch.states, batch.new_states)
            )
            yield Step(
                utterance,
                chunk,
                [lane_of(batch.x, 0, position), *before],
                lane_of(batch.encoder_out, 0, position),
                after,
            )


def lane_of(array: np.ndarray, axis: int | None, position: int) -> np.ndarray:
    """Return a copy of one lane of a tensor, with a batch axis of 1.

    Args:
        array: the tensor of a call.
        axis: its batch axis; None for a fixed batch of 1.
        position: the lane.
    """
    return array[_lane_at(axis, slice(position, position + 1))].copy()


def _window(lane: _Lane, contract: Contract) -> np.ndarray:
    return contract.chunk(lane.frames, lane.chunk * contract.chunk_shift)


def _lane_at(axis: int | None, position: int | slice) -> tuple:
    """Return the index of a lane in a tensor; all of it where the model has but one lane.

    Args:
        axis: the tensor's batch axis, None for a fixed batch of 1.
        position: the lane, or a slice of lanes.
    """
    return (...,) if axis is None else (slice(None),) * axis + (position,)


TRIED = 12
"""Chunks that a new model is tried on."""


def inspect_and_try(
    model: str | Path, state_outputs: Mapping[str, str], output: str | Path
) -> None:
    """Read a model's contract, run some chunks of noise to see that it holds, and write it.

    Args:
        model: the encoder's ONNX file.
        state_outputs: see `contract.inspect`.
        output: the JSON file to write.

    Raises:
        UserError: the model is not a streaming encoder, a state changes its shape or type, an
            output is not finite, or differs from call to call.
    """
    contract = inspect(model, state_outputs)
    encoder = OnnxEncoder(model, contract)
    random = np.random.default_rng(0)
    states = [state.tensor.zeros() for state in contract.states]
    for chunk in range(TRIED):
        x = contract.noise(random)
        first, second = (
            [encoder_out, *new_states]
            for encoder_out, new_states in (encoder.run(x, states) for _ in range(2))
        )
        for name, a, b in zip(contract.outputs, first, second, strict=True):
            _check_output(model, f"'{name}'", chunk, a, b)
        states = first[1:]
    contract.save(output)


def _check_output(
    model: str | Path, name: str, chunk: int, once: np.ndarray, again: np.ndarray
) -> None:
    """Refuse an output that is no number, or another one when the same is computed again."""
    if not np.isfinite(once).all():
        what = "NaN" if np.isnan(once).any() else "infinity"
        raise UserError(
            f"{model}: its output {name} holds {what} in chunk {chunk + 1} of noise like speech "
            "features; the model itself is not sound, export it again and run it in onnxruntime"
        )
    if not np.array_equal(once, again):
        raise UserError(
            f"{model}: its output {name} differs from call to call with the same input; export the "
            "model in evaluation mode (model.eval())"
        )
