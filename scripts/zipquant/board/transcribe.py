"""Transcribes 16 kHz wav files with a bundle, on the board itself, without a PC.

Run in the bundle's folder: python3 transcribe.py speech.wav more.wav --output texts.tsv

It needs Python 3.10, numpy, soundfile, kaldi-native-fbank and rknn-toolkit-lite2. The bundle has a
copy of it, and of the few modules of Zipquant that it shares with the workflow.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from zipquant.board import description, measuring, whisper
from zipquant.board.fbank import SAMPLE_RATE, fbank, whisper_log_mel
from zipquant.board.greedy_search import Networks, search_ctc, search_transducer
from zipquant.board.keyword_search import KeywordSearch, spot
from zipquant.board.keywords import Graph
from zipquant.board.keywords import read as read_keywords
from zipquant.board.vocabulary import Vocabulary
from zipquant.board.vocabulary import read as read_vocabulary
from zipquant.errors import UserError, plain

COLUMNS = ("utterance", "text", "tokens", "ms_per_chunk")
"""Of the table; all but the last are those of the workflow's own tables of texts."""

KEYWORD_COLUMNS = ("utterance", "keyword", "seconds", "probability")
"""Of the table of keywords."""

ENCODER, PLAIN_ENCODER = "encoder.rknn", "encoder-plain.rknn"
"""The encoder, and the same encoder built from its graph as it is, where a bundle has both."""

SECONDS, CALLS = 25, 200
"""How long a benchmark runs each encoder, and how often it calls decoder and joiner."""

RESULT = "board.json"
"""Where it writes what it has found, unless another file is named."""


class Runner(Protocol):
    """One of the three networks: on the NPU here, in onnxruntime in the tests."""

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run it on its inputs, in their order, and return its outputs in theirs."""


class Npu:
    """A network on this board's NPU.

    Args:
        path: the .rknn file.

    Raises:
        UserError: rknn-toolkit-lite2 is missing, or cannot run the file here.
    """

    def __init__(self, path: Path):
        try:
            from rknnlite.api import RKNNLite
        except ImportError as error:
            raise UserError(
                f"rknn-toolkit-lite2 cannot be imported ({error}): install it on the board, "
                "pip install rknn-toolkit-lite2"
            ) from None
        self._path, self._rknn = path, RKNNLite()
        for step, arguments in (
            (self._rknn.load_rknn, [str(path)]),
            (self._rknn.init_runtime, []),
        ):
            if _called(path, step, *arguments) != 0:
                raise UserError(
                    f"{path}: rknn-toolkit-lite2's {step.__name__} failed, see above; the board "
                    "must be of the platform that the bundle was built for, with librknnrt.so"
                )

    def versions(self) -> str:
        """Return what the runtime says of itself and of the driver, in one line."""
        asked = getattr(self._rknn, "get_sdk_version", None)
        return " ".join(str(_called(self._path, asked)).split()) if asked else ""

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Runner.run`. Arrays of four axes are handed over as NHWC, its own layout."""
        given = [
            np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array
            for array in arrays
        ]
        outputs = _called(self._path, self._rknn.inference, inputs=given)
        if outputs is None:
            raise UserError(f"{self._path}: the NPU cannot run it, see above")
        return outputs


