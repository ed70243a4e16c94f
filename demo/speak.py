"""Digit strings from espeak-ng; as a command it writes the demo audio.

python demo/speak.py            # writes demo/audio
"""

from __future__ import annotations

import argparse
import io
import random
import subprocess
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from transducer import WORDS

RATE = 16000
ACCENTS = (
    "en-gb",
    "en-us",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)
VARIANTS = tuple(
    """
    m1 m2 m4 m5 m6 m8 f1 f3 f4 f5 adam anika antonio aunty belinda benjamin boris caleb david
    ed edward gustave iven john linda max michel paul pedro quincy rob robert sandro shelby
    travis victor zac klatt klatt2 klatt3 Andy Annie Alicia Andrea Gene Hugo Jacky Lee Marco
    Mike Michael
    """.split()
)
# more voices for training, odder ones among them
MORE_VARIANTS = tuple(
    """
    AnxiousAndy Diogo Gene2 Henrique Mario Nguyen RicishayMax RicishayMax2 RicishayMax3 Storm
    Tweaky announcer croak edward2 grandma grandpa iven2 iven3 iven4 kaukovalta klatt4 klatt5
    klatt6 marcelo max pablo whisper whisperf
    """.split()
)
# voices that training never hears; the evaluation audio is spoken by these
HELD_OUT = ("f2", "m3", "m7", "steph", "Alex", "Denis", "norbert", "miguel")


def speak(text: str, voice: str, speed: int = 160, pitch: int = 50) -> np.ndarray:
    """Speech as float32 samples in [-1, 1] at 16 kHz.

    ``voice`` is espeak-ng's name, such as "en-us+f3"; ``speed`` is in words a minute, ``pitch``
    from 0 to 99.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples, rate = sf.read(io.BytesIO(wav), dtype="float32")
    return soxr.resample(samples, rate, RATE, quality="HQ")


def write_part(folder: Path, count: int, variants: tuple[str, ...], seed: int) -> int:
    """Write ``count`` wavs and their manifest beside ``folder``; returns the bytes of audio
    written.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines, size = ["id\tpath\ttext"], 0
    chosen = rng.sample(variants, count)
    for i, variant in enumerate(chosen):
        digits = [rng.randrange(10) for _ in range(3 + i % 4)]
        text = " ".join(WORDS[d] for d in digits)
        speed, pitch = rng.randrange(90, 130, 5), rng.randrange(30, 75, 5)
        samples = speak(text, f"{ACCENTS[i % len(ACCENTS)]}+{variant}", speed, pitch)
        samples *= 10 ** (-rng.uniform(3, 15) / 20) / np.abs(samples).max()
        name = f"{folder.name[:4]}-{i + 1:02d}"
        path = folder / f"{name}.wav"
        sf.write(path, samples, RATE, subtype="PCM_16")
        size += path.stat().st_size
        lines.append(f"{name}\t{folder.name}/{path.name}\t{text}")
    folder.with_suffix(".tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return size


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the demo audio with espeak-ng.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "audio")
    out = parser.parse_args().out
    size = write_part(out / "calibration", 16, VARIANTS, seed=16)
    size += write_part(out / "evaluation", 8, HELD_OUT, seed=8)
    print(f"{out}: 24 wavs, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
