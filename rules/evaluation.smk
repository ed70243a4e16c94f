# How far each variant is from the float model.


def evaluations() -> list[str]:
    """The evaluation tables, all shards of the first variant, then of the next."""
    return [
        result(f"evaluation/{variant}/{shard}.parquet")
        for variant in VARIANTS
        for shard in PLAN.shards_of("evaluation")
    ]


def stream_seconds(shard: str) -> float:
    """How long the stream of a shard is."""
    first = PLAN.shards_of("evaluation")[:1]
    return config["evaluation"]["long_stream"] if [int(shard)] == first else 0


def long_streams() -> list[str]:
    """The file of each variant's long stream."""
    first = PLAN.shards_of("evaluation")[0]
    return [result(f"evaluation/{variant}/{first}.stream.json") for variant in VARIANTS]


# A variant in the toolkit's simulator, its emulation or a board, against the float model, on a shard of evaluation audio.
rule evaluate:
    input:
        model=config["model"]["encoder"],
        prepared=rules.prepare.output.model,
        native=[rules.prepare.output.native, rules.prepare.output.verdict],
        contract=rules.inspect.output.contract,
        features=result("features/evaluation/{shard}.h5"),
        build=rules.quantize.output.build,
        toolkit=rules.quantize.output.toolkit,
        lib=lib("evaluate"),
    output:
        table=result("evaluation/{variant}/{shard}.parquet"),
        encoded=result("encoded/{variant}/{shard}.h5"),
        time=result("evaluation/{variant}/{shard}.time.json"),
        # One stream longer than any that was calibrated with: which states go wrong with time.
        # The first shard alone has it; that of the others is empty.
        stream=result("evaluation/{variant}/{shard}.stream.json"),
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
        long_stream=lambda w: stream_seconds(w.shard),
        engine=config["evaluation"]["engine"],
        lanes=(
            config["traces"]["lanes"]
            if config["evaluation"]["engine"] == "emulation"
            else 1
        ),
        target=config["evaluation"]["target"],
        device_id=config["evaluation"]["device_id"],
    message:
        "Evaluating variant {wildcards.variant} on shard {wildcards.shard}"
    script:
        "../scripts/evaluate.py"
