# The encoder as the toolkit gets it: rewritten, and proved equal on the calibration set.
rule prepare:
    input:
        model=ancient(config["model"]["encoder"]),
        contract=rules.inspect.output.contract,
        dataset=rules.calibration.output.dataset,
        arrays=rules.calibration.output.arrays,
        lib=lib("prepare"),
    output:
        model=result("prepared/encoder.onnx"),
        record=result("prepared/prepared.json"),
    log:
        log_of("prepare"),
    benchmark:
        benchmark_of("prepare")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        rewrites=config["preparation"],
    message:
        "Preparing the encoder for the toolkit"
    script:
        "../scripts/prepare.py"
