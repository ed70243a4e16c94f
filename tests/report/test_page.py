"""What the report draws, what it knows of the run's costs, and what it imports."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers.places import ROOT
from zipquant.report import costs, page, plots
from zipquant.variants.histograms import Histogram

STEPS = [
    {"time_added": added, "sqnr_db": db, "predicted_sqnr_db": db - 0.5, "wer_loss": loss}
    for added, db, loss in ((0.0, 26.0, 3.0), (-0.01, 31.0, 0.4), (0.04, 34.0, 0.0))
]


def test_costs_add_up_the_jobs_of_each_rule_that_count(tmp_path):
    columns = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    rows = {
        "traces/0": "10.5\t0:00:10\t300.5\t0\t0\t0\t0\t0\t0\t9.0\n",
        "traces/1": "2.5\t0:00:02\t200.5\t0\t0\t0\t0\t0\t0\t2.0\n",
        "traces/7": "99\t0:01:39\t900\t0\t0\t0\t0\t0\t0\t99\n",
        "sample": "0.1\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\t0.1\n",
    }
    for job, row in rows.items():
        path = tmp_path / f"{job}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(columns + row)
    patterns = {
        "features": f"{tmp_path}/features/{{set}}/{{shard}}.tsv",
        "traces": f"{tmp_path}/traces/{{shard}}.tsv",
        "sample": f"{tmp_path}/sample.tsv",
        "lineage": f"{tmp_path}/lineage/{{recipe}}.tsv",
    }
    wildcards = {"set": ["calibration"], "shard": ["0", "1"]}
    found = costs.collect(costs.Benchmarks(patterns, wildcards))
    assert list(found) == ["traces", "sample"]
    # Shard 7 is of earlier settings.
    assert found["traces"] == {
        **{"jobs": 2, "seconds": 13.0, "longest": 10.5, "cpu_seconds": 11.0, "memory_mb": 300}
    }
    assert found["sample"]["memory_mb"] is None
    assert costs.collect(costs.Benchmarks(patterns, {"shard": ["3"]})) == {
        "sample": found["sample"]
    }


def test_plot_of_a_search_marks_the_choice_and_shows_words_where_there_are_any():
    drawn = plots.precision(STEPS, 1, (30, 0.5))
    assert ">taken<" in drawn and ">target<" in drawn and ">words lost (%)<" in drawn
    # From the least time to the most, in whatever order they were measured.
    assert "from -1.0 % to +4.0 % against plain int8: 31.0" in drawn
    assert "Taken: -1.0 %, 31.0 dB" in drawn
    without = [step | {"wer_loss": None} for step in STEPS]
    assert ">words lost (%)<" not in plots.precision(without, 1, (30, None))


def test_stream_shows_the_worst_of_each_kind_of_state():
    levels = {
        "encoder_out": [30.0] * 4,
        "new_cached_avg_0": [40.0, 30.0, 20.0, 10.0],
        "new_cached_avg_1": [35.0, 35.0, None, 35.0],
        "new_embed_states": [None] * 4,
    }
    stream = {
        **{"chunks": 4, "seconds": 1.28, "wrong": ["new_cached_avg_0"]},
        "outputs": {name: {"sqnr_db": values} for name, values in levels.items()},
    }
    built = {"int8": {"long_stream": stream}, "none": {"long_stream": stream | {"chunks": 0}}}
    found = page._stream_plots({"model": {"chunk_shift": 32}}, built, "en")
    assert list(found) == ["int8"]
    assert found["int8"]["title"] == "int8: 1 of 4 outputs go wrong"
    assert "avg 35.0 to 10.0 dB; embed_states exact" in found["int8"]["svg"]


def test_plots_are_text_in_the_pages_colours_with_ids_of_their_own():
    histogram = Histogram(-1.0, 1.0)
    histogram.add(np.linspace(-1.5, 1.2, 300))
    series = {"a": {"one step": [3.0, math.inf], "free-running": [2.0, 1.0]}}
    drawn = [
        plots.histogram("x", histogram, histogram),
        plots.histogram("y", histogram, histogram),
        plots.drift([[0, 3], [4, 7]], {"a": [20.0, None], "b": [30.0, math.inf]}),
        plots.outputs(["first", "second"], series),
        plots.rates([{"label": "float", "rate": 3.0, "interval": None}], "WER"),
    ]
    for svg in drawn:
        assert svg.startswith("<svg") and svg.endswith("</svg>")
        # No colour but the page's: dark or light, it fits.
        assert not re.search(r"#[0-9a-f]{6}\b", svg)
        assert "var(--" in svg
        used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
        assert used <= set(re.findall(r' id="([^"]+)"', svg))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in drawn]
    assert sum(map(len, ids)) == len(set.union(*ids))
    assert ">0.0001<" in drawn[0] and ">first<" in drawn[3]
    assert drawn[0] == plots.histogram("x", histogram, histogram)


@pytest.mark.parametrize("module", ["report.figures", "evaluation.choice", "evaluation.scores"])
def test_choosing_and_reporting_need_neither_the_toolkit_nor_torch(module):
    code = (
        f"import sys; sys.path.insert(0, 'scripts'); import zipquant.{module}; "
        "print([name for name in ('rknn', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
