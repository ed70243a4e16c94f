"""Score the texts of all models."""

from job import run
from zipquant.recognition import error_rates

run(
    snakemake,
    error_rates.write,
    models=snakemake.params.models,
    texts=snakemake.input.texts,
    transcripts=snakemake.input.get("transcripts"),
    best_file=snakemake.input.best,
    scores_file=snakemake.output.scores,
    table_file=snakemake.output.texts,
)
