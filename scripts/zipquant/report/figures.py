"""The report: everything measured, as JSON, as Markdown and as one HTML page."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from zipquant.audio import index
from zipquant.calibration import sampling
from zipquant.evaluation import measures
from zipquant.jobs import files
from zipquant.model.contract import Contract
from zipquant.model.noise import sqnr
from zipquant.report import costs, page
from zipquant.variants.histograms import RANGES, Histograms

PACKAGES = ("rknn-toolkit2", "onnxruntime", "kaldi-native-fbank", "numpy", "snakemake")

GROUPS = 60
"""Points of the drift along a stream; with more chunks, neighbours share one."""

CLIPPED = 1e-3
"""Share of an input's values outside of the calibrated range that is warned of."""

WORST = 3
"""Outputs that are named as the worst."""


def write(
    model: str | Path,
    contract_file: str | Path,
    indexes: Mapping[str, Sequence[str | Path]],
    sample: str | Path,
    coverage: str | Path,
    outliers: str | Path,
    chunk_tables: Sequence[str | Path],
    builds: Sequence[str | Path],
    toolkits: Sequence[str | Path],
    evaluations: Sequence[str | Path],
    long_streams: Sequence[str | Path],
    times: Sequence[str | Path],
    prepared_file: str | Path,
    parts: Sequence[str | Path],
    verified: Sequence[str | Path],
    best_file: str | Path,
    histograms: Sequence[str | Path],
    overlap: str | Path,
    scores: str | Path | None,
    texts: str | Path | None,
    variants: Sequence[str],
    warnings: Sequence[str],
    settings: Mapping[str, Any],
    benchmarks: str | Path,
    jobs: Sequence[str],
    flow: Mapping[str, Sequence[str]],
    json_file: str | Path,
    markdown_file: str | Path,
    html_file: str | Path,
    summary_file: str | Path,
) -> None:
    """Collect what the other stages have written, and write the report in its four forms.

    A variant whose build.json has a `failure` is in the report with that reason, and no figures.

    Args:
        model: the float encoder's ONNX file.
        contract_file: its contract.
        indexes: the index files of all shards, by audio set.
        sample: the TSV of sampled chunks.
        coverage: the TSV of the ranges that the sample covers.
        outliers: the TSV of chunks that were left out as broken audio.
        chunk_tables: the Parquet chunk tables of all shards.
        builds: build.json of each variant.
        toolkits: the toolkit's folder of each variant, with its `histograms.RANGES`.
        evaluations: the evaluation tables, all shards of the first variant, then of the second.
        long_streams: of each variant what `long_stream.run` has written.
        times: how long chunks took in the evaluation, in the order of `evaluations`.
        prepared_file: what `preparation.prove` has written of its rewrites.
        parts: the .rknn files of decoder and joiner; none where no text is made, or for CTC.
        verified: how exact each of them is, written by `rknn_decoding.verify`.
        best_file: which variant is the best, and why, written by `choice.write`.
        histograms: the histograms of the inputs in the evaluation, in the same order.
        overlap: the TSV of evaluation audio that is also calibrated with.
        scores: the error rates, written by `scoring.write`; None where no text is made.
        texts: the texts of all models, written by `scoring.write`; None where no text is made.
        variants: the variants' names, in the order of `builds`.
        warnings: what was found wrong before the run, but did not stop it.
        settings: the whole configuration.
        benchmarks: the folder of Snakemake's benchmark files.
        jobs: see `costs.collect`.
        flow: see `costs.collect`.
        json_file: the report for programs.
        markdown_file: the report for a README or an issue.
        html_file: the report for a browser, one self-contained page.
        summary_file: its figures in one line for each variant.
    """
    contract = Contract.load(contract_file)
    chunks = sampling.read(sample)
    shards = len(evaluations) // len(variants)
    counted: dict[str, tuple[Histograms, Histograms]] = {}
    tables: dict[str, pd.DataFrame] = {}
    report: dict[str, Any] = {
        "verdict": None,
        "warnings": [],
        "model": {
            "encoder": str(model),
            "sha256": contract.sha256,
            "bytes": Path(model).stat().st_size,
            "inputs": len(contract.inputs),
            "chunk_frames": contract.chunk_frames,
            "chunk_shift": contract.chunk_shift,
            "metadata": contract.metadata,
        },
        "audio": {name: _audio(paths) for name, paths in indexes.items()},
        "calibration": {
            "chunks": sum(pyarrow.parquet.read_metadata(p).num_rows for p in chunk_tables),
            "rows": len(chunks),
            "first_chunks": sum(chunk.chunk == 0 for chunk in chunks),
            "utterances": len({chunk.utterance for chunk in chunks}),
            "seed": settings["calibration"]["seed"],
            **_coverage(coverage),
            "outliers": len(pd.read_csv(outliers, sep="\t")),
        },
        "recognition": files.read_json(scores) if scores else None,
        "choice": files.read_json(best_file),
        "preparation": files.read_json(prepared_file),
        "parts": {
            Path(part).stem: {"bytes": Path(part).stat().st_size, **files.read_json(figures)}
            for part, figures in zip(parts, verified, strict=True)
        },
        "variants": {},
        "jobs": costs.collect(benchmarks, jobs, flow),
        "settings": settings,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }
    for position, (name, path) in enumerate(zip(variants, builds, strict=True)):
        build = files.read_json(path)
        report["variants"][name] = {"build": build, "failure": build.get("failure")}
        if build.get("failure"):
            continue
        mine = slice(position * shards, (position + 1) * shards)
        tables[name] = pd.concat([pd.read_parquet(table) for table in evaluations[mine]])
        counted[name] = (
            Histograms.read([Path(toolkits[position]) / RANGES]),
            Histograms.read(histograms[mine]),
        )
        report["variants"][name] |= _accuracy(tables[name], contract) | {
            "inputs": _inputs(*counted[name]),
            "long_stream": files.read_json(long_streams[position]),
            "time": _time(times[mine]),
        }
    report["drift"] = _drift(tables, contract)
    report["verdict"] = page.verdict(report, report["choice"]["best"])
    report["warnings"] = [*warnings, *_overlap(overlap), *_warnings(report), *_drifts(report)]
    report["warnings"] += _searches(report)
    report["summary"] = page.summary(report)
    files.write_json(json_file, _finite(report))
    html, markdown = page.render(report, contract.outputs, counted, texts)
    files.write_text(html_file, html)
    files.write_text(markdown_file, markdown)
    files.write_text(summary_file, "\n".join(report["summary"]) + "\n")


