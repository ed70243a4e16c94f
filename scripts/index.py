"""Index a shard: read each audio file once, note what cannot be used."""

from job import run
from zipquant.audio import index

run(
    snakemake,
    index.write,
    ids=snakemake.params.ids,
    paths=snakemake.params.reads,
    unreachable=snakemake.params.unreachable,
    output=snakemake.output.index,
    channels=snakemake.params.channels,
    on_bad_file=snakemake.params.on_bad_file,
)
