"""Choose the variant with the lowest error rate."""

from job import run
from zipquant import scoring

run(
    snakemake,
    scoring.choose,
    models=snakemake.params.models,
    texts=snakemake.input.texts,
    transcripts=snakemake.input.get("transcripts"),
    candidates=snakemake.params.candidates,
    output=snakemake.output.best,
)
