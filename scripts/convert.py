"""Build the decoder or the joiner as a float16 .rknn."""

from job import run
from zipquant import rknn_decoding

run(
    snakemake,
    rknn_decoding.convert,
    part=snakemake.wildcards.part,
    tokens=snakemake.input.tokens,
    decoder=snakemake.input.decoder,
    joiner=snakemake.input.joiner,
    platform=snakemake.params.platform,
    output=snakemake.output.rknn,
)
