"""The report: everything measured, as JSON, as Markdown and as one HTML page."""

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from zipquant.audio import index
from zipquant.board.fbank import FRAMES_PER_SECOND
from zipquant.calibration import sampling
from zipquant.evaluation import board_result, measures
from zipquant.jobs import files
from zipquant.model.contract import Contract
from zipquant.model.noise import sqnr
from zipquant.report import costs, layers, page, suitability, words
from zipquant.variants.histograms import RANGES, Histograms
from zipquant.variants.record import Build
from zipquant.version import VERSION

PACKAGES = ("onnxruntime", "kaldi-native-fbank", "numpy", "snakemake")

GROUPS = 60
"""Points of the drift along a stream; with more chunks, neighbours share one."""

WORST = 3
"""Outputs that are named as the worst."""


@dataclass(frozen=True)
class ModelFiles:
    """The float encoder.

    Attributes:
        encoder: its ONNX file.
        contract: its contract.
        prepared: what `preparation.prove` has written of its rewrites.
        restored: what `restored.prove` has written of parts that were turned back into float32;
            None where there are none.
    """

    encoder: str | Path
    contract: str | Path
    prepared: str | Path
    restored: str | Path | None = None


@dataclass(frozen=True)
class AudioFiles:
    """The audio, and the calibration set made of it.

    Attributes:
        indexes: the index files of all shards, by audio set.
        overlap: the TSV of evaluation audio that is also calibrated with.
        sample: the TSV of sampled chunks.
        coverage: the TSV of the ranges that the sample covers.
        outliers: the TSV of chunks that were left out as broken audio.
        chunk_tables: the Parquet chunk tables of all shards.
    """

    indexes: Mapping[str, Sequence[str | Path]]
    overlap: str | Path
    sample: str | Path
    coverage: str | Path
    outliers: str | Path
    chunk_tables: Sequence[str | Path]


@dataclass(frozen=True)
class VariantFiles:
    """A variant.

    Attributes:
        build: its build.json.
        toolkit: the toolkit's folder, with its `histograms.RANGES`.
        evaluations: the evaluation tables of all shards.
        histograms: the histograms of the inputs in the evaluation, of all shards.
        times: what ran it and how long chunks took, of all shards.
        long_stream: what `long_stream.run` has written.
        layers: the table of its layers.
    """

    build: str | Path
    toolkit: str | Path
    evaluations: Sequence[str | Path]
    histograms: Sequence[str | Path]
    times: Sequence[str | Path]
    long_stream: str | Path
    layers: str | Path


@dataclass(frozen=True)
class TextFiles:
    """What was recognised.

    Attributes:
        scores: the error rates, written by `scores.write`; None where no text is made.
        texts: the texts of all models, likewise.
        parts: the .rknn files of decoder and joiner; none where no text is made, or for CTC.
        verified: how exact each of them is, written by `transducer.verify`.
        layers: the table of the layers of each.
    """

    scores: str | Path | None = None
    texts: str | Path | None = None
    parts: Sequence[str | Path] = ()
    verified: Sequence[str | Path] = ()
    layers: Sequence[str | Path] = ()


@dataclass(frozen=True)
class Run:
    """The run.

    Attributes:
        settings: the whole configuration.
        warnings: what was found wrong before it, but did not stop it.
        benchmarks: where to find what its jobs took.
    """

    settings: Mapping[str, Any]
    warnings: Sequence[str]
    benchmarks: costs.Benchmarks


@dataclass(frozen=True)
class Outputs:
    """The report's files.

    Attributes:
        json: for programs.
        markdown: for a README or an issue.
        html: for a browser, one self-contained page; by language.
        summary: its figures in one line for each variant.
    """

    json: str | Path
    markdown: str | Path
    html: Mapping[str, str | Path]
    summary: str | Path