def _called(path: Path, step: Callable[..., Any], *arguments, **named) -> Any:
    """Call the runtime, whose own errors may be of any kind."""
    try:
        return step(*arguments, **named)
    except Exception as error:
        raise UserError(
            f"{path}: rknn-toolkit-lite2's {step.__name__} failed "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from None


class RunnerNetworks:
    """Decoder and joiner, one row at a time; see `search.Networks`."""

    def __init__(self, decoder: Runner, joiner: Runner, context: int):
        self.context = context
        self._decoder, self._joiner = decoder, joiner

    def decode(self, contexts: np.ndarray) -> np.ndarray:
        """See `search.Networks.decode`."""
        return self._rows(self._decoder, contexts)

    def join(self, encoded: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """See `search.Networks.join`."""
        return self._rows(self._joiner, encoded, decoded)

    def _rows(self, runner: Runner, *arrays: np.ndarray) -> np.ndarray:
        rows = [
            runner.run([array[row : row + 1] for array in arrays])[0].reshape(1, -1)
            for row in range(len(arrays[0]))
        ]
        return np.concatenate(rows)


class Stream:
    """The encoder on one utterance, chunk after chunk, as in the workflow's `streaming.stream`.

    Args:
        encoder: the encoder.
        model: what it takes, see `description.MODEL`.
        frames: what `features` gives, float32 (frames, bins).

    Attributes:
        chunks: how many the utterance has.
        seconds: how long each chunk took that was run.
    """

    def __init__(self, encoder: Runner, model: Mapping[str, Any], frames: np.ndarray):
        self._encoder, self._model, self._frames = encoder, model, frames
        # Strictly more frames than a chunk takes must be ready, as for sherpa-onnx.
        left = len(frames) - model["chunk_frames"]
        self.chunks = max(0, -(-left // model["chunk_shift"]))
        self.seconds: list[float] = []
        self.restart()

    def encode(self, chunk: int) -> np.ndarray:
        """Return the encoder output of the next chunk, float32 (frames, dim)."""
        x = chunk_of(self._model, self._frames, chunk * self._model["chunk_shift"])[None]
        start = time.perf_counter()
        encoder_out, *new_states = self._encoder.run([x, *self._states])
        self.seconds.append(time.perf_counter() - start)
        self._states = _next_states(self._model, new_states)
        return encoder_out.reshape(-1, encoder_out.shape[-1]).astype(np.float32)

    def restart(self) -> None:
        """Set the states to zero."""
        self._states = _first_states(self._model)

    def encode_all(self) -> np.ndarray:
        """Return the encoder output of the whole utterance, float32 (frames, dim)."""
        encoded = [self.encode(chunk) for chunk in range(self.chunks)]
        return np.concatenate(encoded) if encoded else np.zeros((0, 0), np.float32)


def features(model: Mapping[str, Any], samples: np.ndarray) -> np.ndarray:
    """Return the features of an utterance, float32 (frames, bins), to be cut with `chunk_of`."""
    front_end = whisper_log_mel if model["features"] == "whisper" else fbank
    return front_end(samples, model["bins"])


def chunk_of(model: Mapping[str, Any], frames: np.ndarray, first: int) -> np.ndarray:
    """Return what the encoder takes for the chunk that begins at a frame."""
    chunk = frames[first : first + model["chunk_frames"]]
    return whisper.normalise(chunk) if model["features"] == "whisper" else chunk


def _next_states(model: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the states that the encoder has given, in the form in which it takes them."""
    expected = model["states"]
    sizes = [int(np.prod(state["shape"])) for state in expected]
    if [array.size for array in arrays] != sizes:
        raise UserError(
            f"encoder.rknn does not give the {len(expected)} states that {description.MODEL} "
            "describes: the files of the bundle do not belong together"
        )
    return [
        array.astype(state["dtype"], copy=False).reshape(state["shape"])
        for state, array in zip(expected, arrays, strict=True)
    ]


def read_wav(path: Path, model: Mapping[str, Any]) -> np.ndarray:
    """Return the samples of a file with the silence that the workflow appends too.

    Raises:
        UserError: the file is not readable as audio, or not of 16 kHz.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"{path}: not readable as audio ({error})") from None
    if rate != SAMPLE_RATE:
        raise UserError(f"{path}: its rate is {rate} Hz; convert it to {SAMPLE_RATE} Hz")
    mono = samples[:, 0] if model["channels"] == "first" else samples.mean(axis=1)
    padding = np.zeros(round(model["tail_padding"] * SAMPLE_RATE), np.float32)
    return np.concatenate([mono, padding])


def transcribe(
    wavs: Sequence[Path],
    model: Mapping[str, Any],
    known: Vocabulary,
    encoder: Runner,
    networks: Networks | None,
) -> Iterator[tuple[str, str, str, float]]:
    """Yield a row of the table (`COLUMNS`) for each wav file.

    Args:
        wavs: the files.
        model: what the encoder takes, see `description.MODEL`.
        known: the tokens.
        encoder: the encoder.
        networks: decoder and joiner; None for a CTC model.

    Raises:
        UserError: a file is not usable, or a network cannot be run.
    """
    for path in wavs:
        stream = Stream(encoder, model, features(model, read_wav(path, model)))
        encoded, seconds = stream.encode_all(), stream.seconds
        if networks:
            (ids,) = search_transducer(networks, [encoded], known.blank, known.unknown)
        else:
            ids = search_ctc(encoded, known.blank)
        if max(ids, default=0) >= len(known.tokens):
            raise UserError(
                f"the model gives the token {max(ids)}, but tokens.txt has {len(known.tokens)}: "
                "the files of the bundle do not belong together"
            )
        ms = round(1000 * sum(seconds) / max(len(seconds), 1), 2)
        yield plain(path.stem), plain(known.text(ids)), " ".join(map(str, ids)), ms


def spot_keywords(
    wavs: Sequence[Path],
    model: Mapping[str, Any],
    encoder: Runner,
    search: KeywordSearch,
) -> Iterator[tuple[str, str, float, float]]:
    """Yield a row of the table (`KEYWORD_COLUMNS`) for each keyword that is heard.

    Args:
        wavs: the files.
        model: what the encoder takes, see `description.MODEL`.
        encoder: the encoder.
        search: the search; it begins again with each file.

    Raises:
        UserError: a file is not usable, or a network cannot be run.
    """
    for path in wavs:
        search.reset()
        for _, hit in spot(search, Stream(encoder, model, features(model, read_wav(path, model)))):
            found = plain(hit.keyword.name), round(hit.seconds, 2), round(hit.probability, 3)
            yield plain(path.stem), *found


def benchmark(
    encoders: Mapping[str, Runner], model: Mapping[str, Any], seconds: float
) -> dict[str, list[float]]:
    """Run encoders on noise, chunk by chunk in turn; return the seconds of each call, by name.

    Args:
        encoders: by name; all take the same.
        model: what they take, see `description.MODEL`.
        seconds: how long each runs.
    """
    noise = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in encoders}
    states = {name: _first_states(model) for name in encoders}
    while min(map(sum, times.values())) < seconds:
        x = noise.normal(-8, 4, (1, model["chunk_frames"], model["bins"])).astype(np.float32)
        for name, encoder in encoders.items():
            start = time.perf_counter()
            _, *new_states = encoder.run([x, *states[name]])
            times[name].append(time.perf_counter() - start)
            states[name] = _next_states(model, new_states)
    return times


def benchmark_parts(
    encoder: Runner, parts: Mapping[str, Runner], model: Mapping[str, Any], calls: int = CALLS
) -> dict[str, list[float]]:
    """Run decoder and joiner on what they get; return the seconds of each call, by name.

    Args:
        encoder: the encoder, for the first input of the joiner.
        parts: the decoder, then the joiner, by name.
        model: what the encoder takes, see `description.MODEL`.
        calls: of each.
    """
    x = np.zeros((1, model["chunk_frames"], model["bins"]), np.float32)
    encoded = np.asarray(encoder.run([x, *_first_states(model)])[0])
    given = [np.zeros((1, model["context"]), np.int64)]
    times: dict[str, list[float]] = {}
    for name, part in parts.items():
        times[name] = []
        for _ in range(calls):
            start = time.perf_counter()
            outputs = part.run(given)
            times[name].append(time.perf_counter() - start)
        frame = encoded.reshape(-1, encoded.shape[-1])[:1].astype(np.float32)
        given = [frame, np.asarray(outputs[0]).reshape(1, -1).astype(np.float32)]
    return times


def benchmark_lines(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield what a benchmark has found, in words.

    Args:
        found: what `measuring.times` says of each network, by name.
    """
    for name, entry in found.items():
        what = "a chunk" if name in (ENCODER, PLAIN_ENCODER) else "a call"
        yield f"{name}: {entry['median_ms']:.2f} ms {what}, median of {entry['calls']}"
    medians = {n: found[n]["median_ms"] for n in (ENCODER, PLAIN_ENCODER) if n in found}
    if len(medians) == 2:
        fast, slow = sorted(medians, key=medians.__getitem__)
        gain = 100 * (1 - medians[fast] / medians[slow])
        yield f"{fast} is the faster one, by {gain:.0f} %" + (
            "" if fast == ENCODER else f": copy it over {ENCODER}"
        )


def _first_states(model: Mapping[str, Any]) -> list[np.ndarray]:
    return [np.zeros(state["shape"], state["dtype"]) for state in model["states"]]


def main() -> None:
    """Read the command line, and transcribe on the NPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wavs", nargs="*", type=Path, help="16 kHz wav or flac files")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--output", type=Path, help="the file to write")
    parser.add_argument(
        "--keywords", type=Path, help="list the keywords of this file that are heard, not texts"
    )
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help=f"time all networks on this board, and write {RESULT} or the file of --output",
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="how long --benchmark runs each encoder"
    )
    given = parser.parse_args()
    if not given.wavs and not given.benchmark:
        parser.error("name a wav file, or give --benchmark")
    try:
        description.check_files(given.bundle)
        model = description.read(given.bundle)
        if given.benchmark:
            _measure(given, model, given.output or Path(RESULT))
            return
        _write_table(given, model)
    except (UserError, OSError) as error:
        sys.exit(f"error: {plain(str(error))}")


def _measure(given: argparse.Namespace, model: Mapping[str, Any], output: Path) -> None:
    """Time all networks of a bundle, say what was found, and write it as JSON."""
    bundle, before = given.bundle, measuring.state()
    names = [name for name in (ENCODER, PLAIN_ENCODER) if (bundle / name).exists()]
    encoders = {name: Npu(bundle / name) for name in names}
    seconds = benchmark(encoders, model, given.seconds)
    if model["context"]:
        parts = {name: Npu(bundle / name) for name in ("decoder.rknn", "joiner.rknn")}
        seconds |= benchmark_parts(encoders[ENCODER], parts, model)
    found = measuring.result(bundle, seconds, before, encoders[ENCODER].versions())
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for line in benchmark_lines(found["networks"]):
        print(line)
    warmest = max(found["after"]["celsius"].values(), default=None)
    print(
        f"memory {found['after'].get('peak_mb', '?')} MB"
        + (f", {warmest} degrees Celsius at the end" if warmest is not None else "")
    )
    print(f"all of it is in {output}: evaluation.board_result takes it into the report")


def _write_table(given: argparse.Namespace, model: Mapping[str, Any]) -> None:
    """Write what was heard: texts, or keywords."""
    known = read_vocabulary(given.bundle / "tokens.txt")
    keywords = read_keywords(given.keywords, known) if given.keywords else None
    if keywords and not model["context"]:
        raise UserError("this is a CTC model, and the keyword search needs a transducer")
    encoder, networks = Npu(given.bundle / ENCODER), None
    if model["context"]:
        parts = (Npu(given.bundle / f"{part}.rknn") for part in ("decoder", "joiner"))
        networks = RunnerNetworks(*parts, model["context"])
    if keywords:
        search = KeywordSearch(networks, Graph(keywords), known)
        columns, rows = KEYWORD_COLUMNS, spot_keywords(given.wavs, model, encoder, search)
    else:
        columns, rows = COLUMNS, transcribe(given.wavs, model, known, encoder, networks)
    with (
        open(given.output, "w", encoding="utf-8", newline="")
        if given.output
        else nullcontext(sys.stdout)
    ) as target:
        table = csv.writer(target, dialect="excel-tab")
        table.writerow(columns)
        table.writerows(rows)


if __name__ == "__main__":
    main()
