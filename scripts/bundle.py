"""Put everything that a board needs into one folder and one tar file."""

from job import run
from zipquant import bundle

run(
    snakemake,
    bundle.write,
    best_file=snakemake.input.best,
    contract_file=snakemake.input.contract,
    scores_file=snakemake.input.get("scores"),
    variants=dict(zip(snakemake.params.variants, snakemake.input.builds, strict=True)),
    parts=bundle.Parts(
        tokens=snakemake.input.get("tokens"),
        decoder=snakemake.input.get("decoder"),
        joiner=snakemake.input.get("joiner"),
        verified=snakemake.input.verified,
        plain=next(iter(snakemake.input.get("plain", [])), None),
        restored=snakemake.input.get("restored"),
        keywords=snakemake.input.get("keywords") or None,
    ),
    audio=snakemake.params.audio,
    folder=snakemake.output.folder,
    archive=snakemake.output.archive,
)