def write(
    model: ModelFiles,
    audio: AudioFiles,
    variants: Mapping[str, VariantFiles],
    best_file: str | Path,
    texts: TextFiles,
    run: Run,
    outputs: Outputs,
) -> None:
    """Collect what the other stages have written, and write the report in its four forms.

    A variant whose build.json has a `failure` is in the report with that reason, and no figures.

    Args:
        model: the float encoder.
        audio: the audio and the calibration set.
        variants: the variants, by name.
        best_file: which variant is the best, and why, written by `choice.write`.
        texts: what was recognised.
        run: the run.
        outputs: the files to write.
    """
    contract = Contract.load(model.contract)
    tables = {
        name: pd.concat([pd.read_parquet(table) for table in entry.evaluations])
        for name, entry in variants.items()
        if not Build.load(entry.build).failure
    }
    counted = {
        name: (
            Histograms.read([Path(variants[name].toolkit) / RANGES]),
            Histograms.read(variants[name].histograms),
        )
        for name in tables
    }
    report = _run(model, contract, audio, texts, run)
    report["restored"] = files.read_json(model.restored) if model.restored else {}
    report["choice"] = files.read_json(best_file)
    report["variants"] = {
        name: _variant(entry, contract, tables.get(name), counted.get(name))
        for name, entry in variants.items()
    }
    networks = {name: variants[name].layers for name in tables}
    networks |= dict(zip(report["parts"], texts.layers, strict=True))
    own_costs = run.settings["evaluation"]["board_costs"]
    report["layers"] = layers.collect(networks, run.settings["platform"], own_costs)
    report["board"] = _on_board(report, texts, run.settings["evaluation"]["board_result"])
    report["drift"] = _drift(tables, contract)
    report["suitability"] = _suitability(audio, report["audio"], tables, contract)
    report["verdict"] = words.verdict(report)
    report["warnings"] = [*run.warnings, *_overlap(audio.overlap), *words.warnings(report)]
    report["summary"] = words.summary(report)
    files.write_json(outputs.json, _finite(report))
    shown = page.Page(report, contract.outputs, counted, texts.texts)
    names = {language: Path(path).name for language, path in outputs.html.items()}
    for language, path in outputs.html.items():
        files.write_text(path, shown.html(language, names))
    files.write_text(outputs.markdown, shown.markdown())
    files.write_text(outputs.summary, "\n".join(report["summary"]) + "\n")


def _run(
    model: ModelFiles, contract: Contract, audio: AudioFiles, texts: TextFiles, run: Run
) -> dict[str, Any]:
    """Return what the report says of the run without its variants."""
    return {
        "model": {
            "encoder": str(model.encoder),
            "sha256": contract.sha256,
            "bytes": Path(model.encoder).stat().st_size,
            "inputs": len(contract.inputs),
            "chunk_frames": contract.chunk_frames,
            "chunk_shift": contract.chunk_shift,
            "features": words.features(contract.features, contract.bins),
            "metadata": contract.metadata,
        },
        "audio": {name: _audio(paths) for name, paths in audio.indexes.items()},
        "calibration": _calibration(audio, run.settings["calibration"]["seed"]),
        "recognition": files.read_json(texts.scores) if texts.scores else None,
        "preparation": files.read_json(model.prepared),
        "parts": {
            Path(part).stem: {"bytes": Path(part).stat().st_size, **files.read_json(figures)}
            for part, figures in zip(texts.parts, texts.verified, strict=True)
        },
        "jobs": costs.collect(run.benchmarks),
        "settings": run.settings,
        "versions": {
            "zipquant": VERSION,
            "python": platform.python_version(),
            "rknn-toolkit2": run.settings["toolkit"],
            **{p: version(p) for p in PACKAGES},
        },
    }


