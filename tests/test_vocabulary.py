"""Tokens files: reading them, text from token ids, and words that cannot be spelled."""

import pytest

from zipquant.board import vocabulary
from zipquant.errors import UserError


def write(path, tokens):
    path.write_text("".join(f"{token} {number}\n" for number, token in enumerate(tokens)))
    return path


@pytest.fixture
def make(tmp_path):
    return lambda *tokens: vocabulary.read(write(tmp_path / "tokens.txt", tokens))


def test_words_pieces_characters_and_bytes_become_text(make):
    assert make("<blk>", "▁six", "▁two").text([2, 1, 1]) == "two six six"
    assert make("<blk>", "<unk>", "▁HE", "LLO", "▁", "W").text([2, 3, 4, 5]) == "HELLO W"
    assert make("<blk>", "你", "好").text([1, 2, 2]) == "你好好"
    # 好 is E5 A5 BD in UTF-8
    assert make("<blk>", "▁a", "<0xE5>", "<0xA5>", "<0xBD>").text([1, 2, 3, 4]) == "a好"


def test_half_a_byte_sequence_does_not_break_the_text(make):
    assert make("<blk>", "▁a", "<0xE5>").text([1, 2, 1]) == "a a"


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
        ("", "is not a token and its id"),
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
    (tmp_path / "tokens.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a tokens file"):
        vocabulary.read(tmp_path / "tokens.txt")
