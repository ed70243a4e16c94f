"""Make text of the best variant's encoder outputs, decoder and joiner in the simulator too."""

from job import run
from zipquant.evaluation import transducer
from zipquant.toolkit.platforms import Npu

run(
    snakemake,
    transducer.decode_shard,
    best_file=snakemake.input.best,
    encoded=dict(zip(snakemake.params.variants, snakemake.input.encoded, strict=True)),
    output=snakemake.output.texts,
    tokens=snakemake.input.tokens,
    decoder=snakemake.input.decoder,
    joiner=snakemake.input.joiner,
    npu=Npu(snakemake.params.platform, snakemake.params.toolkit),
    joiner_steps=snakemake.input.get("joiner_steps"),
)
