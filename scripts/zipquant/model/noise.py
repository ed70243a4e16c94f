"""Signal and noise: how far what a variant gives is from what the float model gives."""

import numpy as np


def compare(reference: np.ndarray, candidate: np.ndarray) -> dict[str, float]:
    """Return the sums from which SQNR and cosine of any group of chunks follow.

    Returns:
        `signal` and `power`: sum of squares of reference and candidate; `dot`: of their products;
        `noise`: of their difference; `max_error`: the largest absolute difference.
    """
    a = reference.astype(np.float64).ravel()
    b = candidate.astype(np.float64).ravel()
    difference = b - a
    return {
        "signal": float(a @ a),
        "power": float(b @ b),
        "dot": float(a @ b),
        "noise": float(difference @ difference),
        "max_error": float(np.abs(difference).max()),
    }


def sqnr(signal: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the signal to quantization noise ratio in dB; infinite where there is no noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(np.asarray(signal, dtype=float) / np.asarray(noise, dtype=float))
    return np.where(np.asarray(noise) == 0, np.inf, ratio)
