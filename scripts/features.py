"""Compute the features of a shard."""

from job import run
from zipquant.audio import features

run(
    snakemake,
    features.extract_shard,
    index_file=snakemake.input.index,
    output=snakemake.output.features,
    channels=snakemake.params.channels,
    tail_padding=snakemake.params.tail_padding,
    front_end=snakemake.params.front_end,
)
