"""Build the chosen variant once more, from the encoder as it is."""

from job import run
from zipquant.variants import plain_encoder
from zipquant.variants.build import Source

run(
    snakemake,
    plain_encoder.build,
    work=snakemake.params.work,
    best_file=snakemake.input.best,
    records=dict(zip(snakemake.params.settings, snakemake.input.builds, strict=True)),
    settings=snakemake.params.settings,
    source=Source.of_rule(
        snakemake.input, snakemake.params.context_size, snakemake.params.board_costs
    ),
)
