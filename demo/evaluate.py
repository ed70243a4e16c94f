"""Word error rates of the exported files, and agreement with sherpa-onnx on the same audio.

    python demo/evaluate.py --model models/demo --digits DIR

Streams every utterance through onnxruntime as sherpa-onnx does and prints a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import sherpa_onnx
import soundfile as sf

import data
from export import open_session
from train import edit_distance
from transducer import BLANK, CONTEXT, TOKENS, WORDS


class OnnxTransducer:
    """Streaming greedy search over encoder.onnx, decoder.onnx and joiner.onnx of one folder."""

    def __init__(self, folder: Path) -> None:
        self.encoder = open_session(folder / "encoder.onnx")
        self.decoder = open_session(folder / "decoder.onnx")
        self.joiner = open_session(folder / "joiner.onnx")
        metadata = self.encoder.get_modelmeta().custom_metadata_map
        self.segment, self.step = int(metadata["T"]), int(metadata["decode_chunk_len"])
        self.decoded: dict[tuple[int, ...], np.ndarray] = {}

    def initial_states(self) -> dict[str, np.ndarray]:
        """Zero states of one stream by input name."""
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        return {
            i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], kinds[i.type])
            for i in self.encoder.get_inputs()[1:]
        }

    def decode_context(self, context: tuple[int, ...]) -> np.ndarray:
        """The decoder's output (1, joiner_dim) for a context; there are few, so they are kept."""
        if context not in self.decoded:
            self.decoded[context] = self.decoder.run(None, {"y": np.array([context])})[0]
        return self.decoded[context]

    def transcribe(self, samples: np.ndarray) -> list[int]:
        """Token ids of samples in [-1, 1] at 16 kHz."""
        feats, states = data.features(samples), self.initial_states()
        tokens, processed = [-1] * (CONTEXT - 1) + [BLANK], 0
        while processed + self.segment < len(feats):
            x = feats[None, processed : processed + self.segment]
            encoded, *new = self.encoder.run(None, {"x": x, **states})
            states = dict(zip(states, new, strict=True))
            processed += self.step
            for t in range(encoded.shape[1]):
                decoded = self.decode_context(tuple(tokens[-CONTEXT:]))
                names = {"encoder_out": encoded[:, t], "decoder_out": decoded}
                best = int(self.joiner.run(None, names)[0].argmax())
                if best != BLANK:
                    tokens.append(best)
        return tokens[CONTEXT:]


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
    model: OnnxTransducer, sherpa: sherpa_onnx.OnlineRecognizer, utterances: list[data.Utterance]
) -> np.ndarray:
    """Numbers of utterances, words, wrong words, wrong utterances, other texts by sherpa-onnx."""
    total = np.zeros(5, dtype=int)
    for utterance in utterances:
        tokens = model.transcribe(utterance.samples)
        wrong = edit_distance([d + 1 for d in utterance.digits], tokens)
        differs = transcribe_with_sherpa(sherpa, utterance.samples) != tokens
        total += (1, len(utterance.digits), wrong, wrong > 0, differs)
    return total


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
    model, sherpa = OnnxTransducer(args.model), open_sherpa(args.model)
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