def _on_board(report: dict[str, Any], texts: TextFiles, path: str | None) -> dict[str, Any] | None:
    """Return what a board has shown, and put its times beside the layers of each network."""
    if not path:
        return None
    found = board_result.read(path)
    builds = {n: e["build"] for n, e in report["variants"].items() if not e["failure"]}
    hashes = {name: build["rknn_sha256"] for name, build in builds.items()}
    found.check_encoder(hashes.values())
    hashes |= {Path(part).stem: files.sha256(part) for part in texts.parts}
    for name, sha256 in hashes.items():
        if measured := found.of(sha256):
            report["layers"]["networks"][name]["measured"] = measured
    return found.summary()


def _calibration(audio: AudioFiles, seed: int) -> dict[str, Any]:
    chunks = sampling.read(audio.sample)
    coverage = pd.read_csv(audio.coverage, sep="\t")
    worst = coverage.loc[coverage["coverage"].idxmin()]
    return {
        "chunks": sum(pyarrow.parquet.read_metadata(p).num_rows for p in audio.chunk_tables),
        "rows": len(chunks),
        "first_chunks": sum(chunk.chunk == 0 for chunk in chunks),
        "utterances": len({chunk.utterance for chunk in chunks}),
        "seed": seed,
        "coverage_mean": float(coverage["coverage"].mean()),
        "coverage_worst": float(worst["coverage"]),
        "coverage_worst_tensor": str(worst["tensor"]),
        "coverage": coverage.to_dict("records"),
        "outliers": len(pd.read_csv(audio.outliers, sep="\t")),
    }


def _variant(
    entry: VariantFiles,
    contract: Contract,
    table: pd.DataFrame | None,
    counted: tuple[Histograms, Histograms] | None,
) -> dict[str, Any]:
    build = Build.load(entry.build)
    found = {"build": build.as_dict(), "failure": build.failure}
    if table is None or counted is None:
        return found
    return {
        **found,
        **_accuracy(table, contract),
        "inputs": _inputs(*counted),
        "long_stream": files.read_json(entry.long_stream),
        "time": _time(entry.times),
    }


def _time(paths: Sequence[str | Path]) -> dict[str, Any] | None:
    """Return how long a chunk took in the slowest shard; None where no chunk was run.

    An `overflow` that any shard has found is in it.
    """
    shards = [found for found in map(files.read_json, paths) if found.get("chunks")]
    if not shards:
        return None
    overflows = [found["overflow"] for found in shards if found.get("overflow")]
    return {
        "target": shards[0]["target"],
        "chunks": sum(found["chunks"] for found in shards),
        "median_ms": max(found["median_ms"] for found in shards),
        "p95_ms": max(found["p95_ms"] for found in shards),
        **({"overflow": overflows[0]} if overflows else {}),
        # Whether the emulation gives what the simulator gives, in each shard that was checked.
        "emulation": [found["emulation"] for found in shards if found.get("emulation")],
    }


def _overlap(path: str | Path) -> list[str]:
    table = pd.read_csv(path, sep="\t", dtype=str)
    if not len(table):
        return []
    first = table.iloc[0]
    return [words.overlap(len(table), first["evaluation"], first["calibration"])]


def _audio(paths: Sequence[str | Path]) -> dict[str, Any]:
    entries = [entry for path in paths for entry in index.read(path)]
    used = [entry for entry in entries if not entry.problem]
    return {
        **suitability.describe(used),
        "seconds": round(sum(float(entry.seconds) for entry in used), 1),
        "skipped": [entry.problem for entry in entries if entry.problem],
        "warnings": [f"{entry.path} {entry.warning}" for entry in used if entry.warning],
    }


def _suitability(
    audio: AudioFiles,
    described: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    contract: Contract,
) -> list[dict[str, Any]]:
    calibrated = [pd.read_parquet(path, columns=["chunk"]) for path in audio.chunk_tables]
    last = {"calibration": _last_chunk(calibrated), "evaluation": _last_chunk(tables.values())}
    return suitability.examine(described, last, contract.chunk_shift / FRAMES_PER_SECOND)


def _last_chunk(tables: Iterable[pd.DataFrame]) -> int | None:
    return max((int(table["chunk"].max()) for table in tables if len(table)), default=None)


