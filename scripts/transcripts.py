"""Write the transcripts of the evaluation audio, whatever kind of manifest they come from."""

from job import run
from zipquant import plan

run(
    snakemake,
    plan.write_transcripts,
    config=snakemake.config,
    output=snakemake.output.transcripts,
)
