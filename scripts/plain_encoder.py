"""Build the chosen variant once more, from the encoder as it is."""

from job import run
from zipquant.variants import plain_encoder
from zipquant.variants.build import Source

given = snakemake.input

run(
    snakemake,
    plain_encoder.build,
    work=snakemake.params.work,
    best_file=given.best,
    records=dict(zip(snakemake.params.settings, given.builds, strict=True)),
    settings=snakemake.params.settings,
    source=Source(
        model=given.model,
        contract=given.contract,
        dataset=given.get("dataset"),
        sample=given.get("sample"),
        context_size=snakemake.params.context_size,
        original=given.original,
        features=given.get("features", []),
        recognizer={
            name: given[name] for name in ("tokens", "decoder", "joiner") if given.get(name)
        },
    ),
)
