"""Judge each variant, and choose the best by accuracy, then by size or speed."""

from job import run
from zipquant.evaluation import choice
from zipquant.evaluation.verdict import Limits
from zipquant.toolkit.layer_costs import costs

run(
    snakemake,
    choice.write,
    models=choice.Models(
        names=snakemake.params.variants,
        builds=snakemake.input.builds,
        evaluations=snakemake.input.evaluations,
        times=snakemake.input.times,
        layers=snakemake.input.layers,
        keywords=snakemake.params.keywords,
        heard=snakemake.input.heard,
        board_result=snakemake.input.board_result or None,
    ),
    contract_file=snakemake.input.contract,
    texts=snakemake.input.get("texts", []),
    transcripts=snakemake.input.get("transcripts"),
    rule=choice.Rule(**snakemake.params.rule),
    limits=Limits(**snakemake.params.limits),
    costs=costs(snakemake.params.platform, snakemake.params.board_costs),
    output=snakemake.output.best,
)
