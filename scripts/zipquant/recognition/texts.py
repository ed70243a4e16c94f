"""Tables of texts, one row an utterance."""

import csv
from collections.abc import Iterable
from pathlib import Path


def read_texts(paths: Iterable[str | Path]) -> dict[str, str]:
    """Read the tables of some shards that `decode_shard` has written: texts by utterance id."""
    texts = {}
    for path in paths:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file, dialect="excel-tab"):
                texts[row["utterance"]] = row["text"]
    return texts
