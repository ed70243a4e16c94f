"""All recipes side by side: what each costs, how true its rows are, and how good the model gets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zipquant.audio.frame_store import FrameReader
from zipquant.calibration import ranges, sampling
from zipquant.calibration.recipes import RECIPES, Recipe
from zipquant.errors import UserError
from zipquant.evaluation import encoder_error, measures, scores
from zipquant.jobs import benchmarks, files
from zipquant.model.contract import Contract
from zipquant.recognition import decoding, error_rates
from zipquant.recognition.texts import read_texts
from zipquant.toolkit.platforms import Npu
from zipquant.variants.build import Settings, Source, build_variant

NPY_HEADER = 128
"""Bytes before the data of an npy file of a few axes."""


def build(
    models: encoder_error.Models,
    dataset: str | Path,
    features: Sequence[str | Path],
    verdict_file: str | Path,
    npu: Npu,
    settings: Mapping[str, str],
    one_step_chunks: int,
    recognizer: Mapping[str, str],
) -> None:
    """Build a variant from a recipe's calibration set, evaluate it, and make its text.

    A set that is refused, by the validator before the toolkit is started or by the toolkit, is a
    result like others: it is written down with the reason.

    Args:
        models: the encoder, and the folder for the build; `evaluation` (tables) and `texts` are
            made in that.
        dataset: dataset.txt of the recipe.
        features: the feature files of the evaluation audio, all shards.
        verdict_file: the JSON file to write: `taken`, and the `reason` where it is not.
        npu: see `build.build_variant`.
        settings: the variant's settings, see there.
        one_step_chunks: see `evaluation.evaluate`.
        recognizer: `tokens`, `decoder` and `joiner` files; empty where no text can be made.

    Raises:
        UserError: the evaluation failed.
    """
    work = Path(models.folder)
    work.mkdir(parents=True, exist_ok=True)
    source = Source(models.prepared, models.contract, dataset)
    try:
        build_variant(work, npu, source, Settings(**settings))
    except UserError as error:
        reason = str(error).removeprefix(f"{dataset}: ")
        files.write_json(verdict_file, {"taken": False, "reason": reason})
        return
    for shard in features:
        name = Path(shard).stem
        encoded = work / f"encoded/{name}.h5"
        table = work / f"evaluation/{name}.parquet"
        encoder_error.evaluate_shard(
            models,
            shard,
            encoder_error.Tables(table, encoded),
            encoder_error.Amount(one_step_chunks),
        )
        if recognizer:
            decoding.decode_shard_float(encoded, work / f"texts/{name}.tsv", **recognizer)
    files.write_json(verdict_file, {"taken": True, "reason": ""})


@dataclass(frozen=True)
class Line:
    """One row of the table. Its fields are the columns of lineage.tsv; None where nothing is known.

    Attributes:
        recipe: name of the recipe.
        front_end: how its features are computed.
        states: what states its rows hold.
        strategy: which chunks are taken.
        rows: rows in its dataset.txt.
        files: files on disk, dataset.txt included.
        bytes: their size.
        full_bytes: what all chunks would take where the recipe wants all of them; computed.
        peak_memory_mb: the largest of the jobs that made the set.
        seconds: the sum of their durations: features, traces where the states are real, sample,
            rows. Our jobs, not the scripts that the recipes come from.
        feature_error_mean: mean absolute difference from the runtime's features, frame by frame.
        feature_error_max: the largest such difference.
        coverage_mean: part of the range that an input has at run time and the rows cover, mean of
            all inputs; see `ranges.coverage`.
        coverage_worst: the least such part.
        widest: how many times as wide as at run time the rows make the range of an input, the
            largest of all inputs: so many times coarser is its int8 scale.
        toolkit: `taken`, or the reason why the set is refused.
        sqnr_one_step_db: of the encoder output, see `evaluation.ONE_STEP`.
        sqnr_free_running_db: of the encoder output, see `evaluation.FREE_RUNNING`.
        error_rate: word error rate of the evaluation audio, in per cent (of characters for scripts
            without spaces).
        error_rate_float: the float model's.
        same_text: per cent of the utterances with the very same text as the float model's.
    """

    recipe: str
    front_end: str
    states: str
    strategy: str
    rows: int
    files: int
    bytes: int
    full_bytes: int
    peak_memory_mb: float
    seconds: float
    feature_error_mean: float
    feature_error_max: float
    coverage_mean: float
    coverage_worst: float
    widest: float
    toolkit: str
    sqnr_one_step_db: float | None = None
    sqnr_free_running_db: float | None = None
    error_rate: float | None = None
    error_rate_float: float | None = None
    same_text: float | None = None


@dataclass(frozen=True)
class Made:
    """The files of one recipe.

    Attributes:
        dataset: its dataset.txt, with the arrays in the folder `arrays` beside it.
        sample: the TSV of its chunks.
        features: its front end's features of the calibration audio, all shards.
        tables: the chunk tables of these.
        benchmarks: Snakemake's benchmark files of the jobs that made it.
        verdict: what `build` has written.
        work: the folder that `build` has filled.
    """

    dataset: str
    sample: str
    features: Sequence[str]
    tables: Sequence[str]
    benchmarks: Sequence[str]
    verdict: str
    work: str


def write(
    contract_file: str | Path,
    made: Mapping[str, Mapping[str, Any]],
    runtime_features: Sequence[str | Path],
    runtime_tables: Sequence[str | Path],
    float_texts: Sequence[str | Path],
    transcripts: str | Path | None,
    table_file: str | Path,
    markdown_file: str | Path,
) -> None:
    """Compare all recipes in one table, as TSV and as Markdown.

    Args:
        contract_file: the model's contract.
        made: the fields of `Made` of each recipe, by its name.
        runtime_features: features of the calibration audio by the runtime's front end, all shards.
        runtime_tables: the chunk tables of these.
        float_texts: the float model's texts of the evaluation audio; empty where none are made.
        transcripts: the evaluation manifest, or None.
        table_file: the TSV to write, the columns of `Line`.
        markdown_file: the same for a page of documentation.
    """
    contract = Contract.load(contract_file)
    names = [tensor.name for tensor in contract.inputs]
    whole = _whole(runtime_tables, names)
    lines = []
    for name, entry in made.items():
        recipe, files_of = RECIPES[name], Made(**entry)
        mean, largest = feature_error(files_of.features, runtime_features)
        reached = _reached(recipe, files_of, contract, names)
        covered = ranges.coverage(reached, whole)
        stretched = ranges.width(reached) / np.where(
            ranges.width(whole) > 0, ranges.width(whole), 1
        )
        lines.append(
            Line(
                recipe=name,
                **asdict(recipe),
                **_on_disk(recipe, files_of, contract),
                **_cost(files_of.benchmarks),
                feature_error_mean=mean,
                feature_error_max=largest,
                coverage_mean=float(covered.mean()),
                coverage_worst=float(covered.min()),
                widest=float(stretched.max()),
                **_accuracy(files_of, contract, float_texts, transcripts),
            )
        )
    table = pd.DataFrame([asdict(line) for line in lines])
    with files.atomic(table_file) as temporary:
        table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")
    files.write_text(markdown_file, markdown(lines))


def feature_error(
    shards: Sequence[str | Path], runtime: Sequence[str | Path]
) -> tuple[float, float]:
    """Return mean and largest absolute difference of features from the runtime's.

    Args:
        shards: feature files of all shards.
        runtime: those of the same audio by the runtime's front end. The frames that both have are
            compared.
    """
    total, count, largest = 0.0, 0, 0.0
    for path, expected in zip(shards, runtime, strict=True):
        with FrameReader(path) as got, FrameReader(expected) as wanted:
            for position in range(len(wanted.ids)):
                a, b = got.frames(position), wanted.frames(position)
                both = min(len(a), len(b))
                difference = np.abs(a[:both].astype(np.float64) - b[:both])
                total, count = total + difference.sum(), count + difference.size
                largest = max(largest, difference.max(initial=0.0))
    return total / max(count, 1), largest


def markdown(lines: Sequence[Line]) -> str:
    """Return the table as Markdown, the figures rounded for reading."""
    heads = [
        ("recipe", lambda x: f"`{x.recipe}`"),
        ("features, states, rows", lambda x: f"{x.front_end}, {x.states}, {x.strategy}"),
        ("rows", lambda x: str(x.rows)),
        ("files", lambda x: str(x.files)),
        ("on disk", _size),
        ("memory", lambda x: f"{x.peak_memory_mb:.0f} MB"),
        ("time", lambda x: f"{x.seconds:.0f} s"),
        (
            "feature error, mean (max)",
            lambda x: f"{x.feature_error_mean:.2f} ({x.feature_error_max:.1f})",
        ),
        (
            "range covered, mean (worst)",
            lambda x: f"{100 * x.coverage_mean:.0f} % ({100 * x.coverage_worst:.0f} %)",
        ),
        ("widest", lambda x: f"{x.widest:.1f}"),
        ("toolkit", lambda x: x.toolkit if x.toolkit == "taken" else "refused"),
        ("SQNR, one step", lambda x: _figure(x.sqnr_one_step_db, " dB")),
        ("free-running", lambda x: _figure(x.sqnr_free_running_db, " dB")),
        ("error rate", lambda x: _figure(x.error_rate, " %")),
        ("same text as float", lambda x: _figure(x.same_text, " %")),
    ]
    rows = [[title for title, _ in heads], ["---"] * len(heads)]
    rows += [[show(line) for _, show in heads] for line in lines]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    rates = {line.error_rate_float for line in lines if line.error_rate_float is not None}
    for rate in rates:
        text += f"\nError rate of the float model: {rate:.1f} %.\n"
    for line in lines:
        if line.toolkit != "taken":
            text += f"\n`{line.recipe}` is refused: {line.toolkit}\n"
    return text


def _size(line: Line) -> str:
    full = f" (all: {line.full_bytes / 1e6:.0f} MB)" if line.full_bytes > line.bytes else ""
    return f"{line.bytes / 1e6:.1f} MB{full}"


def _figure(value: float | None, unit: str) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}{unit}"


def _whole(tables: Sequence[str | Path], names: Sequence[str]) -> np.ndarray:
    reached = np.full(2 * len(names), -np.inf)
    for path in tables:
        table = sampling.read_table(path, names)
        reached = np.maximum(reached, ranges.reach(table, names).max(axis=0, initial=-np.inf))
    return reached


def _reached(recipe: Recipe, made: Made, contract: Contract, names: Sequence[str]) -> np.ndarray:
    """Return how far the rows reach in each input; states of zeros, or none, reach nowhere."""
    reached = sampling.reach_of(made.tables, sampling.read(made.sample), names)
    if recipe.states != "real":
        states = np.array([name != contract.x.name for name in names])
        reached[np.tile(states, 2)] = 0
    return reached


def _on_disk(recipe: Recipe, made: Made, contract: Contract) -> dict[str, int]:
    dataset = Path(made.dataset)
    sizes = [path.stat().st_size for path in (dataset.parent / "arrays").iterdir()]
    found = {
        "rows": len(sampling.read(made.sample)),
        "files": len(sizes) + 1,
        "bytes": sum(sizes) + dataset.stat().st_size,
    }
    full = found["bytes"]
    if recipe.strategy == "all":
        chunks = sum(len(sampling.read_table(path, [])) for path in made.tables)
        inputs = contract.inputs if recipe.states != "none" else (contract.x,)
        full = chunks * sum(tensor.zeros().nbytes + NPY_HEADER for tensor in inputs)
    return found | {"full_bytes": full}


def _cost(paths: Sequence[str]) -> dict[str, float]:
    """Sum up Snakemake's benchmark files."""
    rows = [row for path in paths for row in benchmarks.read(path)]
    jobs = pd.DataFrame(rows, columns=list(benchmarks.COLUMNS.values()), dtype=float)
    return {
        "peak_memory_mb": float(jobs["memory_mb"].max()),
        "seconds": float(jobs["seconds"].sum()),
    }


