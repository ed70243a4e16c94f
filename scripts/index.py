"""Index a shard: read each audio file once, note what cannot be used."""

from job import run
from zipquant.audio import index
from zipquant.audio.utterance import Utterance

params = snakemake.params
columns = (params.ids, params.reads, params.starts, params.ends)

run(
    snakemake,
    index.write,
    utterances=[
        Utterance(name, path, start=start, end=end)
        for name, path, start, end in zip(*columns, strict=True)
    ],
    unreachable=params.unreachable,
    output=snakemake.output.index,
    channels=params.channels,
    on_bad_file=params.on_bad_file,
    cut=params.cut,
)
