"""Put everything that a board needs into one folder and one tar file."""

from job import run
from zipquant import bundle

run(
    snakemake.log,
    bundle.write,
    best_file=snakemake.input.best,
    scores_file=snakemake.input.scores,
    contract_file=snakemake.input.contract,
    variants=dict(zip(snakemake.params.variants, snakemake.input.builds, strict=True)),
    tokens=snakemake.input.tokens,
    decoder=snakemake.input.get("decoder"),
    joiner=snakemake.input.get("joiner"),
    verified=snakemake.input.verified,
    audio=snakemake.params.audio,
    folder=snakemake.output.folder,
    archive=snakemake.output.archive,
)
