"""Score the texts of all models."""

from job import run
from zipquant.evaluation import scores

given, params = snakemake.input, snakemake.params
names = params.keywords

run(
    snakemake,
    scores.write,
    models=params.models,
    texts=given.texts,
    transcripts=given.get("transcripts"),
    best_file=given.best,
    scores_file=snakemake.output.scores,
    table_file=snakemake.output.texts,
    keywords=scores.Keywords(names, params.spotted, given.heard) if names else None,
)
