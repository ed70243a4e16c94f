"""Word error rates of the exported files, and agreement with sherpa-onnx on the same audio.

    python demo/evaluate.py --model models/demo --digits DIR

Every utterance goes through the workflow's own streaming and search, and through sherpa-onnx; the
output is a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import sherpa_onnx
import soundfile as sf

import data
from transducer import BLANK, TOKENS, WORDS
from zipquant.model import contract, recognizer
from zipquant.model.streaming import OnnxEncoder, stream
from zipquant.recognition import decoding, error_rates


class Model:
    """The workflow's streaming and greedy search over the four files of one folder."""

    def __init__(self, folder: Path) -> None:
        encoder = folder / "encoder.onnx"
        self.contract = contract.inspect(encoder)
        self.encoder = OnnxEncoder(encoder, self.contract)
        parts = [str(folder / name) for name in ("tokens.txt", "decoder.onnx", "joiner.onnx")]
        found = recognizer.load(*parts)
        self.networks = decoding.OnnxNetworks(found.decoder, found.joiner)

    def transcribe(self, utterances: list[data.Utterance]) -> list[list[int]]:
        """Token ids of each utterance."""
        frames = [data.features(u.samples) for u in utterances]
        empty = np.zeros((0, self.contract.encoder_dim), dtype=np.float32)
        encoded = [[empty] for _ in frames]
        for step in stream(self.encoder, self.contract, frames, lanes=16):
            encoded[step.utterance].append(step.encoder_out[0])
        joined = [np.concatenate(parts) for parts in encoded]
        return decoding.search_transducer(self.networks, joined, BLANK, None)


def open_sherpa(folder: Path) -> sherpa_onnx.OnlineRecognizer:
    """sherpa-onnx's own recogniser on the same files."""
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(folder / "tokens.txt"),
        encoder=str(folder / "encoder.onnx"),
        decoder=str(folder / "decoder.onnx"),
        joiner=str(folder / "joiner.onnx"),
        num_threads=1,
        decoding_method="greedy_search",
    )


def transcribe_with_sherpa(
    recognizer: sherpa_onnx.OnlineRecognizer, samples: np.ndarray
) -> list[int]:
    """Token ids that sherpa-onnx finds in samples in [-1, 1] at 16 kHz."""
    stream = recognizer.create_stream()
    stream.accept_waveform(data.RATE, samples)
    stream.accept_waveform(data.RATE, np.zeros(int(data.TAIL * data.RATE), dtype=np.float32))
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    words = recognizer.get_result(stream).split()
    return [TOKENS.index(f"▁{word}") for word in words]


def demo_audio(manifest: Path) -> list[data.Utterance]:
    """The wavs of a manifest of the demo audio, without times."""
    found = []
    for line in manifest.read_text(encoding="utf-8").splitlines()[1:]:
        _, path, text = line.split("\t")
        samples, _ = sf.read(manifest.parent / path, dtype="float32")
        digits = tuple(WORDS.index(word) for word in text.split())
        found.append(data.Utterance(samples, digits, ()))
    return found


def measure(
    model: Model, sherpa: sherpa_onnx.OnlineRecognizer, utterances: list[data.Utterance]
) -> np.ndarray:
    """Numbers of utterances, words, wrong words, wrong utterances, other texts by sherpa-onnx."""
    found = model.transcribe(utterances)
    spoken = [" ".join(TOKENS[digit + 1] for digit in u.digits) for u in utterances]
    texts = [" ".join(TOKENS[token] for token in tokens) for tokens in found]
    counts = error_rates.count(spoken, texts, "word")
    differs = sum(
        transcribe_with_sherpa(sherpa, utterance.samples) != tokens
        for utterance, tokens in zip(utterances, found, strict=True)
    )
    wrong = (counts.errors.sum(), (counts.errors > 0).sum())
    return np.array([len(utterances), counts.units.sum(), *wrong, differs])


def print_row(name: str, total: np.ndarray) -> None:
    """One row of the table."""
    utterances, words, wrong, bad, differs = total
    rate = 100 * wrong / words
    print(
        f"| {name} | {utterances} | {words} | {wrong} | {rate:.2f} % | {bad} | {differs} |",
        flush=True,
    )


def harder(utterances: list[data.Utterance], seed: int) -> list[data.Utterance]:
    """The same strings with room, filters, noise and level as in training."""
    rng = np.random.default_rng(seed)
    return [data.Utterance(data.augment(rng, u.samples), u.digits, u.spans) for u in utterances]


def long_streams(utterances: list[data.Utterance], each: int) -> list[data.Utterance]:
    """Strings joined to streams of ``each``, much longer than anything in training."""
    groups = [utterances[i : i + each] for i in range(0, len(utterances), each)]
    return [
        data.Utterance(np.concatenate([u.samples for u in g]), sum((u.digits for u in g), ()), ())
        for g in groups
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the demo model.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--digits", type=Path, required=True, help="folder of digit_speaker_index.wav"
    )
    parser.add_argument("--each", type=int, default=55, help="strings of each speaker")
    args = parser.parse_args()
    model, sherpa = Model(args.model), open_sherpa(args.model)
    print("| set | strings | words | errors | WER | strings with errors | sherpa-onnx differs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    people = data.test_strings(data.held_out_recordings(args.digits), args.each, seed=11)
    totals = []
    for name, utterances in people.items():
        totals.append(measure(model, sherpa, utterances))
        print_row(f"recordings kept out, {name}", totals[-1])
    print_row("**recordings kept out, all**", sum(totals))
    everyone = sum(people.values(), [])
    voices = data.test_strings(data.held_out_voices(), max(1, args.each // 6), seed=12)
    voices = sum(voices.values(), [])
    print_row("**espeak-ng voices kept out**", measure(model, sherpa, voices))
    print_row("recordings, augmented", measure(model, sherpa, harder(everyone[::3], 13)))
    print_row("voices, augmented", measure(model, sherpa, harder(voices[::3], 14)))
    joined = long_streams(everyone[::3], 20)
    print_row("recordings, streams of 20 strings", measure(model, sherpa, joined))
    for part in ("calibration", "evaluation"):
        wavs = demo_audio(Path(__file__).parent / "audio" / f"{part}.tsv")
        print_row(f"demo audio, {part}", measure(model, sherpa, wavs))


if __name__ == "__main__":
    main()
