# Everything measured on one page.

from snakemake.io import strip_wildcard_constraints
from zipquant.phrases import LANGUAGES


def benchmark_patterns() -> dict[str, str]:
    """By rule, what its benchmark files are called; rules stand in the order of the workflow."""
    found = [(rule.name, rule.benchmark) for rule in workflow.rules]
    return {
        name: strip_wildcard_constraints(str(pattern))
        for name, pattern in found
        if pattern
    }


def wildcard_values() -> dict[str, list[str]]:
    """The values that each wildcard of the rules before this one has in this run."""
    shards = {shard for name in plan.SETS for shard in PLAN.shards_of(name)}
    return {
        "set": list(plan.SETS),
        "shard": [str(shard) for shard in sorted(shards)],
        "variant": list(VARIANTS),
        "model": [FLOAT, *VARIANTS],
        "part": list(converted()),
    }


PAGES = [result("report/index.html"), result("report/index.zh-CN.html")]


def pages() -> dict[str, str]:
    """The report's page in each language; the first is `index.html`, whatever its language."""
    chosen = config["report"]["language"]
    languages = LANGUAGES if chosen == "both" else (chosen,)
    return dict(zip(languages, PAGES))


rule report:
    input:
        model=config["model"]["encoder"],
        contract=rules.inspect.output.contract,
        calibration_index=all_shards("calibration", "index/{set}/{shard}.tsv"),
        evaluation_index=all_shards("evaluation", "index/{set}/{shard}.tsv"),
        sample=rules.sample.output.sample,
        coverage=rules.sample.output.coverage,
        outliers=rules.sample.output.outliers,
        chunk_tables=rules.sample.input.tables,
        builds=expand(rules.quantize.output.build, variant=VARIANTS),
        layers=expand(rules.quantize.output.layers, variant=VARIANTS),
        toolkits=expand(rules.quantize.output.toolkit, variant=VARIANTS),
        evaluations=evaluations(),
        histograms=expand(
            rules.evaluate.output.histograms,
            variant=VARIANTS,
            shard=PLAN.shards_of("evaluation"),
        ),
        long_streams=long_streams(),
        times=expand(
            rules.evaluate.output.time,
            variant=VARIANTS,
            shard=PLAN.shards_of("evaluation"),
        ),
        prepared=rules.prove.output.record,
        restored=rules.prove_restored.output.record if PLAN.originals else [],
        parts=list(converted().values()),
        part_layers=expand(rules.convert.output.layers, part=converted()),
        verified=verified(),
        best=rules.choose.output.best,
        overlap=rules.overlap.output.table,
        scores=rules.score.output.scores if PLAN.recognizer else [],
        texts=rules.score.output.texts if PLAN.recognizer else [],
        board_result=config["evaluation"]["board_result"] or [],
        templates=templates("report/*", "report/sections/*"),
        lib=lib("report"),
    output:
        html=report(
            list(pages().values())[0],
            caption="captions/report.rst",
            category="Accuracy",
            labels={"what": "the whole report"},
        ),
        others=list(pages().values())[1:],
        markdown=result("report/report.md"),
        json=result("report/report.json"),
        summary=result("report/summary.txt"),
    log:
        log_of("report"),
    benchmark:
        benchmark_of("report")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        variants=list(VARIANTS),
        pages=pages(),
        # With one language there is one page; that of another run would not be of this one.
        also=PAGES[len(pages()) :],
        warnings=PLAN.warnings,
        settings=SETTINGS,
        benchmarks=benchmark_patterns(),
        wildcard_values=wildcard_values(),
    message:
        "Writing the report to {output.html}"
    script:
        "../scripts/report.py"
