"""Tables of texts, one row an utterance."""

import csv
from collections.abc import Iterable
from pathlib import Path

from zipquant.audio import index


def read_texts(paths: Iterable[str | Path]) -> dict[str, str]:
    """Read the tables of some shards that `decode_shard` has written: texts by utterance id.

    The texts of a recording that was cut are put together again, as its transcript is of the whole.
    """
    texts: dict[str, list[str]] = {}
    for path in paths:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file, dialect="excel-tab"):
                texts.setdefault(index.original(row["utterance"]), []).append(row["text"])
    return {name: " ".join(filter(None, parts)) for name, parts in texts.items()}
