# Everything measured on one page.

# The rules that end in it, in the order in which data flow, and what each takes files from. The
# report draws it.
FLOW = {
    "index": [],
    "inspect": [],
    "overlap": ["index"],
    "features": ["index"],
    "traces": ["features", "inspect"],
    "sample": ["traces"],
    "calibration": ["sample"],
    "prepare": ["inspect"],
    "prove": ["calibration", "prepare"],
    "quantize": ["calibration", "prepare"],
    "evaluate": ["quantize", "features"],
    "encode": ["features", "inspect"],
    "encode_calibration": ["features", "inspect"],
    "convert": ["encode_calibration"],
    # The simulator of an int8 joiner is set up from the files of its conversion.
    "verify": ["encode", *(["convert"] if INT8_JOINER else [])],
    "decode": ["evaluate", "encode"],
    "choose": ["decode", "evaluate", "prove"],
    "decode_rknn": ["choose", *(["convert"] if INT8_JOINER else [])],
    "score": ["decode_rknn", "decode", "choose"],
}


def report_jobs() -> list[str]:
    """The jobs of the rules that end in the report, as their benchmark files are called."""
    shards = {name: PLAN.shards_of(name) for name in plan.SETS}
    evaluated = [
        f"{name}/{shard}" for name in VARIANTS for shard in shards["evaluation"]
    ]
    jobs = ["inspect", "overlap", "sample", "calibration", "prepare", "prove", "choose"]
    jobs += ["score", "verify", *(f"convert/{part}" for part in converted())]
    if INT8_JOINER:
        jobs += [f"encode_calibration/{shard}" for shard in PLAN.joiner_shards()]
    for stage in ("index", "features"):
        jobs += [
            f"{stage}/{name}/{shard}" for name in plan.SETS for shard in shards[name]
        ]
    jobs += [f"traces/{shard}" for shard in shards["calibration"]]
    jobs += [f"{stage}/{variant}" for stage in ("quantize",) for variant in VARIANTS]
    jobs += [f"evaluate/{job}" for job in evaluated]
    jobs += [
        f"{stage}/{s}"
        for stage in ("encode", "decode_rknn")
        for s in shards["evaluation"]
    ]
    jobs += [f"decode/{FLOAT}/{shard}" for shard in shards["evaluation"]]
    return [*jobs, *(f"decode/{job}" for job in evaluated)]


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
        parts=list(converted().values()),
        verified=verified(),
        best=rules.choose.output.best,
        overlap=rules.overlap.output.table,
        scores=rules.score.output.scores if PLAN.recognizer else [],
        texts=rules.score.output.texts if PLAN.recognizer else [],
        templates=templates("report/*", "report/sections/*"),
        lib=lib("report"),
    output:
        html=report(
            result("report/index.html"),
            caption="captions/report.rst",
            category="Accuracy",
            labels={"what": "the whole report"},
        ),
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
        warnings=PLAN.warnings,
        settings=config,
        benchmarks=result("benchmarks"),
        jobs=report_jobs(),
        flow=FLOW,
    message:
        "Writing the report to {output.html}"
    script:
        "../scripts/report.py"
