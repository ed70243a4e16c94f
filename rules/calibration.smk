# One global sample of all chunks, drawn from the tables alone.
rule sample:
    input:
        tables=all_shards("calibration", "traces/{shard}.parquet"),
        contract=rules.inspect.output.contract,
        lib=lib("sample"),
    output:
        sample=result("calibration/sample.tsv"),
        # Which part of each tensor's range the sample covers, and what was left out as broken.
        coverage=report(
            result("calibration/coverage.tsv"),
            caption="captions/coverage.rst",
            category="Calibration set",
            labels={"what": "coverage of each tensor"},
        ),
        outliers=result("calibration/outliers.tsv"),
    log:
        log_of("sample"),
    benchmark:
        benchmark_of("sample")
    priority: 8
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        strategy=PLAN.recipe.strategy,
        guard=PLAN.recipe.front_end == "kaldi",
        rows=config["calibration"]["rows"],
        seed=config["calibration"]["seed"],
    message:
        "Sampling {params.rows} chunks, strategy {params.strategy}, seed {params.seed}"
    script:
        "../scripts/sample.py"


# The sampled chunks as the toolkit reads them.
rule calibration:
    input:
        sample=rules.sample.output.sample,
        traces=all_shards("calibration", "traces/{shard}.h5"),
        contract=rules.inspect.output.contract,
        lib=lib("calibration"),
    output:
        dataset=result("calibration/dataset.txt"),
        arrays=directory(result("calibration/arrays")),
    log:
        log_of("calibration"),
    benchmark:
        benchmark_of("calibration")
    priority: 8
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        states=PLAN.recipe.states,
        # Not used, but if the sampling fails after a change of these, and its output is gone, the
        # old calibration set must not pass for the new one.
        strategy=PLAN.recipe.strategy,
        rows=config["calibration"]["rows"],
        seed=config["calibration"]["seed"],
    message:
        "Writing the calibration set to {output.dataset}, {params.states} states"
    script:
        "../scripts/calibration.py"
