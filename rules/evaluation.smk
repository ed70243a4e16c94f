# How far each variant is from the float model.


def evaluations() -> list[str]:
    """The evaluation tables, all shards of the first variant, then of the next."""
    return [
        result(f"evaluation/{variant}/{shard}.parquet")
        for variant in VARIANTS
        for shard in PLAN.shards_of("evaluation")
    ]


# A variant in the toolkit's simulator, or on a board, against the float model, on a shard of evaluation audio.
rule evaluate:
    input:
        model=config["model"]["encoder"],
        prepared=rules.prepare.output.model,
        contract=rules.inspect.output.contract,
        features=result("features/evaluation/{shard}.h5"),
        build=rules.quantize.output.build,
        toolkit=rules.quantize.output.toolkit,
        lib=lib("evaluate"),
    output:
        table=result("evaluation/{variant}/{shard}.parquet"),
        encoded=result("encoded/{variant}/{shard}.h5"),
        time=result("evaluation/{variant}/{shard}.time.json"),
        # The float model's inputs over the ranges that the variant was calibrated to.
        histograms=result("evaluation/{variant}/{shard}.histograms.json"),
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
        # profiles/default lets one job at a time have the board.
        board=1 if config["evaluation"]["target"] else 0,
    params:
        work=lambda w, input: os.path.dirname(input.build),
        one_step_chunks=config["evaluation"]["one_step_chunks"],
        target=config["evaluation"]["target"],
        device_id=config["evaluation"]["device_id"],
    message:
        "Evaluating variant {wildcards.variant} on shard {wildcards.shard}"
    script:
        "../scripts/evaluate.py"


# One stream longer than any that was calibrated with: which states go wrong with time.
rule long_stream:
    input:
        model=config["model"]["encoder"],
        prepared=rules.prepare.output.model,
        contract=rules.inspect.output.contract,
        features=all_shards("evaluation", "features/{set}/{shard}.h5"),
        build=rules.quantize.output.build,
        toolkit=rules.quantize.output.toolkit,
        lib=lib("long_stream"),
    output:
        stream=result("long_stream/{variant}.json"),
    log:
        log_of("long_stream/{variant}"),
    benchmark:
        benchmark_of("long_stream/{variant}")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        work=lambda w, input: os.path.dirname(input.build),
        seconds=config["evaluation"]["long_stream"],
    message:
        "Running variant {wildcards.variant} over a stream of {params.seconds} s"
    script:
        "../scripts/long_stream.py"
