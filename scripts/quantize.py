"""Build a variant of the encoder with rknn-toolkit2."""

from job import run
from zipquant.toolkit.platforms import Npu
from zipquant.variants.build import Settings, Source, attempt

run(
    snakemake,
    attempt,
    work=snakemake.params.work,
    npu=Npu(snakemake.params.platform, snakemake.params.toolkit),
    source=Source.of_rule(
        snakemake.input, snakemake.params.context_size, snakemake.params.board_costs
    ),
    settings=Settings(**snakemake.params.settings),
)