def _accuracy(table: pd.DataFrame, contract: Contract) -> dict[str, Any]:
    encoder_out = table[table["output"] == contract.encoder_out]
    outputs = _records(table, ["mode", "output"])
    running = table[table["mode"] == measures.FREE_RUNNING]
    free = [row for row in outputs if row["mode"] == measures.FREE_RUNNING]
    # What is NaN is the worst.
    worst = sorted(free, key=lambda row: (row["broken_chunks"] == 0, row["sqnr_db"]))[:WORST]
    broken = running.groupby(["utterance", "chunk"])["broken"].sum()
    return {
        "chunks": len(table[["utterance", "chunk"]].drop_duplicates()),
        "broken_chunks": int((broken > 0).sum()),
        "encoder_out": {row["mode"]: row for row in _records(encoder_out, ["mode"])},
        "outputs": outputs,
        "worst": [{key: row[key] for key in ("output", "sqnr_db")} for row in worst],
        "by_chunk": _records(encoder_out, ["mode", "chunk"]),
        "drift": _halves(encoder_out[encoder_out["mode"] == measures.FREE_RUNNING]),
    }


def _halves(table: pd.DataFrame) -> dict[str, Any] | None:
    """Return the free-running SQNR in the first and in the second half of the chunks' numbers."""
    last = int(table["chunk"].max()) if len(table) else 0
    if not last:
        return None
    middle = (last - 1) // 2
    early = table[table["chunk"] <= middle]
    late = table[table["chunk"] > middle]
    sums = [part[["signal", "noise"]].to_numpy().sum(axis=0) for part in (early, late)]
    levels = [float(sqnr(signal, noise)) for signal, noise in sums]
    return {
        "early": [0, middle],
        "early_db": levels[0],
        "late": [middle + 1, last],
        "late_db": levels[1],
    }


def _drift(tables: Mapping[str, pd.DataFrame], contract: Contract) -> dict[str, Any]:
    """Return the encoder output's free-running SQNR along a stream.

    Returns:
        `chunks`: first and last chunk of each of at most `GROUPS` groups; `utterances`: how many
        reach the first of it; `sqnr_db`: by variant, the SQNR of each group.
    """
    streams = {
        name: table[
            (table["output"] == contract.encoder_out) & (table["mode"] == measures.FREE_RUNNING)
        ]
        for name, table in tables.items()
    }
    length = max((int(s["chunk"].max()) + 1 for s in streams.values() if len(s)), default=0)
    groups = [g for g in np.array_split(np.arange(length), min(length, GROUPS) or 1) if len(g)]
    ends = [[int(group[0]), int(group[-1])] for group in groups]
    whole = next((stream for stream in streams.values() if len(stream)), None)
    levels = {}
    for name, stream in streams.items():
        place = np.searchsorted([first for first, _ in ends], stream["chunk"], side="right")
        found = measures.summarize(stream.assign(group=place - 1), ["group"])
        by_group = dict(zip(found["group"], found["sqnr_db"], strict=True))
        levels[name] = [by_group.get(number) for number in range(len(ends))]
    return {
        "chunks": ends,
        "utterances": [int((whole["chunk"] == first).sum()) for first, _ in ends],
        "sqnr_db": levels,
    }


def _inputs(rows: Histograms, audio: Histograms) -> dict[str, Any]:
    """Return the calibrated range of each input, and how the evaluation audio lies in it."""
    return {
        name: {
            "low": entry.low,
            "high": entry.high,
            "least": entry.least,
            "most": entry.most,
            "outside": entry.outside,
            "rows_outside": rows[name].outside,
            "counts": entry.counts,
            "rows_counts": rows[name].counts,
        }
        for name, entry in audio.items()
    }


def _records(table: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    return measures.summarize(table, by).to_dict("records")


def _finite(value: Any) -> Any:
    """Replace infinite and undefined numbers by null: JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
