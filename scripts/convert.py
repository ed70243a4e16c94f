"""Build the decoder or the joiner for the NPU."""

from job import run
from zipquant.variants import transducer

run(
    snakemake,
    transducer.convert,
    part=snakemake.wildcards.part,
    tokens=snakemake.input.tokens,
    decoder=snakemake.input.decoder,
    joiner=snakemake.input.joiner,
    platform=snakemake.params.platform,
    encoded=snakemake.input.get("encoded", []),
    steps=snakemake.output.steps,
    output=snakemake.output.rknn,
    layers=snakemake.output.layers,
)
