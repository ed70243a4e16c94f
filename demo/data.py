"""Training and test material: strings of spoken digits with the time of every digit, augmented, as
features.

A *unit* is a piece of speech with one or more digits: a recording of one digit, or one digit or a
short phrase from espeak-ng. Strings are units laid on a time line with pauses between them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.signal
import soundfile as sf
import soxr
from torch.utils.data import Dataset

# The model is trained on the very features that the workflow computes.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from speak import ACCENTS, HELD_OUT, MORE_VARIANTS, RATE, VARIANTS, speak
from transducer import WORDS
from zipquant.audio.features import fbank

TAIL = 0.66  # seconds of zeros after every utterance, as in sherpa-onnx's own examples
FRAME = 0.04  # seconds between two encoder outputs
# the middle of what output 0 sees, in seconds: the front end needs 7 frames, the rate halves twice
LATENCY = 0.05
SILENCE = float(np.log(np.finfo(np.float32).eps))  # log-mel energy of digital silence
BATCH_SECONDS = 50.0
LENGTHS = {
    1.5: 0.1,
    2.5: 0.2,
    3.5: 0.3,
    4.5: 0.2,
    6.0: 0.15,
    9.0: 0.05,
}  # seconds of a batch's strings: share


@dataclass(frozen=True)
class Unit:
    """Speech at 16 kHz with its digits; ``bounds`` are the n + 1 times in seconds between the n
    digits.
    """

    samples: np.ndarray
    digits: tuple[int, ...]
    bounds: tuple[float, ...]


@dataclass
class Speaker:
    """All units of one voice."""

    human: bool
    digits: dict[int, list[Unit]] = field(default_factory=dict)
    phrases: list[Unit] = field(default_factory=list)


@dataclass(frozen=True)
class Utterance:
    """A string of digits: samples in [-1, 1] at 16 kHz, start and end of each digit in seconds."""

    samples: np.ndarray
    digits: tuple[int, ...]
    spans: tuple[tuple[float, float], ...]


def features(samples: np.ndarray, tail: float = TAIL) -> np.ndarray:
    """Log-mel features (frames, 80), one frame each 10 ms, as sherpa-onnx computes them, with zeros
    appended.
    """
    padded = np.concatenate([samples, np.zeros(int(tail * RATE))]).astype(np.float32)
    return fbank(padded)


def chunk_count(frames: int, segment: int = 39, step: int = 32) -> int:
    """Chunks that sherpa-onnx runs: one while ``processed + segment < frames``."""
    return max(0, -(-(frames - segment) // step))


def trim(samples: np.ndarray, floor_db: float = 32.0) -> np.ndarray:
    """Cut silence at both ends: 10 ms blocks more than ``floor_db`` below the loudest; 20 ms stay
    as a margin.
    """
    block = RATE // 100
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    energy = np.sqrt((blocks**2).mean(axis=1))
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-floor_db / 20))
    return samples[max(0, loud[0] - 2) * block : (loud[-1] + 3) * block]


def load_recordings(folder: Path, indices: Iterable[int]) -> dict[str, Speaker]:
    """The recordings ``{digit}_{speaker}_{index}.wav`` of a folder with one of the indices, by
    speaker.
    """
    wanted, speakers = set(indices), {}
    for path in sorted(folder.glob("*_*_*.wav")):
        digit, name, index = path.stem.split("_")
        if int(index) not in wanted:
            continue
        samples, rate = sf.read(path, dtype="float32")
        samples = trim(soxr.resample(samples, rate, RATE, quality="HQ"))
        unit = Unit(samples, (int(digit),), (0.0, len(samples) / RATE))
        speaker = speakers.setdefault(name, Speaker(human=True))
        speaker.digits.setdefault(int(digit), []).append(unit)
    if not speakers:
        raise SystemExit(
            f"{folder}: no recordings named digit_speaker_index.wav with the wanted indices"
        )
    return speakers


def make_voice(accent: str, variant: str, speed: int, pitch: int, phrases: np.ndarray) -> Speaker:
    """All ten digits and a few phrases (rows of digits) by one espeak-ng voice."""
    voice, speaker = f"{accent}+{variant}", Speaker(human=False)
    for digit, word in enumerate(WORDS):
        samples = trim(speak(word, voice, speed, pitch))
        speaker.digits[digit] = [Unit(samples, (digit,), (0.0, len(samples) / RATE))]
    for row in phrases:
        samples = trim(speak(" ".join(WORDS[d] for d in row), voice, speed, pitch))
        # within a phrase the digits share the time as their lengths alone do
        parts = np.cumsum([0] + [len(speaker.digits[int(d)][0].samples) for d in row])
        bounds = parts / parts[-1] * len(samples) / RATE
        speaker.phrases.append(Unit(samples, tuple(int(d) for d in row), tuple(bounds)))
    return speaker


def make_voices(count: int, variants: tuple[str, ...], seed: int) -> dict[str, Speaker]:
    """``count`` espeak-ng voices: every variant in turn, each with an accent, speed and pitch by
    chance.
    """
    rng = np.random.default_rng(seed)
    plans = []
    for i in range(count):
        accent = ACCENTS[rng.integers(len(ACCENTS))]
        speed, pitch = int(rng.integers(80, 230)), int(rng.integers(15, 90))
        phrases = rng.integers(0, 10, (4, 3))
        plans.append((accent, variants[i % len(variants)], speed, pitch, phrases))
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda plan: make_voice(*plan), plans)
        return {f"espeak-{i}-{p[1]}": v for i, (p, v) in enumerate(zip(plans, made, strict=True))}


def training_speakers(digits: Path) -> dict[str, Speaker]:
    """Recordings 10 to 49 of every person, and 300 espeak-ng voices."""
    variants = VARIANTS + MORE_VARIANTS
    return load_recordings(digits, range(10, 50)) | make_voices(300, variants, seed=1)


def held_out_recordings(digits: Path) -> dict[str, Speaker]:
    """Recordings 5 to 9 of every person."""
    return load_recordings(digits, range(5, 10))


def held_out_voices() -> dict[str, Speaker]:
    """16 espeak-ng voices of variants that training never hears."""
    return make_voices(16, HELD_OUT, seed=2)


def pause(rng: np.random.Generator) -> float:
    """Seconds between two units: mostly short, sometimes an overlap, rarely long."""
    kind = rng.random()
    if kind < 0.35:
        return rng.uniform(-0.03, 0.06)
    if kind < 0.8:
        return rng.uniform(0.06, 0.4)
    if kind < 0.96:
        return rng.uniform(0.4, 1.2)
    return rng.uniform(1.2, 4.0)


def resample_by(samples: np.ndarray, factor: float) -> np.ndarray:
    """Faster and higher by ``factor``, by linear interpolation."""
    places = np.arange(0, len(samples) - 1, factor)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def lay_out(placed: list[tuple[float, Unit]], seconds: float) -> Utterance:
    """Add units at their start times (seconds) into one utterance."""
    samples = np.zeros(int(seconds * RATE) + 1, dtype=np.float32)
    digits: list[int] = []
    spans: list[tuple[float, float]] = []
    for start, unit in placed:
        first = int(start * RATE)
        piece = unit.samples[: len(samples) - first]
        samples[first : first + len(piece)] += piece
        digits += unit.digits
        spans += [
            (start + a, start + b) for a, b in zip(unit.bounds[:-1], unit.bounds[1:], strict=True)
        ]
    return Utterance(samples, tuple(digits), tuple(spans))


def test_string(rng: np.random.Generator, speaker: Speaker) -> Utterance:
    """3 to 7 digits by one speaker as recorded, with pauses of 0.05 to 0.5 s."""
    position, placed = rng.uniform(0.1, 0.5), []
    for _ in range(rng.integers(3, 8)):
        units = speaker.digits[int(rng.integers(10))]
        unit = units[rng.integers(len(units))]
        placed.append((position, unit))
        position += unit.bounds[-1] + rng.uniform(0.05, 0.5)
    return lay_out(placed, position)


def test_strings(speakers: dict[str, Speaker], each: int, seed: int) -> dict[str, list[Utterance]]:
    """``each`` strings of every speaker."""
    rng = np.random.default_rng(seed)
    return {n: [test_string(rng, s) for _ in range(each)] for n, s in sorted(speakers.items())}


def training_string(
    rng: np.random.Generator, humans: list[Speaker], voices: list[Speaker], seconds: float
) -> Utterance:
    """A string that fills about ``seconds``, before augmentation of the whole."""
    pool = humans if rng.random() < 0.6 else voices
    one_speaker = rng.random() < 0.75
    speaker = pool[rng.integers(len(pool))]
    # people are fewer and all men: shift them further, and more often upwards
    low, high = (0.82, 1.3) if speaker.human else (0.87, 1.15)
    factor = rng.uniform(low, high) if rng.random() < 0.8 else 1.0
    position = rng.uniform(0, 0.6) if rng.random() < 0.9 else rng.uniform(0, 2.0)
    placed: list[tuple[float, Unit]] = []
    if rng.random() < 0.03:
        return lay_out([], seconds)
    while True:
        if not one_speaker:
            speaker = pool[rng.integers(len(pool))]
        if speaker.phrases and rng.random() < 0.35:
            unit = speaker.phrases[rng.integers(len(speaker.phrases))]
        else:
            units = speaker.digits[int(rng.integers(10))]
            unit = units[rng.integers(len(units))]
        speed = factor * rng.uniform(0.96, 1.04)
        length = unit.bounds[-1] / speed
        if placed and position + length > seconds:
            break
        samples = resample_by(unit.samples, speed)
        level = 0.1 * 10 ** (rng.uniform(-4, 4) / 20) / (np.sqrt((samples**2).mean()) + 1e-5)
        bounds = tuple(b / speed for b in unit.bounds)
        placed.append((position, Unit(samples * level, unit.digits, bounds)))
        position = max(0.0, position + length + pause(rng))
    end = placed[-1][0] + placed[-1][1].bounds[-1]
    return lay_out(placed, max(end, min(seconds, end + rng.uniform(0, 0.5))))


def coloured_noise(rng: np.random.Generator, length: int) -> np.ndarray:
    """Noise of unit power with a random spectral tilt and random bumps, sometimes modulated in
    time.
    """
    size = scipy.fft.next_fast_len(length, real=True)
    bins = size // 2 + 1
    frequency = np.linspace(0, 8000, bins)
    shape = (1 + frequency / 100) ** -rng.uniform(0, 1.2)
    shape *= np.exp(np.interp(frequency, np.linspace(0, 8000, 9), rng.normal(0, 0.8, 9)))
    noise = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32)) * shape
    noise = scipy.fft.irfft(noise, size)[:length]
    if rng.random() < 0.4:
        knots = np.linspace(0, length, max(2, length // 3200))
        noise *= np.exp(np.interp(np.arange(length), knots, rng.normal(0, 0.7, len(knots))))
    return (noise / (np.sqrt((noise**2).mean()) + 1e-9)).astype(np.float32)


def reverberate(rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """Convolve with the direct sound and a tail of noise that decays by 60 dB in 0.1 to 0.6 s."""
    decay = rng.uniform(0.1, 0.6)
    times = np.arange(int(0.7 * decay * RATE)) / RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / decay)
    tail *= rng.uniform(0.1, 0.8) / np.sqrt((tail**2).sum())
    tail[: int(rng.uniform(0.001, 0.01) * RATE)] = 0
    tail[0] = 1
    return scipy.signal.oaconvolve(samples, tail)[: len(samples)].astype(np.float32)


def filter_randomly(rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """Equaliser, image above 4 kHz, low-pass and high-pass, each by chance, so that any bandwidth
    looks familiar.
    """
    length = len(samples)
    size = scipy.fft.next_fast_len(length, real=True)
    spectrum = scipy.fft.rfft(samples, size)
    frequency = np.linspace(0, 8000, len(spectrum))
    if rng.random() < 0.4:
        # speech recorded at 8 kHz has nothing above 4 kHz: mirror what is below, as a wide-band
        # fricative would go on
        middle = len(spectrum) // 2
        image = spectrum[: middle + 1][::-1][: len(spectrum) - middle]
        tilt = 10 ** (-rng.uniform(0, 1.5) * (frequency[middle:] - 4000) / 4000)
        spectrum[middle:] += image * tilt * rng.uniform(0.1, 1.0)
    if rng.random() < 0.5:
        curve = np.interp(frequency, np.geomspace(100, 8000, 7), rng.normal(0, 4, 7))
        spectrum = spectrum * 10 ** (curve / 20)
    if rng.random() < 0.4:
        cutoff = rng.uniform(3000, 7500)
        spectrum = spectrum / (1 + (frequency / cutoff) ** rng.choice([12, 30, 80]))
    if rng.random() < 0.3:
        cutoff = rng.uniform(80, 350)
        spectrum = spectrum / (1 + (cutoff / (frequency + 1.0)) ** 6)
    return scipy.fft.irfft(spectrum, size)[:length].astype(np.float32)


def augment(rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """Room, filters, noise, level and offset of a recording, all by chance."""
    power = np.sqrt((samples**2).mean()) or 0.1
    if rng.random() < 0.35:
        samples = reverberate(rng, samples)
    if rng.random() < 0.7:
        samples = filter_randomly(rng, samples)
    if rng.random() < 0.65:
        snr = rng.uniform(3, 40)
        samples = samples + coloured_noise(rng, len(samples)) * power * 10 ** (-snr / 20)
    if rng.random() < 0.5:
        floor = 10 ** (rng.uniform(-90, -55) / 20)
        samples = samples + rng.standard_normal(len(samples), dtype=np.float32) * floor
    samples = samples * (10 ** (rng.uniform(-30, 0) / 20) / (np.abs(samples).max() + 1e-6))
    if rng.random() < 0.3:
        samples = samples + rng.uniform(-0.02, 0.02)
    return np.clip(samples, -1, 1).astype(np.float32)


def warp_frequencies(rng: np.random.Generator, feats: np.ndarray) -> np.ndarray:
    """Move the mel bins by a smooth random amount, as other vocal tracts move the formants.

    After Jaitly and Hinton, "Vocal tract length perturbation improves speech recognition" (2013),
    but with a different shift at each of five places of the axis.
    """
    if rng.random() < 0.4:
        return feats
    bins = np.arange(80)
    shift = rng.normal(0, 2.0) + rng.normal(0, 2.0, 5)
    places = bins + np.interp(bins, np.linspace(0, 79, 5), shift)
    places = np.clip(np.maximum.accumulate(places), 0, 79)
    below = np.minimum(places.astype(int), 78)
    part = (places - below).astype(np.float32)
    return feats[:, below] * (1 - part) + feats[:, below + 1] * part


def mask_features(rng: np.random.Generator, feats: np.ndarray) -> np.ndarray:
    """Overwrite random bands and a few short moments with the mean (SpecAugment, mild)."""
    if rng.random() < 0.5:
        for _ in range(2):
            width, start = rng.integers(0, 10), rng.integers(0, 70)
            feats[:, start : start + width] = feats.mean()
    if rng.random() < 0.3:
        for _ in range(2):
            width, start = rng.integers(0, 6), rng.integers(0, max(1, len(feats) - 80))
            feats[start : start + width] = feats.mean()
    return feats


def output_frame(seconds: float) -> int:
    """The encoder output (40 ms each) whose middle lies nearest to a time."""
    return max(0, round((seconds - LATENCY) / FRAME))


def collate(
    utterances: list[Utterance], feats: list[np.ndarray], width: int = 1
) -> dict[str, np.ndarray]:
    """Pad a batch to at least ``width`` chunks. Tokens are digit + 1, and 0 is blank or padding.

    Returns x (N, C*32 + 7, 80), frames (N) encoder outputs of each, tokens (N, U), token_count (N),
    emit (N, U) the output frame at which a token is due, labels (N, C*8) the digit's token over the
    second half of its span.
    """
    chunks = [max(1, chunk_count(len(f))) for f in feats]
    width, longest = max(width, *chunks), max(1, max(len(u.digits) for u in utterances))
    count = len(utterances)
    x = np.full((count, width * 32 + 7, 80), SILENCE, dtype=np.float32)
    tokens = np.zeros((count, longest), dtype=np.int64)
    emit = np.zeros((count, longest), dtype=np.int64)
    labels = np.zeros((count, width * 8), dtype=np.int64)
    for i, (u, f) in enumerate(zip(utterances, feats, strict=True)):
        used = min(len(f), x.shape[1])
        x[i, :used] = f[:used]
        last = -1
        for j, (digit, (start, end)) in enumerate(zip(u.digits, u.spans, strict=True)):
            tokens[i, j] = digit + 1
            latest = chunks[i] * 8 - (len(u.digits) - j)
            last = emit[i, j] = min(max(last + 1, output_frame(end + 0.04)), latest)
            labels[i, output_frame((start + end) / 2) : output_frame(end) + 1] = digit + 1
    return {
        "x": x,
        "frames": np.array(chunks) * 8,
        "tokens": tokens,
        "token_count": np.array([len(u.digits) for u in utterances]),
        "emit": emit,
        "labels": labels,
    }


class Batches(Dataset):
    """Batch i is a function of (seed, i) alone, so a resumed run sees what an unbroken one would
    have seen.
    """

    def __init__(self, speakers: dict[str, Speaker], steps: int, seed: int) -> None:
        self.humans = [s for s in speakers.values() if s.human]
        self.voices = [s for s in speakers.values() if not s.human]
        self.steps, self.seed = steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        seconds = rng.choice(list(LENGTHS), p=list(LENGTHS.values()))
        utterances, feats = [], []
        for _ in range(round(BATCH_SECONDS / (seconds + TAIL))):
            utterance = training_string(rng, self.humans, self.voices, seconds)
            utterances.append(utterance)
            heard = features(augment(rng, utterance.samples))
            feats.append(mask_features(rng, warp_frequencies(rng, heard)))
        # few different shapes: PyTorch spends seconds on preparing each new one
        return collate(utterances, feats, chunk_count(round((seconds + TAIL) * 100)))
