"""Make text of the encoder outputs of a shard."""

from job import run
from zipquant.recognition import decoding

run(
    snakemake,
    decoding.decode_shard_float,
    encoded=snakemake.input.encoded,
    output=snakemake.output.texts,
    tokens=snakemake.input.tokens,
    decoder=snakemake.input.get("decoder"),
    joiner=snakemake.input.get("joiner"),
)
