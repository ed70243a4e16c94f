"""Put everything measured into one report: JSON, Markdown and HTML."""

from job import run
from zipquant.report import figures
from zipquant.report.costs import Benchmarks

given, params = snakemake.input, snakemake.params
shards = len(given.evaluations) // len(params.variants)


def of(files, position):
    """The files of one variant among those of all shards of all variants."""
    return files[position * shards : (position + 1) * shards]


run(
    snakemake,
    figures.write,
    model=figures.ModelFiles(
        given.model, given.contract, given.prepared, given.get("restored") or None
    ),
    audio=figures.AudioFiles(
        indexes={
            "calibration": given.calibration_index,
            "evaluation": given.evaluation_index,
        },
        overlap=given.overlap,
        sample=given.sample,
        coverage=given.coverage,
        outliers=given.outliers,
        chunk_tables=given.chunk_tables,
    ),
    variants={
        name: figures.VariantFiles(
            build=given.builds[position],
            toolkit=given.toolkits[position],
            evaluations=of(given.evaluations, position),
            histograms=of(given.histograms, position),
            times=of(given.times, position),
            long_stream=given.long_streams[position],
            layers=given.layers[position],
        )
        for position, name in enumerate(params.variants)
    },
    best_file=given.best,
    texts=figures.TextFiles(
        given.get("scores"), given.get("texts"), given.parts, given.verified, given.part_layers
    ),
    run=figures.Run(
        params.settings,
        params.warnings,
        Benchmarks(params.benchmarks, params.wildcard_values),
    ),
    outputs=figures.Outputs(
        **{name: snakemake.output[name] for name in ("json", "markdown", "summary")},
        html=params.pages,
    ),
)
