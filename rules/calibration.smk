# One global sample of all chunks, drawn from the tables alone.
rule sample:
    input:
        tables=all_shards("calibration", "traces/{shard}.parquet"),
        lib=lib("sample"),
    output:
        sample=result("calibration/sample.tsv"),
    log:
        log_of("sample"),
    benchmark:
        benchmark_of("sample")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        rows=config["calibration"]["rows"],
        seed=config["calibration"]["seed"],
    message:
        "Sampling {params.rows} chunks with seed {params.seed}"
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
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        # Not used, but if the sampling fails after a change of these, and its output is gone, the
        # old calibration set must not pass for the new one.
        rows=config["calibration"]["rows"],
        seed=config["calibration"]["seed"],
    message:
        "Writing the calibration set to {output.dataset}"
    script:
        "../scripts/calibration.py"
