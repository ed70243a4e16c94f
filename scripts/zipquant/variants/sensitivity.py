"""What the rounding of each tensor adds to the error of the encoder output, of all tensors at once.

Where a tensor is rounded, a zero tensor is added, and nothing is rounded. With the Jacobian J of
all encoder outputs by such a tensor, over the chunks that follow too, a small error e in it becomes
the noise |J e|^2. For a vector v of random signs, E[(J'v)_i^2] is the squared length of column i of
J, so if the errors of single values have nothing to do with each other, the sum of (J'v)_i^2 e_i^2
over all values estimates that noise (Hutchinson's estimator of a diagonal). One backward pass
through time gives J'v for all tensors, and the values give each e: what rounding would do to them.
Errors can be the same along an axis, as where one number was copied for all channels. So their mean
along each axis, weighted with the squared gradient, is taken apart, and counts as one value.

The states before every chunk come from the float model, so that the pass can go chunk by chunk from
the end and hand on the gradient by the states: no chunk but one is in memory, and nothing is cut
off. The estimate is linear. It is wrong where rounding is coarse for what follows, such as scores
of attention with one step of more than 1 before the softmax, or values far outside the calibrated
range. `alone` measures such a rounding as it is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zipquant.jobs.progress import Progress
from zipquant.model.contract import Contract
from zipquant.model.streaming import Batch, Encoder, stream_batches
from zipquant.variants.emulation import Emulation, fake_quantize, lanes_in_front

LANES = 6
"""Utterances at once: more take more memory, and are hardly faster."""

ALONE_LANES = 96
"""Utterances times roundings that `alone` runs at once: a call of the emulation takes hardly more
time with twice as many, until there are about so many."""

SEED = 0
"""Of the random signs; one vector of them does, since every value of every chunk has its own."""


@dataclass(frozen=True)
class Sensitivity:
    """What the backward pass has found.

    Attributes:
        noise: by tensor, what its rounding adds to the encoder output: a sum of squares over all
            chunks.
        largest: by tensor, the largest error of a value, in steps of its scale; what is not cut off
            is at most half a step off.
        error: how far the emulation without rounding is off the float model: the largest
            difference in a chunk, as a share of the chunk's largest value.
    """

    noise: dict[str, float]
    largest: dict[str, float]
    error: float


def measure(
    emulation: Emulation,
    contract: Contract,
    reference: Encoder,
    utterances: Sequence[np.ndarray],
    places: Sequence[str],
    float16: frozenset[str],
) -> Sensitivity:
    """Estimate the noise of each rounding.

    Args:
        emulation: the quantized encoder.
        contract: its contract.
        reference: the float model.
        utterances: features of each, float32 (frames, bins), the longest first.
        places: the tensors that are rounded.
        float16: the tensors that stay in float16 in any case.

    Raises:
        UnknownOperator: the graph holds an operator that is not emulated.
    """
    backward = _Backward(emulation, contract, places, float16)
    chunks = sum(contract.chunk_count(len(frames)) for frames in utterances)
    progress = Progress("chunks", chunks)
    for first in range(0, len(utterances), LANES):
        group = utterances[first : first + LANES]
        # The states of all chunks: some MB each.
        batches = [_copy(batch) for batch in stream_batches(reference, contract, group, LANES)]
        backward.begin()
        for batch in reversed(batches):
            backward.step(batch)
            progress.advance(len(batch.utterances))
    return Sensitivity(backward.noise, backward.largest, backward.error)


def alone(
    emulation: Emulation,
    contract: Contract,
    utterances: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    roundings: Sequence[Collection[str]],
    float16: frozenset[str],
) -> np.ndarray:
    """Measure the noise of some roundings, each by itself, free-running.

    Args:
        emulation: the quantized encoder.
        contract: its contract.
        utterances: features of each, float32 (frames, bins), the longest first.
        expected: the float model's encoder outputs for them, each float32 (frames, dim).
        roundings: the tensors of each.
        float16: the tensors that stay in float16 in any case.

    Returns:
        For each, the sum of squares of what it adds to the encoder outputs, float64.
    """
    tried, power = len(roundings), np.zeros(len(roundings))
    if not tried:
        return power
    at_once = max(1, ALONE_LANES // tried)
    for first in range(0, len(utterances), at_once):
        group = utterances[first : first + at_once]
        parts = [
            encoded.reshape(contract.chunk_count(len(frames)), -1)
            for frames, encoded in zip(group, expected[first:], strict=False)
        ]
        lanes = [each for _ in group for each in roundings]
        states = [
            np.zeros((len(lanes), *state.tensor.shape), state.tensor.dtype)
            for state in contract.states
        ]
        for chunk in range(len(parts[0])):
            # The longest come first, so those that go on are the first ones.
            going = sum(len(part) > chunk for part in parts)
            start, count = chunk * contract.chunk_shift, going * tried
            x = np.stack([contract.chunk(frames, start)[None] for frames in group[:going]])
            encoder_out, states = emulation.run(
                np.repeat(x, tried, axis=0),
                [state[:count] for state in states],
                float16,
                lanes[:count],
            )
            found = encoder_out.reshape(going, tried, -1).astype(float)
            for each, part in zip(found, parts, strict=False):
                power += ((each - part[chunk]) ** 2).sum(axis=1)
    return power


class _Backward:
    """A pass from the last chunk of some utterances to their first."""

    def __init__(
        self,
        emulation: Emulation,
        contract: Contract,
        places: Sequence[str],
        float16: frozenset[str],
    ):
        self._emulation, self._contract = emulation, contract
        self._places, self._float16 = places, float16
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._signs = torch.Generator().manual_seed(SEED)
        self._after: dict[int, list[torch.Tensor | None]] = {}
        self.noise = dict.fromkeys(places, 0.0)
        self.largest = dict.fromkeys(places, 0.0)
        self.error = 0.0

    def begin(self) -> None:
        """Begin with other utterances: nothing comes behind their last chunks."""
        self._after = {}

    def step(self, batch: Batch) -> None:
        """Add what the roundings in the chunks before the last ones do."""
        tensors = self._contract.inputs
        inputs = [
            torch.from_numpy(np.ascontiguousarray(lanes_in_front(array, tensor)))
            for array, tensor in zip((batch.x, *batch.states), tensors, strict=True)
        ]
        states = inputs[1:]
        for state in states:
            state.requires_grad_(state.is_floating_point())
        probes = self._probes(inputs)
        (encoder_out, *after), errors = self._forward(probes, inputs)
        found = encoder_out.detach().numpy().reshape(len(inputs[0]), -1)
        expected = batch.encoder_out.reshape(found.shape)
        off = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
        self.error = max(self.error, float(off.max()))
        # Counters have no gradient, nor have states that do not come from any.
        roots = [(encoder_out, self._random_signs(encoder_out))]
        roots += [
            (state, self._gradient(batch, number, state))
            for number, state in enumerate(after)
            if state.requires_grad
        ]
        wanted = [*probes.values(), *(s for s in states if s.requires_grad)]
        outputs, weights = zip(*roots, strict=True)
        gradients = list(torch.autograd.grad(outputs, wanted, weights, allow_unused=True))
        for name, gradient in zip(probes, gradients[: len(probes)], strict=True):
            if gradient is not None:
                self.noise[name] += _power(gradient, errors[name])
                steps = float(errors[name].abs().max()) / self._emulation.scales[name].scale
                self.largest[name] = max(self.largest[name], steps)
        self._hand_on(batch, states, gradients[len(probes) :])

    def _probes(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a zero tensor for each rounding and each lane; shapes are found in a first run."""
        if not self._shapes:
            with torch.no_grad():
                shapes = self._shapes

                def seen(name: str, value: torch.Tensor) -> torch.Tensor:
                    shapes[name] = tuple(value.shape)
                    return value

                self._emulation.run_unrounded([i[0] for i in inputs], self._float16, seen)
        return {
            name: torch.zeros((len(inputs[0]), *self._shapes[name]), requires_grad=True)
            for name in self._places
            if name in self._shapes
        }

    def _forward(
        self, probes: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Return the outputs, and what rounding would do to each tensor."""

        def one(
            probes: Mapping[str, torch.Tensor], *inputs: torch.Tensor
        ) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
            errors = {}

            def probed(name: str, value: torch.Tensor) -> torch.Tensor:
                if name not in probes:
                    return value
                exact = value.detach()
                errors[name] = fake_quantize(exact, self._emulation.scales[name]) - exact
                return value + probes[name]

            return self._emulation.run_unrounded(inputs, self._float16, probed), errors

        return torch.vmap(one)(dict(probes), *inputs)

    def _random_signs(self, like: torch.Tensor) -> torch.Tensor:
        return 2.0 * torch.randint(0, 2, like.shape, generator=self._signs) - 1.0

    def _gradient(self, batch: Batch, number: int, state: torch.Tensor) -> torch.Tensor:
        """Return what the following chunks say of a state; zero where there is none."""
        gradient = torch.zeros_like(state)
        for lane, utterance in enumerate(batch.utterances):
            found = self._after.get(utterance, [])
            if found and found[number] is not None:
                gradient[lane] = found[number]
        return gradient

    def _hand_on(
        self,
        batch: Batch,
        states: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor | None],
    ) -> None:
        given = iter(gradients)
        by_state = [next(given) if state.requires_grad else None for state in states]
        self._after = {
            utterance: [None if g is None else g[lane] for g in by_state]
            for lane, utterance in enumerate(batch.utterances)
        }


def _power(gradient: torch.Tensor, error: torch.Tensor, axis: int = 1) -> float:
    """Return the power of what an error does to the output; see the module.

    Args:
        gradient: of the output by the tensor, (lanes, ...).
        error: of the tensor, likewise.
        axis: the first whose common errors are not yet taken apart.
    """
    while axis < error.dim() and error.shape[axis] == 1:
        axis += 1
    if axis == error.dim():
        return float((gradient * error).square().sum())
    # A value that the output does not look at, such as a masked score, says nothing of the others.
    weights = gradient.square()
    total = weights.sum(axis, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    common = (weights * error).sum(axis, keepdim=True) / total
    summed = gradient.sum(axis, keepdim=True)
    return _power(summed, common, axis + 1) + _power(gradient, error - common, axis + 1)


def _copy(batch: Batch) -> Batch:
    """Return a batch that stays valid when the next one is asked for."""
    return Batch(
        batch.utterances,
        batch.chunks,
        batch.last,
        batch.x.copy(),
        [state.copy() for state in batch.states],
        batch.encoder_out.copy(),
        [],
    )
