"""A file of keywords, and the graph in which sherpa-onnx looks for them.

Written after sherpa-onnx's csrc/utils.cc (EncodeKeywords) and csrc/context-graph.cc.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zipquant.board.vocabulary import Vocabulary, content
from zipquant.errors import UserError

BOOST, THRESHOLD = 1.0, 0.25
"""What sherpa-onnx adds to the score of a keyword's token, and the mean probability that a keyword
must have, where its line does not say (KeywordSpotterConfig in csrc/keyword-spotter.h)."""

LARGEST = 1 << 20
"""Bytes of a keywords file: more than ten thousand keywords."""

_NUMBERS = {":": "boost", "#": "threshold"}


@dataclass(frozen=True)
class Keyword:
    """A keyword.

    Attributes:
        name: what is printed when it is heard: the phrase behind `@`, else the text of its tokens.
        ids: its tokens.
        boost: what is added to the score of each of its tokens, as a natural logarithm.
        threshold: the least mean probability of its tokens, 0 to 1.
    """

    name: str
    ids: tuple[int, ...]
    boost: float = BOOST
    threshold: float = THRESHOLD


def read(path: str | Path, known: Vocabulary) -> list[Keyword]:
    """Read a keywords file: tokens, and behind them `:boost`, `#threshold` and `@phrase`.

    Args:
        path: the file, one keyword a line.
        known: the model's tokens.

    Raises:
        UserError: the file cannot be read, has no keyword, or a line is not right.
    """
    lines = re.split(r"\r\n?|\n", content(path, "keywords", "model.keywords", LARGEST))
    found = [
        _keyword(f"{path}, line {number}", line.split(), known)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise UserError(f"{path} is empty: write a keyword on each line, or set model.keywords")
    return found


def _keyword(where: str, words: Sequence[str], known: Vocabulary) -> Keyword:
    """Return the keyword of a line; a word that is a token is taken as that, as by sherpa-onnx."""
    ids, name, numbers = [], "", {}
    for word in words:
        if word in known.ids:
            ids.append(known.ids[word])
        elif word[0] == "@":
            name = word[1:]
        elif word[0] in _NUMBERS:
            numbers[_NUMBERS[word[0]]] = _number(where, word)
        else:
            raise UserError(
                f"{where}: '{word[:40]}' is not in {known.path}: a keyword is written in tokens "
                "(sherpa-onnx-cli text2token makes them of a text), its @phrase without spaces"
            )
    if not ids or {known.blank, known.unknown} & set(ids):
        what = "a blank or unknown token, which is never heard" if ids else "no tokens"
        raise UserError(f"{where}: the keyword has {what}; its tokens come first")
    # 0 is the default for sherpa-onnx.
    given = {key: value for key, value in numbers.items() if value}
    return Keyword(name or known.text(ids) or " ".join(words), tuple(ids), **given)


def _number(where: str, word: str) -> float:
    try:
        value = float(word[1:])
    except ValueError:
        value = -1.0
    if not 0 <= value <= (1 if word[0] == "#" else 100):
        what = "a threshold from 0 to 1" if word[0] == "#" else "a boost from 0 to 100"
        raise UserError(f"{where}: '{word[:40]}' is not {what}")
    return value


@dataclass(eq=False)
class Node:
    """A beginning of keywords.

    Attributes:
        score: of its last token.
        total: of all its tokens.
        output: what is added when it is reached, beside `score`: the total of each keyword that
            ends here.
        level: how many tokens it has; 0 for the root.
        ends: the keyword that it is; None for a mere beginning.
        next: the beginnings that are a token longer, by that.
        fail: the longest beginning that is an end of this one.
        inner: the longest keyword that is an end of this one; None without one.
    """

    score: float = 0.0
    total: float = 0.0
    output: float = 0.0
    level: int = 0
    ends: Keyword | None = None
    next: dict[int, "Node"] = field(default_factory=dict)
    fail: "Node" = None  # type: ignore[assignment]
    inner: "Node | None" = None

    @property
    def match(self) -> "Node | None":
        """The keyword that is heard where this beginning was: itself, or one at its end."""
        return self if self.ends else self.inner


class Graph:
    """The keywords as an automaton of Aho and Corasick ("Efficient string matching", 1975).

    Args:
        keywords: what is looked for; of two with the same tokens the later one counts.
    """

    def __init__(self, keywords: Iterable[Keyword]):
        self.root = Node()
        self.root.fail = self.root
        for keyword in keywords:
            self._add(keyword)
        self._link()

    def _add(self, keyword: Keyword) -> None:
        node = self.root
        for token in keyword.ids:
            before, node = node, node.next.setdefault(token, Node(level=node.level + 1))
            # Of keywords that begin alike, a token has the largest boost.
            node.score = max(node.score, keyword.boost)
            node.total = before.total + node.score
            node.output = node.total if node.ends else 0.0
        node.ends, node.output = keyword, node.total

    def _link(self) -> None:
        """Find `fail` and `inner` of each node, shorter beginnings first."""
        for node in self.root.next.values():
            node.fail = self.root
        level = list(self.root.next.values())
        while level:
            for node in level:
                for token, longer in node.next.items():
                    longer.fail = self._longest(node.fail, token)
                    longer.inner = longer.fail.match
                    if longer.inner:
                        longer.output += longer.inner.output
            level = [longer for node in level for longer in node.next.values()]

    def _longest(self, node: Node, token: int) -> Node:
        """Return the longest end of a beginning that goes on with a token."""
        while token not in node.next and node is not self.root:
            node = node.fail
        return node.next.get(token, self.root)

    def step(self, node: Node, token: int) -> tuple[float, Node]:
        """Return what a token adds to the score, and where it leads."""
        if token in node.next:
            longer = node.next[token]
            return longer.score + longer.output, longer
        found = self._longest(node.fail, token)
        return found.total - node.total + found.output, found
