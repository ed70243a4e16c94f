"""Whether a rewritten encoder computes what the original computes."""

import numpy as np
import onnx
import onnxruntime

from zipquant.model.contract import Contract

TOLERANCE = 1e-5
"""Largest error that a rewrite may make; see `error`. Float32 itself has 6e-8 in each operation."""

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


def of_models(original: onnx.ModelProto, rewritten: onnx.ModelProto, contract: Contract) -> float:
    """Return the `error` of a rewritten model on a few chunks of noise, one after the other.

    The noise has mean and spread of log-mel energies. It tells a wrong rewrite from a right one;
    the proof on real speech comes later.
    """
    noise = np.random.default_rng(0)
    sessions = [_session(model) for model in (original, rewritten)]
    states = [state.tensor.zeros() for state in contract.states]
    names = [tensor.name for tensor in contract.inputs]
    rows: tuple[list, list] = ([], [])
    for _ in range(CHUNKS):
        x = noise.normal(-8, 4, contract.x.shape).astype(np.float32)
        given = dict(zip(names, [x, *states], strict=True))
        for session, row in zip(sessions, rows, strict=True):
            row.append(session.run(contract.outputs, given))
        states = rows[0][-1][1:]
    return error(*rows)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
