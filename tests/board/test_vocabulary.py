"""Tokens files: reading them, text from token ids, and words that cannot be spelled."""

import pytest

from zipquant.board import vocabulary
from zipquant.errors import UserError


def write(path, tokens):
    path.write_text("".join(f"{token} {number}\n" for number, token in enumerate(tokens)))
    return path


# As SentencePiece numbers byte tokens: after the blank, <sos/eos> and <unk>. 好 is E5 A5 BD.
BYTE_FALLBACK = ["<blk>", "<sos/eos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
BYTE_FALLBACK += ["▁", "▁a", "b", "▁好"]


@pytest.fixture
def make(tmp_path):
    return lambda *tokens: vocabulary.read(write(tmp_path / "tokens.txt", tokens))


def test_words_pieces_characters_and_bytes_become_text(make):
    assert make("<blk>", "▁six", "▁two").text([2, 1, 1]) == "two six six"
    assert make("<blk>", "<unk>", "▁HE", "LLO", "▁", "W").text([2, 3, 4, 5]) == "HELLO W"
    assert make("<blk>", "你", "好").text([1, 2, 2]) == "你好好"
    assert make(*BYTE_FALLBACK).text([260, 0xE5 + 3, 0xA5 + 3, 0xBD + 3]) == "a好"


def test_half_a_byte_sequence_does_not_break_the_text(make):
    assert make(*BYTE_FALLBACK).text([260, 0xE5 + 3, 260]) == "a a"


@pytest.mark.parametrize(
    ("tokens", "text", "unknown"),
    [
        (("▁six", "▁two"), "six two SIX", []),
        (("▁six", "▁two"), "six ten sixtwo", ["ten", "sixtwo"]),
        (("▁HE", "LLO", "O", "▁W"), "hello whello wo", ["whello"]),
        (("▁", "a", "b"), "abba c", ["c"]),
        (("你", "好", "▁HI"), "你好 hi", []),
        (("你", "好"), "你们好", ["们"]),
        (("▁a", "<0x62>"), "anything, 好", []),
    ],
)
def test_words_that_no_tokens_spell_are_found(make, tokens, text, unknown):
    assert make("<blk>", *tokens).unknown_words(text) == unknown


def test_chinese_characters_are_words_and_width_and_case_do_not_count():
    assert vocabulary.words("我们 OK Ｇo") == ["我", "们", "ok", "go"]
    assert vocabulary.characters("a 我们") == ["a", "我", "们"]
    assert vocabulary.is_unspaced("我们 ok") is False
    assert vocabulary.is_unspaced("我们去 ok") is True


def test_special_tokens_are_known(make):
    known = make("<blk>", "<sos/eos>", "<unk>", "a")
    assert (known.blank, known.unknown) == (0, 2)
    assert make("a", "<blank>").blank == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<blk> 0\na\n", "line 2: 'a' is not a token and its id"),
        ("<blk> 0\na 1\nb 1\n", "line 3: the id 1 is given twice"),
        ("<blk> 0\na 2\n", "no token with the id 1"),
        ("a 0\nb 1\n", "none of the tokens is a blank"),
        ("", "no token with the id 0"),
        ("<blk>\t0\n▁a\t-1.25\n", "line 2: .* is a line of SentencePiece's .vocab"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "run git lfs pull"),
    ],
)
def test_broken_tokens_file_is_refused(tmp_path, content, message):
    path = tmp_path / "tokens.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        vocabulary.read(path)


def test_missing_or_binary_tokens_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no tokens file at"):
        vocabulary.read(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"is a folder: set model\.tokens"):
        vocabulary.read(tmp_path)
    for content, message in (
        (b"\xff\xfe<\x00", "is UTF-16, which sherpa-onnx cannot read: save it as UTF-8"),
        (b"\xc4\xe3 0\n", "is not a tokens file"),
    ):
        (tmp_path / "tokens.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            vocabulary.read(tmp_path / "tokens.txt")


def test_what_editors_and_exports_leave_in_a_tokens_file_is_read(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_bytes(b"\xef\xbb\xbf<blk> 0\r\n\xe2\x96\x81a\t1\r\n 2\r\n\r\n b   3 \n\n")
    known = vocabulary.read(path)
    assert known.tokens == ("<blk>", "▁a", " ", "b")
    assert known.text([1, 2, 3, 2, 1]) == "a b  a"


def test_surplus_tokens_of_graphs_at_the_end_are_not_counted(make):
    known = make("<blk>", "a", "#0", "#1")
    assert known.scored(2) and known.scored(4) and known.scored(None)
    assert not known.scored(1) and not known.scored(5)
    assert not make("<blk>", "#0", "a", "b").scored(2)
