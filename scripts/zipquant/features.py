"""Log-mel features, computed by the library that sherpa-onnx itself computes them with.

Other front ends exist only to measure what became of older calibration sets.
"""

from collections.abc import Callable
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np

from zipquant import audio, front_ends, index
from zipquant.frame_store import FrameWriter
from zipquant.progress import Progress

FRAMES_PER_SECOND = 100
"""One frame each 10 ms (FrameExtractionOptions.frame_shift_ms, left at its default)."""


def fbank(samples: np.ndarray) -> np.ndarray:
    """Compute the features that sherpa-onnx feeds to a Zipformer.

    The options are those of sherpa-onnx's csrc/features.cc: 16 kHz, 80 mel bins from 20 Hz to
    -400 Hz (7,600 Hz), no dither, snip_edges false; kaldi's defaults for the rest (25 ms povey
    window, 10 ms shift, DC removal and pre-emphasis 0.97 in each frame, log energies).

    Args:
        samples: float32 samples at 16 kHz in [-1, 1], shape (samples,).

    Returns:
        float32 log-mel features, shape (frames, 80), one frame each 10 ms.
    """
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = audio.SAMPLE_RATE
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = -400
    extractor = knf.OnlineFbank(options)
    extractor.accept_waveform(audio.SAMPLE_RATE, samples)
    extractor.input_finished()
    frames = np.empty((extractor.num_frames_ready, options.mel_opts.num_bins), dtype=np.float32)
    for number in range(len(frames)):
        frames[number] = extractor.get_frame(number)
    return frames


FRONT_ENDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "kaldi": fbank,
    "librosa-db": front_ends.librosa_db,
    "librosa-preemphasis": front_ends.librosa_preemphasis,
}
"""All take float32 samples at 16 kHz and return float32 features, shape (frames, 80)."""


def extract(
    path: str | Path, channels: str, tail_padding: float, front_end: str = "kaldi"
) -> np.ndarray:
    """Compute the features of one audio file; with `kaldi`, as they arise at run time.

    Args:
        path: a wav or flac file.
        channels: `mean` or `first`, see `audio.load`.
        tail_padding: seconds of silence appended, so that the last words leave the encoder.
        front_end: a key of `FRONT_ENDS`.

    Returns:
        float32 log-mel features, shape (frames, 80).

    Raises:
        UserError: the file is not usable as audio.
    """
    samples = audio.load(path, channels)
    padding = np.zeros(round(tail_padding * audio.SAMPLE_RATE), dtype=np.float32)
    return FRONT_ENDS[front_end](np.concatenate([samples, padding]))


def extract_shard(
    index_file: str | Path,
    output: str | Path,
    channels: str,
    tail_padding: float,
    front_end: str = "kaldi",
) -> None:
    """Compute the features of a shard's usable utterances into one feature file.

    Args:
        index_file: the shard's index, written by `index.write`.
        output: the feature file to write.
        channels: `mean` or `first`, see `audio.load`.
        tail_padding: seconds of silence appended to each utterance.
        front_end: a key of `FRONT_ENDS`.

    Raises:
        UserError: a file of the index has vanished or has been damaged since it was indexed.
    """
    entries = index.read_usable(index_file)
    progress = Progress("utterances", len(entries))
    with FrameWriter(output) as writer:
        for entry in entries:
            writer.add(entry.id, extract(entry.path, channels, tail_padding, front_end))
            progress.advance()
