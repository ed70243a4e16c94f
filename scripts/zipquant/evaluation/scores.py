"""Error rates of all models of a run, from their tables of texts."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zipquant.evaluation import keyword_scores
from zipquant.jobs import files
from zipquant.recognition import error_rates
from zipquant.recognition.texts import read_texts


@dataclass(frozen=True)
class Keywords:
    """What was heard of keywords.

    Attributes:
        names: of the keywords.
        models: the models that they were looked for with.
        heard: files of `spotting.spot_shard`, all shards of the first model, then of the next.
    """

    names: Sequence[str]
    models: Sequence[str]
    heard: Sequence[str | Path]


def read_references(table: str | Path | None) -> dict[str, str]:
    """Return the transcripts in a table of `plan.write_transcripts` by utterance id; None has none.

    Raises:
        UserError: the table is damaged.
    """
    if table is None:
        return {}
    try:
        with open(table, encoding="utf-8", newline="") as file:
            return {row["id"]: row["text"] for row in csv.DictReader(file, dialect="excel-tab")}
    except (UnicodeDecodeError, csv.Error, KeyError) as error:
        raise files.damaged(table, error) from None


def write(
    models: Sequence[str],
    texts: Sequence[str | Path],
    transcripts: str | Path | None,
    best_file: str | Path,
    scores_file: str | Path,
    table_file: str | Path,
    keywords: Keywords | None = None,
) -> None:
    """Score all models, and write the figures as JSON and all texts side by side as TSV.

    Args:
        models: names of the models.
        texts: tables of `decoding.decode_shard`, all shards of the first model, then of the next.
        transcripts: the table of transcripts, see `read_references`, or None.
        best_file: what `choice.write` has written; variants that could not be built are left out.
        scores_file: what `error_rates.score` returns, the name of the `best` variant, and what
            `keyword_scores.score` returns as `keywords`, None without keywords.
        table_file: one row an utterance: its id, transcript, and the text of each model.
        keywords: what was heard of keywords; None where none are looked for.
    """
    choice = files.read_json(best_file)
    found = read(models, texts)
    for name in choice["failures"]:
        found.pop(name, None)
    references = read_references(transcripts)
    scores = error_rates.score(found, references) | {"best": choice["best"], "keywords": None}
    if keywords:
        heard = keyword_scores.read_models(keywords.models, keywords.heard)
        heard = {name: entry for name, entry in heard.items() if name not in choice["failures"]}
        scores["keywords"] = keyword_scores.score(heard, keywords.names, references)
    files.write_json(scores_file, scores)
    with files.tsv_writer(table_file) as table:
        table.writerow(["utterance", "transcript", *found])
        for name in sorted(found[error_rates.FLOAT]):
            row = [text[name] for text in found.values()]
            table.writerow([name, references.get(name, ""), *row])


def read(models: Sequence[str], texts: Sequence[str | Path]) -> dict[str, dict[str, str]]:
    """Return text by utterance id, by model.

    Args:
        models: names of the models.
        texts: tables of `decoding.decode_shard`, all shards of the first model, then of the next.
    """
    shards = len(texts) // len(models)
    return {
        model: read_texts(texts[position * shards : (position + 1) * shards])
        for position, model in enumerate(models)
    }
