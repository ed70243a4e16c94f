"""Run the float encoder over a shard of the evaluation audio."""

from job import run
from zipquant.recognition import encoding

run(
    snakemake,
    encoding.encode_shard,
    model=snakemake.input.model,
    contract_file=snakemake.input.contract,
    features=snakemake.input.features,
    encoded_file=snakemake.output.encoded,
    utterances=snakemake.params.get("utterances"),
    lanes=snakemake.resources.lanes,
)
