# Every chunk of a shard with the float model's real states, and a table of them.
rule traces:
    input:
        model=config["model"]["encoder"],
        contract=rules.inspect.output.contract,
        features=result("features/calibration/{shard}.h5"),
        lib=lib("traces"),
    output:
        trace=result("traces/{shard}.h5"),
        table=result("traces/{shard}.parquet"),
    log:
        log_of("traces/{shard}"),
    benchmark:
        benchmark_of("traces/{shard}")
    priority: 8
    conda:
        "../envs/zipquant.yaml"
    threads: config["traces"]["threads"]
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
        # No param: another number of lanes gives the same files, and must not make them again.
        lanes=config["traces"]["lanes"],
    params:
        # What is asked for, not what --cores leaves of it: the result may depend on it.
        threads=config["traces"]["threads"],
    message:
        "Tracing shard {wildcards.shard}, {resources.lanes} utterances at a time"
    script:
        "../scripts/traces.py"
