# Everything measured on one page.
rule report:
    input:
        model=ancient(config["model"]["encoder"]),
        contract=rules.inspect.output.contract,
        calibration_index=all_shards("calibration", "index/{set}/{shard}.tsv"),
        evaluation_index=all_shards("evaluation", "index/{set}/{shard}.tsv"),
        sample=rules.sample.output.sample,
        coverage=rules.sample.output.coverage,
        outliers=rules.sample.output.outliers,
        chunk_tables=rules.sample.input.tables,
        builds=expand(rules.quantize.output.build, variant=VARIANTS),
        evaluations=expand(
            rules.evaluate.output.table,
            variant=VARIANTS,
            shard=shards_of("evaluation"),
        ),
        overlap=rules.overlap.output.table,
        scores=rules.score.output.scores if RECOGNIZER else [],
        texts=rules.score.output.texts if RECOGNIZER else [],
        templates=templates("report.html", "report.md"),
        lib=lib("report"),
    output:
        html=result("report/index.html"),
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
        warnings=WARNINGS,
        settings=config,
    message:
        "Writing the report to {output.html}"
    script:
        "../scripts/report.py"
