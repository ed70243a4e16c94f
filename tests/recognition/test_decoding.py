"""Text of audio: our features, streaming and greedy searches against sherpa-onnx itself."""

from pathlib import Path

import numpy as np
import pytest
import sherpa_onnx
import soundfile

from helpers import lstm
from helpers.audio import make_audio
from helpers.models import scripted_ctc, tiny_ctc
from helpers.places import DEMO_MODEL, ROOT, SHARED_SPEECH, needs_shared_speech
from helpers.texts import PARTS, TAIL, transcribe
from zipquant.audio import manifest
from zipquant.board import vocabulary
from zipquant.evaluation import transducer
from zipquant.model import recognizer
from zipquant.recognition import decoding
from zipquant.recognition.texts import read_texts
from zipquant.toolkit.platforms import Npu


def transcribe_with_sherpa(recognizer: sherpa_onnx.OnlineRecognizer, wav: Path) -> list[str]:
    """Return the tokens that sherpa-onnx finds in a wav."""
    samples, rate = soundfile.read(wav, dtype="float32")
    stream = recognizer.create_stream()
    stream.accept_waveform(rate, samples)
    stream.accept_waveform(rate, np.zeros(round(TAIL * rate), dtype=np.float32))
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return [token.replace(" ", "▁") for token in recognizer.tokens(stream)]


DEMO_AUDIO = sorted((ROOT / "demo/audio").glob("*/*.wav"))


@pytest.fixture(scope="module")
def sherpa():
    """sherpa-onnx on the demo model, its four files as they are."""
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        encoder=str(DEMO_MODEL), num_threads=1, decoding_method="greedy_search", **PARTS
    )


def test_demo_audio_is_heard_as_sherpa_onnx_hears_it(sherpa, tmp_path):
    found = transcribe(tmp_path, DEMO_MODEL, PARTS, DEMO_AUDIO)
    assert len(found) == 24
    assert found == [transcribe_with_sherpa(sherpa, wav) for wav in DEMO_AUDIO]


def test_demo_model_recognises_the_demo_audio(tmp_path):
    texts = {
        utterance.path: utterance.text
        for part in ("calibration", "evaluation")
        for utterance in manifest.read(str(ROOT / f"demo/audio/{part}.tsv"))
    }
    wavs = [Path(path) for path in texts]
    found = transcribe(tmp_path, DEMO_MODEL, PARTS, wavs)
    right = ["".join(t).replace("▁", " ").split() for t in found]
    same = sum(a == text.split() for a, text in zip(right, texts.values(), strict=True))
    assert same >= 20


@needs_shared_speech
def test_people_are_heard_as_sherpa_onnx_hears_them(sherpa, tmp_path):
    import data

    speakers = data.held_out_recordings(SHARED_SPEECH / "digits")
    wavs = []
    for name, utterances in data.test_strings(speakers, 31, seed=21).items():
        for number, utterance in enumerate(utterances):
            wavs.append(tmp_path / f"{name}-{number}.wav")
            soundfile.write(wavs[-1], utterance.samples, 16000, subtype="PCM_16")
    wavs += sorted((SHARED_SPEECH / "mandarin").glob("*.wav"))
    assert len(wavs) > 200
    found = transcribe(tmp_path, DEMO_MODEL, PARTS, wavs)
    assert found == [transcribe_with_sherpa(sherpa, wav) for wav in wavs]
    assert sum(map(len, found)) > 500


def test_ctc_model_is_decoded_as_sherpa_onnx_does(tmp_path):
    model = tiny_ctc(tmp_path / "ctc.onnx", tokens=6)
    tokens = tmp_path / "tokens.txt"
    # a Chinese vocabulary with a piece of a word and an unknown token, which CTC does output
    tokens.write_text("<blk> 0\n你 1\n好 2\n▁OK 3\nAY 4\n<unk> 5\n", encoding="utf-8")
    found = transcribe(tmp_path, model, {"tokens": str(tokens)}, DEMO_AUDIO)
    sherpa = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
        tokens=str(tokens), model=str(model), num_threads=1
    )
    assert found == [transcribe_with_sherpa(sherpa, wav) for wav in DEMO_AUDIO]
    assert sum(map(len, found)) > 200


def test_an_lstm_is_heard_as_sherpa_onnx_hears_it(tmp_path):
    parts = lstm.write(tmp_path / "lstm")
    sherpa = sherpa_onnx.OnlineRecognizer.from_transducer(num_threads=1, **parts)
    encoder = Path(parts.pop("encoder"))
    found = transcribe(tmp_path, encoder, parts, DEMO_AUDIO[:8])
    assert found == [transcribe_with_sherpa(sherpa, wav) for wav in DEMO_AUDIO[:8]]
    assert len({token for tokens in found for token in tokens}) > 5


def byte_level(text: str) -> list[str]:
    """The letters that a byte-level BPE writes a text with."""
    letters = {byte: letter for letter, byte in vocabulary.BYTES.items()}
    return [letters.get(byte, chr(byte)) for byte in text.encode()]