def _accuracy(
    made: Made,
    contract: Contract,
    float_texts: Sequence[str | Path],
    transcripts: str | Path | None,
) -> dict[str, Any]:
    verdict = files.read_json(made.verdict)
    if not verdict["taken"]:
        return {"toolkit": verdict["reason"]}
    work = Path(made.work)
    tables = sorted((work / "evaluation").glob("*.parquet"))
    table = pd.concat([pd.read_parquet(path) for path in tables])
    table = table[table["output"] == contract.encoder_out]
    sqnr = measures.summarize(table, ["mode"]).set_index("mode")["sqnr_db"]
    figures = {
        "toolkit": "taken",
        "sqnr_one_step_db": sqnr.get(measures.ONE_STEP),
        "sqnr_free_running_db": sqnr.get(measures.FREE_RUNNING),
    }
    if float_texts:
        texts = {
            error_rates.FLOAT: read_texts(float_texts),
            "int8": read_texts(sorted((work / "texts").glob("*.tsv"))),
        }
        found = error_rates.score(texts, scores.read_references(transcripts))
        models, unit = found["models"], found["unit"]
        figures["same_text"] = models["int8"]["same"]["share"]
        if models["int8"]["transcript"]:
            figures["error_rate"] = models["int8"]["transcript"][unit]["rate"]
            figures["error_rate_float"] = models[error_rates.FLOAT]["transcript"][unit]["rate"]
    return figures
