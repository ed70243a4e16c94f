"""Whether a rewritten encoder computes what the original computes."""

import numpy as np
import onnx
import onnxruntime

from zipquant.model.contract import Contract

TOLERANCE = 1e-5
"""Largest error that a rewrite may make; see `error`. Float32 itself has 6e-8 in each operation."""

ROUNDING = 4
"""How many times as far a rewrite may be off as the original moves by its own rounding: it rounds
in other places. Models differ: icefall's export of a small Zipformer2 with random weights is itself
1.25e-5 off what float64 gives, and its rewrite 9e-6."""

LIMIT = 1e-4
"""Largest error that is put down to rounding. A wrong rewrite is off by far more."""

CHUNKS = 3
"""Chunks in a row that `of_models` compares on: the states of the later ones are no zeros."""


def error(expected: list[list[np.ndarray]], got: list[list[np.ndarray]]) -> float:
    """Return the largest error of two models' outputs, relative to the scale of each output.

    For each output, the largest absolute difference in all rows is divided by the largest absolute
    value of the expected output in all rows (by 1 where that is all zeros); the largest of these is
    returned. Integer outputs that differ at all count as infinitely wrong, as does what is NaN in
    one of both.

    Args:
        expected: outputs of the original by row.
        got: outputs of the rewritten model by row, in the same order.
    """
    worst = 0.0
    for a, b in zip(
        map(np.stack, zip(*expected, strict=True)),
        map(np.stack, zip(*got, strict=True)),
        strict=True,
    ):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if np.issubdtype(a.dtype, np.integer):
            if not np.array_equal(a, b):
                return float("inf")
            continue
        difference = float(np.abs(a - b).max(initial=0.0))
        if np.isnan(difference):
            return float("inf")
        worst = max(worst, difference / (float(np.abs(a).max(initial=0.0)) or 1.0))
    return worst


def nudged(rows: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Return rows of inputs whose every float is the next one, above or below."""
    rng = np.random.default_rng(0)

    def neighbour(array: np.ndarray) -> np.ndarray:
        if array.dtype != np.float32:
            return array
        towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        return np.nextafter(array, towards)

    return [[neighbour(array) for array in row] for row in rows]


def allowed(expected: list[list[np.ndarray]], moved: list[list[np.ndarray]]) -> float:
    """Return the error that a rewrite may make.

    Args:
        expected: outputs of the original by row.
        moved: its outputs for the same rows `nudged`.
    """
    return max(TOLERANCE, min(ROUNDING * error(expected, moved), LIMIT))


def of_models(
    original: onnx.ModelProto, rewritten: onnx.ModelProto, contract: Contract
) -> tuple[float, float]:
    """Return the `error` of a rewritten model on a few chunks of noise, and what is `allowed`.

    The noise has mean and spread of log-mel energies. It tells a wrong rewrite from a right one;
    the proof on real speech comes later.
    """
    noise = np.random.default_rng(0)
    first, second = [_session(model) for model in (original, rewritten)]
    states = [state.tensor.zeros() for state in contract.states]
    rows: list[list[np.ndarray]] = []
    expected: list[list[np.ndarray]] = []
    for _ in range(CHUNKS):
        rows.append([contract.noise(noise), *states])
        expected += _outputs(first, contract, rows[-1:])
        states = expected[-1][1:]
    moved = _outputs(first, contract, nudged(rows))
    return error(expected, _outputs(second, contract, rows)), allowed(expected, moved)


def _outputs(
    session: onnxruntime.InferenceSession, contract: Contract, rows: list[list[np.ndarray]]
) -> list[list[np.ndarray]]:
    names = [tensor.name for tensor in contract.inputs]
    return [session.run(contract.outputs, dict(zip(names, row, strict=True))) for row in rows]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
