"""Features as sherpa-onnx computes them. They run on a board too, so they need little."""

from typing import Any

import kaldi_native_fbank as knf
import numpy as np

from zipquant.board import whisper
from zipquant.board.description import BINS

SAMPLE_RATE = 16000
"""Hz; what every published streaming Zipformer is trained with and sherpa-onnx resamples to."""

FRAMES_PER_SECOND = 100
"""One frame each 10 ms (FrameExtractionOptions.frame_shift_ms, left at its default)."""


def fbank(samples: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Compute the features that sherpa-onnx feeds to a Zipformer.

    The options are those of sherpa-onnx's csrc/features.cc: 16 kHz, 80 mel bins from 20 Hz to
    -400 Hz (7,600 Hz), no dither, snip_edges false; kaldi's defaults for the rest (25 ms povey
    window, 10 ms shift, DC removal and pre-emphasis 0.97 in each frame, log energies).

    Args:
        samples: float32 samples at 16 kHz in [-1, 1], shape (samples,).
        bins: mel bins.

    Returns:
        float32 log-mel features, shape (frames, bins), one frame each 10 ms.
    """
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = bins
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = -400
    return _frames(knf.OnlineFbank(options), samples, bins)


def whisper_log_mel(samples: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Compute logarithms of mel energies as Whisper takes them, to be normalised chunk by chunk.

    kaldi-native-fbank's csrc/whisper-feature.cc sets all: 25 ms periodic Hann window, 10 ms shift,
    an FFT of 400, neither pre-emphasis nor DC removal, Slaney's mel bins from 0 to 8,000 Hz.

    Args:
        samples: float32 samples at 16 kHz in [-1, 1], shape (samples,).
        bins: mel bins.

    Returns:
        float32 decimal logarithms, shape (frames, bins), one frame each 10 ms; see
        `whisper.normalise`.
    """
    options = knf.WhisperFeatureOptions()
    options.dim = bins
    energies = _frames(knf.OnlineWhisperFbank(options), samples, bins)
    return np.log10(np.maximum(energies, np.float32(whisper.LEAST)))


def _frames(extractor: Any, samples: np.ndarray, bins: int) -> np.ndarray:
    """Run an extractor of kaldi-native-fbank over a whole utterance."""
    extractor.accept_waveform(SAMPLE_RATE, samples)
    extractor.input_finished()
    frames = [extractor.get_frame(i) for i in range(extractor.num_frames_ready)]
    return np.array(frames, dtype=np.float32).reshape(len(frames), bins)
