"""Made-up audio."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from zipquant.audio.utterance import Utterance


def make_audio(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """Return a voice-like sound, float32 in [-1, 1]: harmonics with moving pitch and loudness."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 110 + 40 * random.random() + 20 * np.sin(2 * np.pi * (0.5 + random.random()) * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    loudness = np.clip(np.sin(2 * np.pi * 1.5 * time + random.random()), 0, 1)
    noise = random.normal(0, 0.01, len(time))
    return (0.2 * voice * loudness + noise).astype(np.float32)


def write_audio(path: Path, seconds: float, seed: int = 0) -> Path:
    """Write a made-up recording, 16 kHz, 16 bit, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, make_audio(seconds, seed), 16000, subtype="PCM_16")
    return path


def utterances(names: Iterable[str], paths: Iterable[str]) -> list[Utterance]:
    """Utterances that are whole files."""
    return [Utterance(*pair) for pair in zip(names, paths, strict=True)]