def _drifts(report: Mapping[str, Any]) -> list[str]:
    """Return what goes wrong with time in each variant, and how long its streams may be."""
    found = []
    for name, variant in report["variants"].items():
        if variant["failure"]:
            continue
        stream = variant["long_stream"]
        if stream["wrong"]:
            losses = ", ".join(
                f"{output} from {stream['outputs'][output]['first_db']:.1f} to "
                f"{stream['outputs'][output]['last_db']:.1f} dB"
                for output in stream["wrong"]
            )
            found.append(
                f"{name} goes wrong with time, over a stream of {stream['seconds']:.0f} s: {losses}"
            )
        inexact = [counter for counter, exact in stream["counters"].items() if not exact]
        if inexact:
            found.append(f"{name} counts wrong: {', '.join(inexact)}")
        if sums := variant["build"].get("cumulative_sums"):
            found.append(f"{name} has CumSum left, which RK3588 boards compute wrong: {sums}")
    return found


def _searches(report: Mapping[str, Any]) -> list[str]:
    """Return which searches for float16 layers have not reached what they were asked for."""
    found = []
    for name, variant in report["variants"].items():
        search = variant["build"].get("mixed_precision")
        if not search or variant["failure"]:
            continue
        if reason := search.get("unavailable"):
            found.append(f"{name}: the layers that need float16 were not searched: {reason}")
        elif not search["met"]:
            found.append(
                f"{name} misses its target ({page.target(search)}): no choice that leaves "
                f"{100 * search['least_int8_macs']:g} % of the MACs in int8 is enough, and the "
                "best of them was taken. Lower mixed_precision.least_int8_macs or the target, or "
                "calibrate with other rows"
            )
    return found


