# Parts of the model that are not one file in plain float32, turned into such files.
rule restore:
    input:
        model=lambda w: PLAN.originals[w.part],
        data=lambda w: look.look(PLAN.originals[w.part]).external,
        lib=lib("restore"),
    output:
        model=result("restored/{part}.onnx"),
    log:
        log_of("restore/{part}"),
    benchmark:
        benchmark_of("restore/{part}")
    wildcard_constraints:
        part="encoder|decoder|joiner",
    priority: 10
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    message:
        "Turning {input.model} into one file in float32"
    script:
        "../scripts/restore.py"
