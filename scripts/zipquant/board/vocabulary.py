"""The tokens file of a model: from token ids to text, and which words the tokens can spell."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zipquant.errors import UserError

WORD_START = "▁"
"""U+2581, which BPE vocabularies put before a piece that begins a word."""

BLANKS = ("<blk>", "<eps>", "<blank>")
"""Names of the blank, in the order in which sherpa-onnx looks for them (InitDecoder in
csrc/online-recognizer-ctc-impl.h)."""

LARGEST = 1 << 25
"""Bytes of a tokens file; those of 100,000 tokens have 2 MB."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Scripts written without spaces between words: Han, Hiragana and Katakana, and what goes with them.
_UNSPACED = re.compile("([⺀-鿿豈-﫿ｦ-ﾟ\U00020000-\U0003ffff])")


@dataclass(frozen=True)
class Vocabulary:
    """All tokens of a model.

    Attributes:
        path: the tokens file.
        tokens: the tokens, in the order of their ids.
        blank: id of the blank.
        unknown: id of `<unk>`, which sherpa-onnx's transducer search treats as a blank; None if
            there is no such token.
    """

    path: str
    tokens: tuple[str, ...]
    blank: int
    unknown: int | None

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of token ids: pieces joined, `▁` as a space, byte tokens as UTF-8."""
        joined = b""
        for token in (self.tokens[number] for number in ids):
            byte = _BYTE.fullmatch(token)
            joined += bytes([int(byte[1], 16)]) if byte else token.encode()
        return " ".join(joined.decode(errors="ignore").replace(WORD_START, " ").split())

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that no sequence of tokens spells, case aside."""
        return [word for word in words(text) if not self._spells(word)]

    @cached_property
    def _pieces(self) -> tuple[frozenset[str], frozenset[str]]:
        """Tokens that can begin a word, and tokens that can stand within one; no special ones."""
        plain = [normalize(token) for token in self.tokens if not token.startswith("<")]
        within = frozenset(token for token in plain if not token.startswith(WORD_START))
        starts = frozenset(token[1:] for token in plain if token.startswith(WORD_START))
        # With a ▁ that stands alone, or with none at all, any piece can begin a word.
        return (starts | within if not starts or "" in starts else starts), within

    @cached_property
    def _longest(self) -> int:
        return max(map(len, frozenset().union(*self._pieces)), default=0)

    @cached_property
    def _has_bytes(self) -> bool:
        return any(_BYTE.fullmatch(token) for token in self.tokens)

    @cached_property
    def _known(self) -> dict[str, bool]:
        return {}

    def _spells(self, word: str) -> bool:
        if self._has_bytes:
            return True
        if word not in self._known:
            starts, within = self._pieces
            # A character of an unspaced script is a word here, but has no ▁ in most vocabularies.
            first = starts | within if _UNSPACED.match(word) else starts
            reached = [True] + [False] * len(word)
            for end in range(1, len(word) + 1):
                reached[end] = any(
                    reached[start] and word[start:end] in (within if start else first)
                    for start in range(max(0, end - self._longest), end)
                )
            self._known[word] = reached[-1]
        return self._known[word]


def read(path: str | Path) -> Vocabulary:
    """Read a tokens file: a token and its id on each line.

    Raises:
        UserError: the file is missing or is no tokens file, ids are missing or given twice, or
            there is no blank.
    """
    if not Path(path).is_file():
        raise UserError(f"no tokens file at '{path}': set model.tokens")
    if Path(path).stat().st_size > LARGEST:
        raise UserError(f"{path} is too large for a tokens file: set model.tokens")
    try:
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a tokens file ({error}): set model.tokens") from None
    tokens: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        # Only ASCII blanks separate: a token may be another kind of space.
        match = re.fullmatch(r"[ \t]*([^ \t]+)[ \t]+(\d{1,9})[ \t\r]*", line)
        if not match:
            raise UserError(
                f"{path}, line {number}: '{line[:40]}' is not a token and its id, separated by a "
                "space; set model.tokens to the tokens.txt that belongs to the model"
            )
        if int(match[2]) in tokens:
            raise UserError(f"{path}, line {number}: the id {match[2]} is given twice")
        tokens[int(match[2])] = match[1]
    missing = next((number for number in range(len(tokens)) if number not in tokens), None)
    if missing is not None or not tokens:
        raise UserError(f"{path}: there is no token with the id {missing or 0}")
    ordered = tuple(tokens[number] for number in range(len(tokens)))
    blank = next((ordered.index(name) for name in BLANKS if name in ordered), None)
    if blank is None:
        raise UserError(f"{path}: none of the tokens is a blank ({', '.join(BLANKS)})")
    unknown = ordered.index("<unk>") if "<unk>" in ordered else None
    return Vocabulary(str(path), ordered, blank, unknown)


def normalize(text: str) -> str:
    """Return a text as it is compared: case folded, compatible characters made one (NFKC)."""
    return unicodedata.normalize("NFKC", text).casefold()


def words(text: str) -> list[str]:
    """Return the normalized words of a text.

    Chinese and Japanese are written without spaces: each of their characters counts as a word.
    """
    return _UNSPACED.sub(r" \1 ", normalize(text)).split()


def characters(text: str) -> list[str]:
    """Return the normalized characters of a text, without spaces."""
    return list("".join(normalize(text).split()))


def is_unspaced(text: str) -> bool:
    """Return whether most of a text is written without spaces between words."""
    found = len(_UNSPACED.findall(normalize(text)))
    return 2 * found > len(characters(text))
