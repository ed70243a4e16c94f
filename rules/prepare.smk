# The encoder as the toolkit gets it: rewritten, and proved equal on the calibration set.
rule prepare:
    input:
        model=config["model"]["encoder"],
        contract=rules.inspect.output.contract,
        lib=lib("prepare"),
    output:
        model=result("prepared/encoder.onnx"),
        # In the form that the compiler makes few layers of, or the same again and why.
        native=result("prepared/native.onnx"),
        verdict=result("prepared/native.json"),
    log:
        log_of("prepare"),
    benchmark:
        benchmark_of("prepare")
    priority: 8
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


# A rule of its own, so that another calibration set makes no other model of a float16 variant.
rule prove:
    input:
        model=config["model"]["encoder"],
        prepared=rules.prepare.output.model,
        native=[rules.prepare.output.native, rules.prepare.output.verdict],
        contract=rules.inspect.output.contract,
        dataset=rules.calibration.output.dataset,
        arrays=rules.calibration.output.arrays,
        lib=lib("prove"),
    output:
        record=result("prepared/prepared.json"),
    log:
        log_of("prove"),
    benchmark:
        benchmark_of("prove")
    # Before the builds.
    priority: 10
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        rewrites=config["preparation"],
    message:
        "Proving the prepared encoder equal to the original"
    script:
        "../scripts/prove.py"


RESTORED = {
    part: PLAN.model[part]
    for part in ("encoder", "decoder", "joiner")
    if PLAN.model[part] and (part == "encoder" or PLAN.is_transducer)
}


# On real rows, so that it runs when the calibration set is there: before the builds.
rule prove_restored:
    input:
        originals=list(PLAN.originals.values()),
        parts=list(RESTORED.values()),
        contract=rules.inspect.output.contract,
        dataset=rules.calibration.output.dataset,
        arrays=rules.calibration.output.arrays,
        lib=lib("prove_restored"),
    output:
        record=result("restored/restored.json"),
    log:
        log_of("prove_restored"),
    benchmark:
        benchmark_of("prove_restored")
    priority: 10
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        originals=dict(PLAN.originals),
        restored=RESTORED,
    message:
        "Proving the restored model equal to its files, but for their rounding"
    script:
        "../scripts/prove_restored.py"
