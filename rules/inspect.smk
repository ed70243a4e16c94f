# The model contract: read from the ONNX file, compared by content by everything downstream.
rule inspect:
    input:
        model=config["model"]["encoder"],
        lib=lib("inspect_model"),
    output:
        contract=result("model.json"),
    log:
        log_of("inspect"),
    benchmark:
        benchmark_of("inspect")
    priority: 10
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        state_outputs=config["model"]["state_outputs"],
    message:
        "Reading the model contract of {input.model}"
    script:
        "../scripts/inspect_model.py"