SPECIAL = ["<blk>", "<sos/eos>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
VOCABULARIES = {
    "words": [*SPECIAL, "▁ten", "▁two"],
    "pieces": [*SPECIAL, "▁", "▁HE", "LLO", "▁▁", "W", "A▁B", "'S", "▁W"],
    "characters": [*SPECIAL, "你", "好", "▁OK", "AY", "ñ", "，", "\u3000", "〇"],
    "spaces": [*SPECIAL, "a", "b", "", "c", "(", "▁"],
    "surplus": [*SPECIAL, "a", "▁b", "#0", "#1"],
    "phones": [*SPECIAL, "AH0", "sil", "ʃ", "tʰ˥˩"],
    "Latin letters": [*SPECIAL, "▁ǎ", "ƙ", "a", "é", "▁"],
    "byte fallback": [*SPECIAL, *BYTES, "▁a", "b", "▁好"],
    "byte fallback from another id": ["<blk>", "▁a", *BYTES, "b"],
    "some bytes": [*SPECIAL, "▁a", *BYTES[0x41:0x5B]],
    "bytes in lower case": [*SPECIAL, *map(str.lower, BYTES)],
    "byte-level": [
        *SPECIAL,
        *sorted({*byte_level("你好hello,ñ€")}),
        "",
        "▁",
        "▁ƌŋ",
        "▁h",
        "el",
        "Ʀ",
    ],
}


def some_ids(tokens: list[str]) -> list[int]:
    """Return token ids: a text, as far as the vocabulary has it, then tokens in any order."""
    ids = [
        tokens.index(piece)
        for word in ("好", "▁", "你", "▁", "h", "e", ",", "▁", "ñ", "€", "▁", "a")
        for piece in (word, *byte_level(word), *(f"<0x{byte:02X}>" for byte in word.encode()))
        if piece in tokens
    ]
    # Bytes in any order are no UTF-8, which sherpa-onnx's Python binding cannot return.
    broken = (
        {*vocabulary.LETTERS, "▁ƌŋ", *BYTES[0x80:]} if "Ʀ" in tokens or BYTES[-1] in tokens else {}
    )
    any_order = [number for number, token in enumerate(tokens) if number and token not in broken]
    return ids + np.random.default_rng(4).permutation(any_order * 2).tolist()


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_any_kind_of_vocabulary_is_printed_as_sherpa_onnx_prints_it(tmp_path, kind):
    tokens = VOCABULARIES[kind]
    path = tmp_path / "tokens.txt"
    lines = [f"{token} {number}\n" for number, token in enumerate(tokens)]
    path.write_text("".join(lines), encoding="utf-8")
    ids = some_ids(tokens)
    model = scripted_ctc(tmp_path / "ctc.onnx", ids, len(tokens))
    known = vocabulary.read(path)
    assert known.text(ids) == said(path, model, make_audio(0.32 * (len(ids) // 4 + 4)))
    assert known.is_byte_level == (kind == "byte-level")


def said(tokens: Path, model: Path, audio: np.ndarray) -> str:
    """Return the text that sherpa-onnx prints for a CTC model's tokens."""
    recognizer = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
        tokens=str(tokens), model=str(model), num_threads=1
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, audio)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return recognizer.get_result(stream)


def test_a_text_begins_as_sherpa_onnx_begins_it(tmp_path):
    audio, path = make_audio(2), tmp_path / "tokens.txt"
    model = scripted_ctc(tmp_path / "ctc.onnx", [3, 4, 3], 5)
    for letter in "(-'<¿…’€〇々。「＊０￥ａ￠ｱ́":
        for first in (letter, f"▁{letter}"):
            path.write_text(f"<blk> 0\nx 1\ny 2\n{first} 3\nq 4\n", encoding="utf-8")
            assert vocabulary.read(path).text([3, 4, 3]) == said(path, model, audio), first


def test_lockstep_gives_what_one_at_a_time_gives(tmp_path):
    found = recognizer.load(**PARTS)
    networks = decoding.OnnxNetworks(found.decoder, found.joiner)
    random = np.random.default_rng(3)
    encoded = [
        random.normal(0, 4, (frames, found.joiner.inputs[0].shape[1])).astype(np.float32)
        for frames in (40, 0, 7, 64, 1)
    ]
    together = decoding.search_transducer(networks, encoded, 0, None)
    alone = [decoding.search_transducer(networks, [one], 0, None)[0] for one in encoded]
    assert together == alone
    assert together[1] == [] and len(together[3]) > 10
    # an unknown token counts as a blank: it is never given, and the history stays
    token = together[3][0]
    assert all(token not in one for one in decoding.search_transducer(networks, encoded, 0, token))


def test_decoder_and_joiner_in_the_simulator_hear_the_same(tmp_path):
    expected = transcribe(tmp_path, DEMO_MODEL, PARTS, DEMO_AUDIO[:4])
    (tmp_path / "best.json").write_text('{"best": "int8"}')
    transducer.decode_shard(
        tmp_path / "best.json",
        {"int8": tmp_path / "encoded.h5"},
        tmp_path / "rknn.tsv",
        npu=Npu("rk3588"),
        **PARTS,
    )
    texts = read_texts([tmp_path / "texts.tsv"])
    assert read_texts([tmp_path / "rknn.tsv"]) == texts
    assert any(expected)
