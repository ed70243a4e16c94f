"""Keywords: the file, the graph, and the search against sherpa-onnx's keyword spotter itself."""

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import sherpa_onnx
import soundfile

from helpers.keywords import DEMO_AUDIO, DIGITS, ours
from helpers.places import (
    DEMO_MODEL,
    SHARED_SPEECH,
    exported,
    needs_shared_exports,
    needs_shared_speech,
)
from helpers.texts import PARTS, TAIL
from zipquant.board import keywords, vocabulary
from zipquant.errors import UserError


def theirs(spotter: sherpa_onnx.KeywordSpotter, wav: Path) -> list[tuple]:
    """Return the same of sherpa-onnx, as its examples use it."""
    samples, rate = soundfile.read(wav, dtype="float32")
    stream = spotter.create_stream()
    stream.accept_waveform(rate, samples)
    stream.accept_waveform(rate, np.zeros(round(TAIL * rate), dtype=np.float32))
    stream.input_finished()
    found, chunk = [], 0
    while spotter.is_ready(stream):
        spotter.decode_stream(stream)
        # Asked twice, it does not give a result again.
        result = spotter.keyword_spotter.get_result(stream)
        if result.keyword:
            frames = tuple(round(second / 0.04) for second in result.timestamps)
            found.append((chunk, result.keyword.strip(), frames))
            spotter.reset_stream(stream)
        chunk += 1
    return found


def spotter(model: Path, parts: dict, file: Path) -> sherpa_onnx.KeywordSpotter:
    return sherpa_onnx.KeywordSpotter(
        encoder=str(model), keywords_file=str(file), num_threads=1, **parts
    )


def compare(model: Path, parts: dict, file: Path, wavs: list[Path]) -> list[tuple]:
    """Return what is heard in some wavs, having seen that sherpa-onnx hears the same."""
    sherpa = spotter(model, parts, file)
    found = {wav: ours(model, parts, file, wav) for wav in wavs}
    assert found == {wav: theirs(sherpa, wav) for wav in wavs}
    return [hit for hits in found.values() for hit in hits]


def test_keywords_are_heard_as_sherpa_onnx_hears_them(tmp_path):
    file = tmp_path / "keywords.txt"
    file.write_text(DIGITS, encoding="utf-8")
    found = compare(DEMO_MODEL, PARTS, file, DEMO_AUDIO)
    names = {name for _, name, _ in found}
    assert names >= {"SEVEN_SEVEN", "one seven", "2-3", "four", "eight", "one"}
    assert len(found) > 30


def test_a_stream_begins_again_after_a_silence_as_in_sherpa_onnx(tmp_path):
    wav, file = tmp_path / "pauses.wav", tmp_path / "keywords.txt"
    pause = np.random.default_rng(0).normal(0, 1e-3, 16000 * 3)
    spoken = [soundfile.read(path)[0] for path in DEMO_AUDIO[:6]]
    soundfile.write(wav, np.concatenate([part for one in spoken for part in (one, pause)]), 16000)
    # Keywords that are not said: every beginning is dropped again in the pauses.
    file.write_text("▁nine ▁nine ▁one ▁nine\n▁four ▁four\n▁one ▁seven\n", encoding="utf-8")
    assert compare(DEMO_MODEL, PARTS, file, [wav])


@needs_shared_speech
def test_people_are_heard_as_sherpa_onnx_hears_them(tmp_path):
    import data

    speakers, wavs = data.held_out_recordings(SHARED_SPEECH / "digits"), []
    for name, utterances in data.test_strings(speakers, 2, seed=21).items():
        for number, utterance in enumerate(utterances):
            wavs.append(tmp_path / f"{name}-{number}.wav")
            soundfile.write(wavs[-1], utterance.samples, 16000, subtype="PCM_16")
    wavs += sorted((SHARED_SPEECH / "mandarin").glob("*.wav"))
    file = tmp_path / "keywords.txt"
    file.write_text(DIGITS, encoding="utf-8")
    assert len(compare(DEMO_MODEL, PARTS, file, wavs)) > 20


