"""Put everything measured into one report: JSON, Markdown and HTML."""

from job import run
from zipquant.report import figures

run(
    snakemake,
    figures.write,
    model=snakemake.input.model,
    contract_file=snakemake.input.contract,
    indexes={
        "calibration": snakemake.input.calibration_index,
        "evaluation": snakemake.input.evaluation_index,
    },
    sample=snakemake.input.sample,
    coverage=snakemake.input.coverage,
    outliers=snakemake.input.outliers,
    chunk_tables=snakemake.input.chunk_tables,
    builds=snakemake.input.builds,
    toolkits=snakemake.input.toolkits,
    evaluations=snakemake.input.evaluations,
    long_streams=snakemake.input.long_streams,
    times=snakemake.input.times,
    prepared_file=snakemake.input.prepared,
    parts=snakemake.input.parts,
    verified=snakemake.input.verified,
    best_file=snakemake.input.best,
    histograms=snakemake.input.histograms,
    overlap=snakemake.input.overlap,
    scores=snakemake.input.get("scores"),
    texts=snakemake.input.get("texts"),
    variants=snakemake.params.variants,
    warnings=snakemake.params.warnings,
    settings=snakemake.params.settings,
    benchmarks=snakemake.params.benchmarks,
    jobs=snakemake.params.jobs,
    flow=snakemake.params.flow,
    json_file=snakemake.output.json,
    markdown_file=snakemake.output.markdown,
    html_file=snakemake.output.html,
    summary_file=snakemake.output.summary,
)
