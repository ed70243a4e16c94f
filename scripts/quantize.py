"""Build a variant of the encoder with rknn-toolkit2."""

from job import run
from zipquant.variants.build import Settings, Source, attempt

given = snakemake.input

run(
    snakemake,
    attempt,
    work=snakemake.params.work,
    platform=snakemake.params.platform,
    source=Source(
        model=given.model,
        contract=given.contract,
        dataset=given.get("dataset"),
        sample=given.get("sample"),
        context_size=snakemake.params.context_size,
        original=given.get("original"),
        features=given.get("features", []),
        recognizer={
            name: given[name] for name in ("tokens", "decoder", "joiner") if given.get(name)
        },
    ),
    settings=Settings(**snakemake.params.settings),
)
