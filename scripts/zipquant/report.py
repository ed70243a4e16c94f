"""The report: everything measured, as JSON, as Markdown and as one HTML page."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow.parquet

from zipquant import evaluation, files, index, sampling, scoring
from zipquant.contract import Contract

METRICS = {"word": "WER", "character": "CER"}

LABELS = {"rknn": "all three in RKNN"}
"""What the reserved names of models stand for."""

FEW = 100
"""Below so many utterances the page says that they decide little."""

MOST = 1000
"""Utterances that the page lists."""

PACKAGES = ("rknn-toolkit2", "onnxruntime", "kaldi-native-fbank", "numpy", "snakemake")


def write(
    model: str | Path,
    contract_file: str | Path,
    indexes: Mapping[str, Sequence[str | Path]],
    sample: str | Path,
    coverage: str | Path,
    outliers: str | Path,
    chunk_tables: Sequence[str | Path],
    builds: Sequence[str | Path],
    evaluations: Sequence[str | Path],
    long_streams: Sequence[str | Path],
    best_file: str | Path,
    overlap: str | Path,
    scores: str | Path | None,
    texts: str | Path | None,
    variants: Sequence[str],
    warnings: Sequence[str],
    settings: Mapping[str, Any],
    json_file: str | Path,
    markdown_file: str | Path,
    html_file: str | Path,
    summary_file: str | Path,
) -> None:
    """Collect what the other stages have written, and write the report in its four forms.

    Args:
        model: the float encoder's ONNX file.
        contract_file: its contract.
        indexes: the index files of all shards, by audio set.
        sample: the TSV of sampled chunks.
        coverage: the TSV of the ranges that the sample covers.
        outliers: the TSV of chunks that were left out as broken audio.
        chunk_tables: the Parquet chunk tables of all shards.
        builds: build.json of each variant.
        evaluations: the evaluation tables, all shards of the first variant, then of the second.
        long_streams: of each variant what `long_stream.run` has written.
        best_file: which variant is the best, and why, written by `choice.write`.
        overlap: the TSV of evaluation audio that is also calibrated with.
        scores: the error rates, written by `scoring.write`; None where no text is made.
        texts: the texts of all models, written by `scoring.write`; None where no text is made.
        variants: the variants' names, in the order of `builds`.
        warnings: what was found wrong before the run, but did not stop it.
        settings: the whole configuration.
        json_file: the report for programs.
        markdown_file: the report for a README or an issue.
        html_file: the report for a browser, one self-contained page.
        summary_file: its figures in one line for each variant.
    """
    contract = Contract.load(contract_file)
    chunks = sampling.read(sample)
    shards = len(evaluations) // len(variants)
    report: dict[str, Any] = {
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
        "warnings": [*warnings, *_overlap(overlap)],
        "recognition": files.read_json(scores) if scores else None,
        "choice": files.read_json(best_file),
        "variants": {},
        "settings": settings,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }
    for position, (name, build) in enumerate(zip(variants, builds, strict=True)):
        tables = evaluations[position * shards : (position + 1) * shards]
        report["variants"][name] = {
            "build": files.read_json(build),
            "long_stream": files.read_json(long_streams[position]),
            **_accuracy(pd.concat([pd.read_parquet(t) for t in tables]), contract),
        }
    report["warnings"] += _drifts(report["variants"])
    report["summary"] = [_summary(name, variant) for name, variant in report["variants"].items()]
    report["summary"].append(f"best: {report['choice']['best']}: {report['choice']['why'][0]}")
    if report["recognition"]:
        report["summary"].append(_recognition_summary(report["recognition"]))
    files.write_json(json_file, _finite(report))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["db"] = lambda value: "exact" if math.isinf(value) else f"{value:.1f} dB"
    environment.filters["mb"] = lambda value: f"{value / 1e6:.1f} MB"
    environment.filters["rate"] = lambda figures: f"{figures['rate']:.2f} %"
    environment.filters["points"] = lambda figures: f"{figures['points']:+.2f}"
    environment.filters["range"] = _range

    tables = {
        "utterances": _utterances(texts) if texts else [],
        "labels": LABELS,
        "metric": METRICS[report["recognition"]["unit"]] if scores else "",
        "few": FEW,
        "most": MOST,
        "built": [n for n, v in report["variants"].items() if "failure" not in v["build"]],
        "output_names": contract.outputs,
        "figures": _columns(report, "outputs", "output"),
        "drift": _columns(report, "by_chunk", "chunk", [evaluation.FREE_RUNNING]),
    }
    for template, path in (("report.md.j2", markdown_file), ("report.html.j2", html_file)):
        files.write_text(path, environment.get_template(template).render(report | tables))
    files.write_text(summary_file, "\n".join(report["summary"]) + "\n")


def _drifts(variants: Mapping[str, Any]) -> list[str]:
    """Return what goes wrong with time in each variant, and how long its streams may be."""
    found = []
    for name, variant in variants.items():
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


def _utterances(texts: str | Path) -> list[dict[str, Any]]:
    """Return what each model made of each utterance, those that differ from float first.

    Each entry has the `name`, the `reference` (the transcript, or the float model's text where
    there is none), whether it is `transcribed`, and by model the pieces of `scoring.marked`.
    """
    table = pd.read_csv(texts, sep="\t", dtype=str, keep_default_na=False)
    models = list(table.columns[2:])
    table["same"] = (table[models].nunique(axis=1) == 1).astype(int)
    entries = []
    for row in table.sort_values(["same", "utterance"]).head(MOST).to_dict("records"):
        reference = row["transcript"] or row[scoring.FLOAT]
        entries.append(
            {
                "name": row["utterance"],
                "reference": reference,
                "transcribed": bool(row["transcript"]),
                "models": {model: scoring.marked(reference, row[model]) for model in models},
            }
        )
    return entries


def _recognition_summary(scores: Mapping[str, Any]) -> str:
    """Return the error rates of all models in one line."""
    unit, metric = scores["unit"], METRICS[scores["unit"]]
    rates, count = [], f"{scores['utterances']} utterances"
    for model, figures in scores["models"].items():
        found = figures["transcript"] or figures.get("float")
        if found:
            rates.append(f"{LABELS.get(model, model)} {found[unit]['rate']:.1f} %")
            units = found[unit]["units"]
    same = ", ".join(
        f"{LABELS.get(model, model)} {figures['same']['same']} of {figures['same']['utterances']}"
        for model, figures in scores["models"].items()
        if "same" in figures
    )
    if scores["transcribed"]:
        count = f"{scores['transcribed']} utterances"
        head = f"{metric} on {count} ({units} {unit}s)"
    else:
        head = f"{metric} against the float model's own text on {count} ({units} {unit}s)"
    return f"{head}: {', '.join(rates)}; same text as float: {same}"


def _range(ends: Sequence[float] | None) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "none seen"


def _coverage(path: str | Path) -> dict[str, Any]:
    table = pd.read_csv(path, sep="\t")
    worst = table.loc[table["coverage"].idxmin()]
    return {
        "coverage_mean": float(table["coverage"].mean()),
        "coverage_worst": float(worst["coverage"]),
        "coverage_worst_tensor": str(worst["tensor"]),
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
    return {
        "chunks": len(table[["utterance", "chunk"]].drop_duplicates()),
        "encoder_out": {row["mode"]: row for row in _records(encoder_out, ["mode"])},
        "outputs": _records(table, ["mode", "output"]),
        "by_chunk": _records(encoder_out, ["mode", "chunk"]),
    }


def _records(table: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    return evaluation.summarize(table, by).to_dict("records")


def _columns(
    report: Mapping[str, Any],
    part: str,
    key: str,
    modes: Sequence[str] = (evaluation.ONE_STEP, evaluation.FREE_RUNNING),
) -> dict[Any, list[float]]:
    """Return the SQNR of each variant and mode side by side, by output or by chunk."""
    columns: dict[Any, list[float]] = {}
    for variant in report["variants"].values():
        for mode in modes:
            for row in variant[part]:
                if row["mode"] == mode:
                    columns.setdefault(row[key], []).append(row["sqnr_db"])
    return columns


def _summary(name: str, variant: Mapping[str, Any]) -> str:
    if "failure" in variant["build"]:
        return f"{name}: could not be built: {variant['build']['failure']}"
    size = f"{variant['build']['bytes'] / 1e6:.1f} MB"
    if not variant["chunks"]:
        return f"{name}: {size}, not evaluated: the evaluation audio gives no chunk"
    parts = []
    for mode in (evaluation.ONE_STEP, evaluation.FREE_RUNNING):
        figures = variant["encoder_out"][mode]
        parts.append(f"{figures['sqnr_db']:.1f} dB (cosine {figures['cosine']:.5f}) {mode}")
    verdict = "refuses it" if variant["build"]["refusals"] else "loads it"
    return (
        f"{name}: encoder output {', '.join(parts)}, {variant['chunks']} chunks; {size}; "
        f"a stock sherpa-onnx {verdict}"
    )


def _finite(value: Any) -> Any:
    """Replace infinite and undefined numbers by null: JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
