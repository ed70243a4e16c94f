# A variant in the toolkit's simulator against the float model, on a shard of evaluation audio.
rule evaluate:
    input:
        model=ancient(config["model"]["encoder"]),
        contract=rules.inspect.output.contract,
        features=result("features/evaluation/{shard}.h5"),
        rknn=rules.quantize.output.rknn,
        build=rules.quantize.output.build,
        toolkit=rules.quantize.output.toolkit,
        overlap=ancient(rules.overlap.output.table),
        lib=lib("evaluate"),
    output:
        table=result("evaluation/{variant}/{shard}.parquet"),
        encoded=result("encoded/{variant}/{shard}.h5"),
    log:
        log_of("evaluate/{variant}/{shard}"),
    benchmark:
        benchmark_of("evaluate/{variant}/{shard}")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        work=lambda w, input: os.path.dirname(input.build),
        one_step_chunks=config["evaluation"]["one_step_chunks"],
    message:
        "Evaluating variant {wildcards.variant} on shard {wildcards.shard}"
    script:
        "../scripts/evaluate.py"