@needs_shared_exports
def test_zipformer2_is_heard_as_sherpa_onnx_hears_it(tmp_path):
    """icefall's own export, of random weights; the keywords are what it says to some audio."""
    model = exported("zipformer2")
    decoder, joiner = (
        str(model.with_name(model.name.replace("encoder", part))) for part in ("decoder", "joiner")
    )
    # It says something in every frame; a keyword is heard where blanks follow.
    joiner = prefer_blank(joiner, tmp_path / "joiner.onnx", 1.8)
    parts = {"tokens": str(model.with_name("tokens.txt")), "decoder": decoder, "joiner": joiner}
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
        encoder=str(model), num_threads=1, **parts
    )
    lines, wavs = [], DEMO_AUDIO[:8]
    for wav in wavs:
        samples, rate = soundfile.read(wav, dtype="float32")
        stream = recognizer.create_stream()
        stream.accept_waveform(rate, samples)
        stream.input_finished()
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        said = [token.replace(" ", "▁") for token in recognizer.tokens(stream)]
        # Without a phrase sherpa-onnx prints the tokens, and cuts off a letter that is no ▁.
        lines += [f"{a} {b} #0.001 @{a}-{b}" for a, b in itertools.pairwise(said)]
    file = tmp_path / "keywords.txt"
    file.write_text("\n".join(dict.fromkeys(lines)), encoding="utf-8")
    assert len(compare(model, parts, file, wavs)) > 5


def prefer_blank(joiner: str, path: Path, score: float) -> str:
    """Write a joiner that adds something to the score of the blank, and return its path."""
    model = onnx.load(joiner)
    (output,) = model.graph.output
    size = output.type.tensor_type.shape.dim[-1].dim_value
    for node in model.graph.node:
        node.output[:] = ["scores" if name == output.name else name for name in node.output]
    bias = np.zeros(size, dtype=np.float32)
    bias[0] = score
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "bias"))
    model.graph.node.append(onnx.helper.make_node("Add", ["scores", "bias"], [output.name]))
    onnx.save(model, path)
    return str(path)


KNOWN = vocabulary.Vocabulary(
    "tokens.txt", ("<blk>", "<unk>", "▁HE", "LL", "O", "▁WORLD", "你", "好", "#1"), 0, 1
)


def read(folder: Path, content: str | bytes) -> list[keywords.Keyword]:
    path = folder / "keywords.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return keywords.read(path, KNOWN)


def test_a_keywords_file_is_read_as_sherpa_onnx_reads_it(tmp_path):
    found = read(
        tmp_path,
        "\ufeff▁HE LL O ▁WORLD :1.5 #0.35 @HELLO_WORLD\r\n\n  你 好 :0 #0 \nO @o #.5\n▁HE #1",
    )
    assert found == [
        keywords.Keyword("HELLO_WORLD", (2, 3, 4, 5), 1.5, 0.35),
        # 0 is the default.
        keywords.Keyword("你好", (6, 7)),
        keywords.Keyword("o", (4,), threshold=0.5),
        # What is a token is taken as one.
        keywords.Keyword("HE#1", (2, 8)),
    ]


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "is empty"),
        (" \n\r\n", "is empty"),
        ("▁HE LL O\nHELLO WORLD\n", "line 2: 'HELLO' is not in tokens.txt: a keyword is written"),
        ("▁HE @HELLO WORLD", "its @phrase without spaces"),
        ("▁HE :much", "':much' is not a boost"),
        ("▁HE #35", "'#35' is not a threshold from 0 to 1"),
        ("▁HE #nan", "'#nan' is not a threshold"),
        (":1.5 @HELLO", "the keyword has no tokens"),
        ("▁HE <unk>", "never heard"),
        (b"\xc4\xe3 \xba\xc3", "is not a keywords file"),
    ],
)
def test_a_wrong_keywords_file_is_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        read(tmp_path, content)
    assert said in str(error.value)
    assert "keywords.txt" in str(error.value)


def test_a_missing_keywords_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no keywords file at .*set model\.keywords"):
        keywords.read(tmp_path / "keywords.txt", KNOWN)


def test_of_keywords_at_the_end_of_another_each_counts():
    graph = keywords.Graph(
        [keywords.Keyword("long", (1, 2, 3)), keywords.Keyword("end", (2, 3), 2.0)]
    )
    node, total = graph.root, 0.0
    for token in (1, 2, 3):
        added, node = graph.step(node, token)
        total += added
    # 3 for the long one's tokens, 3 more where it ends, 4 for the one at its end.
    assert (total, node.match.ends.name, node.inner.ends.name) == (10.0, "long", "end")
    # Leaving it takes back what its tokens had.
    assert graph.step(node, 7) == (-3.0, graph.root)
