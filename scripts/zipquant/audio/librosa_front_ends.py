"""The front ends of the scripts that came before Zipquant, to measure beside the runtime's.

A board never computes these. They differ from `features.fbank` as their docstrings say; figures are
from 20 sentences of read Mandarin, natural-log units.
"""

import librosa
import numpy as np

from zipquant.audio.reading import SAMPLE_RATE

MEL = {"sr": SAMPLE_RATE, "n_fft": 400, "hop_length": 160, "n_mels": 80}
"""25 ms windows each 10 ms, as the runtime's, but transformed without padding to 512 points."""


def librosa_db(samples: np.ndarray) -> np.ndarray:
    """Compute script 05's features: librosa's mel spectrogram in decibels below its maximum.

    Against the runtime: decibels in place of natural logarithms, 0 at the loudest point of each
    file in place of a fixed scale, cut off 80 dB below it; no pre-emphasis and no DC removal, a
    Hann window, frames centred with zeros beyond the ends, Slaney's mel scale from 0 to 8,000 Hz
    with filters of equal area. Mean error 41.7, correlation 0.55.

    Args:
        samples: float32 samples at 16 kHz in [-1, 1], shape (samples,).

    Returns:
        float32, shape (frames, 80), one frame each 10 ms, and one more than the runtime has.
    """
    power = librosa.feature.melspectrogram(y=samples, **MEL)
    return np.ascontiguousarray(librosa.power_to_db(power, ref=np.max).T, dtype=np.float32)


def librosa_preemphasis(samples: np.ndarray) -> np.ndarray:
    """Compute the features of scripts 08 and 09: a treated wave, then librosa's log-mel.

    Against the runtime: the mean is removed and the pre-emphasis applied once, over the whole wave,
    not in each frame (so a frame's first sample is emphasised against the one before it); a Hann
    window, Slaney's mel scale with filters of equal area, which alone lowers the values by four,
    and a floor of 1e-10 (-23.0) in place of 1.2e-7 (-15.9). Mean error 4.7, correlation 0.79.

    Args:
        samples: float32 samples at 16 kHz in [-1, 1], shape (samples,).

    Returns:
        float32, shape (frames, 80), one frame each 10 ms, and one more than the runtime has.
    """
    centred = samples - samples.mean()
    emphasised = np.append(centred[:1], centred[1:] - 0.97 * centred[:-1])
    power = librosa.feature.melspectrogram(y=emphasised, fmin=20, fmax=7600, **MEL)
    return np.ascontiguousarray(np.log(np.maximum(power, 1e-10)).T, dtype=np.float32)
