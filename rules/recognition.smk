# Text of the evaluation audio, by the float model and by each variant.


def transcripts() -> dict[str, str]:
    """The transcripts of the evaluation audio; none, where there are none."""
    if not PLAN.transcripts_digest:
        return {}
    return {"transcripts": result("index/transcripts.tsv")}


def texts_of(*models: str) -> list[str]:
    """The texts of some models, all shards of the first, then of the next."""
    return [
        result(f"texts/{model}/{shard}.tsv")
        for model in models
        for shard in PLAN.shards_of("evaluation")
    ]


# What was said in the evaluation audio, whatever kind of manifest it stands in.
rule transcripts:
    input:
        lib=lib("transcripts"),
    output:
        transcripts=result("index/transcripts.tsv"),
    log:
        log_of("transcripts"),
    benchmark:
        benchmark_of("transcripts")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        content=PLAN.transcripts_digest,
    message:
        "Reading the transcripts"
    script:
        "../scripts/transcripts.py"


# The float model's encoder outputs; those of the variants are made by the rule `evaluate`.
rule encode:
    input:
        model=config["model"]["encoder"],
        contract=rules.inspect.output.contract,
        features=result("features/evaluation/{shard}.h5"),
        lib=lib("encode"),
    output:
        encoded=result("encoded/float/{shard}.h5"),
    log:
        log_of("encode/{shard}"),
    benchmark:
        benchmark_of("encode/{shard}")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
        # As in the rule `traces`.
        lanes=config["traces"]["lanes"],
    message:
        "Encoding evaluation audio with the float model, shard {wildcards.shard}"
    script:
        "../scripts/encode.py"


# Greedy search over encoder outputs, with decoder and joiner in onnxruntime.
rule decode:
    input:
        **recognizer_files(),
        encoded=result("encoded/{model}/{shard}.h5"),
        lib=lib("decode"),
    output:
        texts=result("texts/{model}/{shard}.tsv"),
    log:
        log_of("decode/{model}/{shard}"),
    benchmark:
        benchmark_of("decode/{model}/{shard}")
    wildcard_constraints:
        model="(?!rknn/).+",
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    message:
        "Decoding {wildcards.model}, shard {wildcards.shard}"
    script:
        "../scripts/decode.py"


def heard_of(*models: str) -> list[str]:
    """What some models hear of keywords, all shards of the first, then of the next."""
    if not PLAN.keywords:
        return []
    return [
        path.replace("texts/", "keywords/").replace(".tsv", ".json")
        for path in texts_of(*models)
    ]


def built(wildcards) -> dict[str, str]:
    """A variant as it was built and evaluated; nothing for the float model."""
    if wildcards.model == FLOAT:
        return {}
    files = {
        "build": rules.quantize.output.build,
        "toolkit": rules.quantize.output.toolkit,
        "time": rules.evaluate.output.time,
    }
    found = {
        name: path.format(variant=wildcards.model, shard=wildcards.shard)
        for name, path in files.items()
    }
    return {
        **found,
        "prepared": rules.prepare.output.model,
        "native": [rules.prepare.output.native, rules.prepare.output.verdict],
    }


# Which keywords a model hears, by the search of sherpa-onnx's keyword spotter.
rule spot:
    input:
        unpack(built),
        **recognizer_files(),
        keywords=config["model"]["keywords"] or [],
        model=config["model"]["encoder"],
        contract=rules.inspect.output.contract,
        features=result("features/evaluation/{shard}.h5"),
        encoded=result("encoded/{model}/{shard}.h5"),
        lib=lib("spot"),
    output:
        heard=result("keywords/{model}/{shard}.json"),
    log:
        log_of("spot/{model}/{shard}"),
    benchmark:
        benchmark_of("spot/{model}/{shard}")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        # As in the rule `evaluate`.
        mem_mb=growing(4000),
        runtime=growing(240),
        board=1 if config["evaluation"]["target"] else 0,
    params:
        target=config["evaluation"]["target"],
        device_id=config["evaluation"]["device_id"],
    message:
        "Looking for keywords with {wildcards.model}, shard {wildcards.shard}"
    script:
        "../scripts/spot.py"
