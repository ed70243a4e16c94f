# The model: its contract, and the files beside it.


def recognizer_files() -> dict[str, str]:
    """The files that make text of encoder outputs, by what they are."""
    if PLAN.recognizer is None:
        return {}
    parts = {"decoder": PLAN.recognizer.decoder, "joiner": PLAN.recognizer.joiner}
    paths = {name: part.path for name, part in parts.items() if part}
    return {"tokens": PLAN.recognizer.tokens, **paths}


def context_size() -> int | None:
    """Tokens that the decoder looks back; None where there is no decoder."""
    if PLAN.recognizer is None or PLAN.recognizer.decoder is None:
        return None
    return PLAN.recognizer.decoder.inputs[0].shape[1]


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
