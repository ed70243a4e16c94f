"""The tokens file of a model: from token ids to text, and which words the tokens can spell."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zipquant.errors import UserError, is_lfs_pointer

WORD_START = "▁"
"""U+2581, which BPE vocabularies put before a piece that begins a word."""

BLANKS = ("<blk>", "<eps>", "<blank>")
"""Names of the blank, in the order in which sherpa-onnx looks for them (InitDecoder in
csrc/online-recognizer-ctc-impl.h)."""

LARGEST = 1 << 25
"""Bytes of a tokens file; those of 100,000 tokens have 2 MB."""

SURPLUS = re.compile(r"#\d+")
"""Tokens that graphs are built with, at the end of many published files: no model scores them."""

LETTERS = [chr(code) for code in range(256, 423) if unicodedata.is_normalized("NFKC", chr(code))]
"""What a byte-level BPE writes for the bytes 0 to 31 and 127 to 255, in their order; the bytes
between are the ASCII characters themselves (GetByteBpeTable in csrc/bbpe.cc)."""

BYTES = dict(zip(LETTERS, [*range(32), *range(127, 256)], strict=True))
"""The byte of each of `LETTERS`."""

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_ASCII_SPACES = " \t\r\f\v"
# sherpa-onnx takes one such character away from the beginning of a text (found by trying 2.0.1).
_NO_BEGINNING = re.compile("[!-/:-@\\[-`{-~\u3000-\u303f！-／：-＠［-｀｛-･]")
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
        """Return the text of token ids, as sherpa-onnx prints it.

        Pieces are joined, a `▁` before a piece is a space, byte tokens are UTF-8 (operator[] and
        DecodeByteBpe in csrc/symbol-table.cc). Bytes that are no UTF-8 are left out.
        """
        joined = b"".join(self._printed[number] for number in ids)
        text = joined.decode(errors="ignore")
        text = (_from_letters(text) if self.is_byte_level else text).lstrip(_ASCII_SPACES + "\n")
        return (text[1:] if _NO_BEGINNING.match(text) else text).strip()

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether this is a byte-level BPE, as IsByteBPE in csrc/symbol-table.cc decides it.

        All bytes of the tokens are 0xC6, the first byte of the last `LETTERS`, at most.
        """
        plain = [token.removeprefix(WORD_START).encode() for token in self.tokens]
        return max(map(max, filter(None, plain))) == 0xC6

    def scored(self, size: int | None) -> bool:
        """Return whether a model that gives `size` scores has these tokens, `SURPLUS` ones aside.

        Args:
            size: scores of the model's output; None where the file does not say.
        """
        if size is None or size == len(self.tokens):
            return True
        return 0 < size < len(self.tokens) and all(map(SURPLUS.fullmatch, self.tokens[size:]))

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that no sequence of tokens spells, case aside."""
        return [word for word in words(text) if not self._spells(word)]

    @cached_property
    def _printed(self) -> tuple[bytes, ...]:
        return tuple(self._print(number, token) for number, token in enumerate(self.tokens))

    @cached_property
    def _first_byte(self) -> int | None:
        """Id of the first of 256 tokens that stand for bytes; None without such tokens."""
        first, last = self.ids.get("<0x00>"), self.ids.get("<0xFF>")
        return first if first is not None and last == first + 255 else None

    def _print(self, number: int, token: str) -> bytes:
        """Return what sherpa-onnx prints for a token."""
        byte, first = _BYTE.fullmatch(token), self._first_byte
        # It writes numbers below 16 with one digit, and so does not find these bytes.
        if byte and first is not None and int(byte[1], 16) == number - first >= 16:
            return bytes([number - first])
        if token.startswith(WORD_START) and not self.is_byte_level:
            return b" " + token[1:].encode()
        return token.encode()

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
        return self.is_byte_level or any(_BYTE.fullmatch(token) for token in self.tokens)

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
    """Read a tokens file: a token and its id on each line; an id alone is the token of a space.

    Raises:
        UserError: the file is missing or is no tokens file, ids are missing or given twice, or
            there is no blank.
    """
    tokens: dict[int, str] = {}
    for number, line in enumerate(content(path, "tokens", "model.tokens", LARGEST).split("\n"), 1):
        line = line.strip(_ASCII_SPACES)
        # Only ASCII blanks separate: a token may be another kind of space.
        match = re.fullmatch(rf"(?:([^{_ASCII_SPACES}]+)[{_ASCII_SPACES}]+)?(\d{{1,9}})", line)
        if not match and line:
            raise UserError(f"{path}, line {number}: {_no_token(line)}")
        if match and int(match[2]) in tokens:
            raise UserError(f"{path}, line {number}: the id {match[2]} is given twice")
        if match:
            tokens[int(match[2])] = match[1] or " "
    missing = next((number for number in range(len(tokens)) if number not in tokens), None)
    if missing is not None or not tokens:
        raise UserError(f"{path}: there is no token with the id {missing or 0}: set model.tokens")
    ordered = tuple(tokens[number] for number in range(len(tokens)))
    blank = next((ordered.index(name) for name in BLANKS if name in ordered), None)
    if blank is None:
        raise UserError(f"{path}: none of the tokens is a blank ({', '.join(BLANKS)})")
    unknown = ordered.index("<unk>") if "<unk>" in ordered else None
    return Vocabulary(str(path), ordered, blank, unknown)


def content(path: str | Path, kind: str, setting: str, largest: int) -> str:
    """Return a text in UTF-8, without the byte order mark of Windows' editors.

    Args:
        path: the file.
        kind: what it is, such as `tokens`, for messages.
        setting: the configuration's key that names it, for messages.
        largest: bytes.

    Raises:
        UserError: it is missing, too large, or no such text.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: set {setting} to the {kind} file in it")
    if not path.is_file():
        raise UserError(f"no {kind} file at '{path}': set {setting}")
    if is_lfs_pointer(path):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    if path.stat().st_size > largest:
        raise UserError(f"{path} is too large for a {kind} file: set {setting}")
    try:
        found = path.read_bytes()
        if found.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path} is UTF-16, which sherpa-onnx cannot read: save it as UTF-8")
        return found.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a {kind} file ({error}): set {setting}") from None


def _no_token(line: str) -> str:
    """Say what is wrong with a line that is not a token and its id."""
    advice = "set model.tokens to the tokens.txt that belongs to the model"
    if re.fullmatch(rf"[^{_ASCII_SPACES}]+\t-?\d+(\.\d+)?(e-?\d+)?", line):
        return f"'{line[:40]}' is a line of SentencePiece's .vocab, which holds scores; {advice}"
    return f"'{line[:40]}' is not a token and its id, separated by a space; {advice}"


def _from_letters(text: str) -> str:
    """Decode what a byte-level BPE gives; see `LETTERS`."""
    found = bytearray()
    for letter in text:
        if letter == WORD_START:
            # A space, but not after a byte that is no ASCII, such as the end of 好.
            if found and 0x20 < found[-1] < 0x7F:
                found += b" "
        elif letter in BYTES:
            found.append(BYTES[letter])
        elif letter.isascii() and not letter.isspace():
            found.append(ord(letter))
    return found.decode(errors="ignore")


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
