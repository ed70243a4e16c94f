# Decoder and joiner for the NPU, what all three networks make of the evaluation audio, and error rates.

INT8_JOINER = PLAN.is_transducer and config["recognizer"]["joiner"] != "float16"


def scored() -> list[str]:
    """All models that texts are made with; `rknn` is the best variant with all three in RKNN."""
    return [FLOAT, *VARIANTS, *(["rknn"] if PLAN.is_transducer else [])]


def converted() -> dict[str, str]:
    """The rest of a transducer for the NPU, by what it is."""
    if not PLAN.is_transducer:
        return {}
    return {part: result(f"recognizer/{part}.rknn") for part in ("decoder", "joiner")}


def verified() -> list[str]:
    """How exact the rest of a transducer is for the NPU, in the order of `converted`."""
    return [path.replace(".rknn", ".json") for path in converted().values()]


def joiner_calibration(wildcards) -> dict[str, list[str]]:
    """Encoder outputs that an int8 joiner is calibrated with; nothing for a float16 part."""
    if wildcards.part == "decoder" or not INT8_JOINER:
        return {}
    return {
        "encoded": [
            result(f"recognizer/encoded/{shard}.h5") for shard in PLAN.joiner_shards()
        ]
    }


def joiner_steps(wildcards) -> dict[str, str]:
    """What the simulator of an int8 joiner is set up from; nothing for a float16 one."""
    if not INT8_JOINER:
        return {}
    return {"joiner_steps": result("recognizer/toolkit/joiner")}


# The float model's outputs for some calibration audio, to calibrate an int8 joiner with.
use rule encode as encode_calibration with:
    input:
        model=config["model"]["encoder"],
        contract=rules.inspect.output.contract,
        features=result("features/calibration/{shard}.h5"),
        lib=lib("encode"),
    output:
        encoded=result("recognizer/encoded/{shard}.h5"),
    log:
        log_of("encode_calibration/{shard}"),
    benchmark:
        benchmark_of("encode_calibration/{shard}")
    params:
        utterances=lambda w: PLAN.joiner_utterances(w.shard),
    message:
        "Encoding calibration audio for the joiner, shard {wildcards.shard}"


# Decoder and joiner for the NPU.
rule convert:
    input:
        unpack(joiner_calibration),
        **recognizer_files(),
        lib=lib("convert"),
    output:
        rknn=result("recognizer/{part}.rknn"),
        layers=result("recognizer/{part}.layers.tsv"),
        # From these the simulator of an int8 joiner is set up again.
        steps=directory(result("recognizer/toolkit/{part}")),
    log:
        log_of("convert/{part}"),
    benchmark:
        benchmark_of("convert/{part}")
    wildcard_constraints:
        part="decoder|joiner",
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        platform=config["platform"],
        toolkit=config["toolkit"],
    message:
        "Building the {wildcards.part} for {params.platform}"
    script:
        "../scripts/convert.py"


# Decoder and joiner as converted against onnxruntime, on what they get of the evaluation audio.
rule verify:
    input:
        unpack(joiner_steps),
        **recognizer_files(),
        encoded=all_shards("evaluation", f"encoded/{FLOAT}/{{shard}}.h5"),
        lib=lib("verify"),
    output:
        decoder=result("recognizer/decoder.json"),
        joiner=result("recognizer/joiner.json"),
    log:
        log_of("verify"),
    benchmark:
        benchmark_of("verify")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        platform=config["platform"],
        toolkit=config["toolkit"],
    message:
        "Comparing decoder and joiner as converted with onnxruntime"
    script:
        "../scripts/verify.py"


# The best variant with decoder and joiner in the simulator too: what the NPU would say.
rule decode_rknn:
    input:
        unpack(joiner_steps),
        **recognizer_files(),
        best=rules.choose.output.best,
        encoded=[result(f"encoded/{variant}/{{shard}}.h5") for variant in VARIANTS],
        lib=lib("decode_rknn"),
    output:
        texts=result("texts/rknn/{shard}.tsv"),
    log:
        log_of("decode_rknn/{shard}"),
    benchmark:
        benchmark_of("decode_rknn/{shard}")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(240),
    params:
        variants=list(VARIANTS),
        platform=config["platform"],
        toolkit=config["toolkit"],
    message:
        "Decoding the best variant with all three networks in RKNN, shard {wildcards.shard}"
    script:
        "../scripts/decode_rknn.py"


# Error rates of all models, and their texts side by side.
rule score:
    input:
        **transcripts(),
        best=rules.choose.output.best,
        texts=texts_of(*scored()),
        heard=heard_of(FLOAT, *VARIANTS),
        lib=lib("score"),
    output:
        scores=result("scores/scores.json"),
        texts=report(
            result("scores/texts.tsv"),
            caption="captions/texts.rst",
            category="Accuracy",
            labels={"what": "texts of all models"},
        ),
    log:
        log_of("score"),
    benchmark:
        benchmark_of("score")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        models=scored(),
        keywords=PLAN.keywords,
        spotted=[FLOAT, *VARIANTS],
    message:
        "Scoring the texts of {params.models}"
    script:
        "../scripts/score.py"