def _time(paths: Sequence[str | Path]) -> dict[str, Any] | None:
    """Return how long a chunk took in the slowest shard; None where no chunk was run."""
    shards = [found for found in map(files.read_json, paths) if found.get("chunks")]
    if not shards:
        return None
    return {
        "target": shards[0]["target"],
        "chunks": sum(found["chunks"] for found in shards),
        "median_ms": max(found["median_ms"] for found in shards),
        "p95_ms": max(found["p95_ms"] for found in shards),
    }


def _overlap(path: str | Path) -> list[str]:
    table = pd.read_csv(path, sep="\t", dtype=str)
    if not len(table):
        return []
    first = table.iloc[0]
    return [
        f"{len(table)} evaluation utterance(s) have the content of calibration audio, so the "
        f"figures look better than they are; the first is {first['evaluation']} "
        f"(the same as {first['calibration']})"
    ]


def _warnings(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know before relying on the figures."""
    found = []
    if scores := report["recognition"]:
        count = scores["utterances"]
        if count < page.FEW:
            found.append(
                f"{count} utterances decide little: one word more or less moves the error rates "
                "far, and rare errors do not show at all. Evaluate with hundreds before you rely "
                "on them"
            )
    for name, variant in report["variants"].items():
        if variant["failure"]:
            found.append(f"variant {name} could not be built: {variant['failure']}")
            continue
        found += [f"a stock sherpa-onnx refuses {name}: {r}" for r in variant["build"]["refusals"]]
        clipped = {n: entry["outside"] for n, entry in variant["inputs"].items()}
        clipped = {n: share for n, share in clipped.items() if share > CLIPPED}
        if clipped:
            worst = max(clipped, key=clipped.__getitem__)
            found.append(
                f"{name}: {len(clipped)} inputs have more than {100 * CLIPPED:g} % of the "
                f"evaluation audio's values outside of the calibrated range, {worst} the most "
                f"({100 * clipped[worst]:.1f} %); calibrate with more audio like it, or more rows"
            )
    for name, audio in report["audio"].items():
        if audio["skipped"]:
            found.append(
                f"{len(audio['skipped'])} {name} file(s) were left out; the first: "
                f"{audio['skipped'][0]}"
            )
        if audio["warnings"]:
            found.append(
                f"{len(audio['warnings'])} {name} file(s) are used, but look odd; the first: "
                f"{audio['warnings'][0]}"
            )
    if outliers := report["calibration"]["outliers"]:
        found.append(
            f"{outliers} chunks of calibration audio look broken and were left out; see "
            "calibration/outliers.tsv"
        )
    return found


def _coverage(path: str | Path) -> dict[str, Any]:
    table = pd.read_csv(path, sep="\t")
    worst = table.loc[table["coverage"].idxmin()]
    return {
        "coverage_mean": float(table["coverage"].mean()),
        "coverage_worst": float(worst["coverage"]),
        "coverage_worst_tensor": str(worst["tensor"]),
        "coverage": table.to_dict("records"),
    }


def _audio(paths: Sequence[str | Path]) -> dict[str, Any]:
    entries = [entry for path in paths for entry in index.read(path)]
    used = [entry for entry in entries if not entry.problem]
    return {
        "used": len(used),
        "seconds": round(sum(float(entry.seconds) for entry in used), 1),
        "skipped": [entry.problem for entry in entries if entry.problem],
        "warnings": [f"{entry.path} {entry.warning}" for entry in used if entry.warning],
    }


def _accuracy(table: pd.DataFrame, contract: Contract) -> dict[str, Any]:
    encoder_out = table[table["output"] == contract.encoder_out]
    outputs = _records(table, ["mode", "output"])
    free = [row for row in outputs if row["mode"] == measures.FREE_RUNNING]
    worst = sorted(free, key=lambda row: row["sqnr_db"])[:WORST]
    return {
        "chunks": len(table[["utterance", "chunk"]].drop_duplicates()),
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
    levels = [float(sqnr(t["signal"].sum(), t["noise"].sum())) for t in (early, late)]
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
