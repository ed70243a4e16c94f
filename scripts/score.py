"""Score the texts of all models."""

from job import run
from zipquant.evaluation import scores

run(
    snakemake,
    scores.write,
    models=snakemake.params.models,
    texts=snakemake.input.texts,
    transcripts=snakemake.input.get("transcripts"),
    best_file=snakemake.input.best,
    scores_file=snakemake.output.scores,
    table_file=snakemake.output.texts,
)
