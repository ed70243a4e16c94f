"""Judge each variant, and choose the best by accuracy, then by size or speed."""

from job import run
from zipquant.evaluation import choice
from zipquant.evaluation.verdict import Limits

run(
    snakemake,
    choice.write,
    models=choice.Models(
        names=snakemake.params.variants,
        builds=snakemake.input.builds,
        evaluations=snakemake.input.evaluations,
    ),
    contract_file=snakemake.input.contract,
    texts=snakemake.input.get("texts", []),
    transcripts=snakemake.input.get("transcripts"),
    rule=choice.Rule(**snakemake.params.rule),
    limits=Limits(**snakemake.params.limits),
    output=snakemake.output.best,
)
