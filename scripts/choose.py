"""Choose the best variant by accuracy, then by size or speed."""

from job import run
from zipquant.evaluation import choice

run(
    snakemake,
    choice.write,
    variants=snakemake.params.variants,
    candidates=snakemake.params.candidates,
    builds=snakemake.input.builds,
    evaluations=snakemake.input.evaluations,
    contract_file=snakemake.input.contract,
    texts=snakemake.input.get("texts", []),
    transcripts=snakemake.input.get("transcripts"),
    prefer=snakemake.params.prefer,
    loadable=snakemake.params.loadable,
    output=snakemake.output.best,
)
