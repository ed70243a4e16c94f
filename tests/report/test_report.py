"""What the report says in words, what it draws, and what it knows of the run's costs."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers.places import ROOT
from zipquant.report import costs, page, plots
from zipquant.report import figures as report_module
from zipquant.variants.histograms import Histogram


def variant(dtype: str, size: float, db: float, **changes) -> dict:
    """Return a variant as the report has it."""
    return {
        "build": {"dtype": dtype, "bytes": size, "refusals": []},
        "failure": None,
        "encoder_out": {"one step": {"sqnr_db": db}, "free-running": {"sqnr_db": db}},
        "drift": None,
        **changes,
    }


def rates(rate: float, points: float | None = None, interval=None) -> dict:
    """Return a model's figures as `scoring.write` gives them."""
    entry = {"rate": rate, "interval": [rate - 1, rate + 1]}
    found = {"transcript": {"word": entry}}
    if points is not None:
        entry["difference"] = {"points": points, "interval": interval}
        found |= {
            "float": {"word": {"rate": points, "interval": None}},
            "same": {"same": 190, "utterances": 200},
        }
    return found


def report_of(variants: dict, models: dict | None = None, transcribed: int = 200) -> dict:
    recognition = {"unit": "word", "utterances": 200, "transcribed": transcribed, "models": models}
    return {
        "model": {"bytes": 80e6},
        "variants": variants,
        "recognition": recognition if models else None,
    }


BOTH = {"int8": variant("w8a8", 20e6, 30.0), "fp16": variant("float16", 40e6, 60.0)}


def test_verdict_says_what_to_deploy_what_it_loses_and_against_what_it_is_smaller():
    models = {"float": rates(8.0), "int8": rates(8.3, 0.3, [0.1, 0.6]), "fp16": rates(8.0, 0.0)}
    found = page.verdict(report_of(BOTH, models), "int8")
    assert found["headline"] == (
        "Deploy int8: it loses 0.3 points WER against float; its file is 2.0 times smaller than "
        "the .rknn of fp16."
    )
    text = " ".join(found["sentences"])
    assert "WER 8.3 %, float 8.0 %; the difference lies between +0.1 and +0.6 points" in text
    assert "chance" not in text
    assert "in 190 of 200 utterances" in text
    assert "(40.0 MB) and 4.0 times smaller than the float ONNX file (80.0 MB)" in text


def test_verdict_tells_a_difference_that_chance_may_make():
    models = {"float": rates(8.0), "int8": rates(8.3, 0.3, [-0.2, 0.6])}
    (first, *_) = page.verdict(report_of(BOTH, models), "int8")["sentences"]
    assert first.endswith("so chance alone may make it.")


@pytest.mark.parametrize(
    ("points", "words"),
    [(0.0, "it loses no WER against float"), (-0.4, "it has 0.4 points less WER than float")],
)
def test_verdict_of_a_variant_that_loses_nothing(points, words):
    models = {"float": rates(8.0), "int8": rates(8.0 + points, points)}
    assert words in page.verdict(report_of(BOTH, models), "int8")["headline"]


def test_verdict_without_text_takes_the_quantized_variant_with_the_least_error():
    variants = BOTH | {"better": variant("w8a8", 41e6, 33.0)}
    found = page.verdict(report_of(variants), None)
    assert found["best"] == "better"
    assert "its encoder output is 33.0 dB above its error" in found["headline"]
    assert "about as large as the .rknn of fp16" in found["headline"]
    assert found["sentences"][-1].endswith("no text was made.")


def test_verdict_names_drift_refusals_and_failures():
    drift = {"early": [0, 4], "early_db": 30.0, "late": [5, 9], "late_db": 27.0}
    broken = {"build": {"dtype": "w8a8"}, "failure": "no such layer"}
    variants = {"int8": variant("w8a8", 20e6, 29.0, drift=drift), "odd": broken}
    variants["int8"]["build"]["refusals"] = ["'Unsupported tensor type': x of type int8"]
    found = page.verdict(report_of(variants), None)
    assert any(
        "grows along a stream: 30.0 dB in chunks 0 to 4, 27.0" in s for s in found["sentences"]
    )
    assert "odd could not be built: no such layer" in found["sentences"]
    assert [t["figure"] for t in found["tiles"]][-1] == "refuses it"
    found = page.verdict(report_of({"odd": broken}), None)
    assert (found["best"], found["tiles"]) == (None, [])
    assert found["headline"].startswith("There is nothing to deploy")


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
    flow = {"features": [], "traces": ["features"], "sample": ["traces"], "calibration": ["sample"]}
    found = costs.collect(tmp_path, ["traces/0", "traces/1", "sample", "calibration"], flow)
    assert list(found) == ["traces", "sample"]
    assert found["traces"] == {
        **{"jobs": 2, "seconds": 13.0, "longest": 10.5, "cpu_seconds": 11.0, "memory_mb": 300},
        "after": [],
    }
    assert (found["sample"]["memory_mb"], found["sample"]["after"]) == (None, ["traces"])
    assert costs.collect(tmp_path, [], flow) == {}


def search(**changes) -> dict:
    """Return what a search for float16 layers has found, see `mixed_precision.search`."""
    steps = [
        {"int8_macs_share": share, "sqnr_db": db, "predicted_sqnr_db": db - 0.5, "wer_loss": loss}
        for share, db, loss in ((1.0, 26.0, 3.0), (0.97, 31.0, 0.4), (0.92, 34.0, 0.0))
    ]
    target = {"target_sqnr": 30, "target_wer_loss": 0.5, "least_int8_macs": 0.9}
    return {"met": True, **target, "steps": steps, "chosen": 1} | changes


def test_search_that_misses_its_target_or_could_not_be_done_is_warned_of():
    def warned(found: dict) -> list[str]:
        entry = variant("w8a8", 20e6, 30.0)
        entry["build"]["mixed_precision"] = found
        return report_module._searches({"variants": {"int8": entry}})

    assert warned(search()) == []
    (missed,) = warned(search(met=False))
    assert "an SQNR of at least 30 dB and at most 0.5 % of words lost" in missed
    assert "90 % of the MACs in int8" in missed
    (none,) = warned({"unavailable": "the graph holds Foo"})
    assert none.endswith("were not searched: the graph holds Foo")


def test_plot_of_a_search_marks_the_choice_and_shows_words_where_there_are_any():
    found = search()
    drawn = plots.precision(found["steps"], 1, 30, 0.5)
    assert ">taken<" in drawn and ">target<" in drawn and ">words lost (%)<" in drawn
    assert "Taken: 97.0 %, 31.0 dB" in drawn
    without = [step | {"wer_loss": None} for step in found["steps"]]
    assert ">words lost (%)<" not in plots.precision(without, 1, 30, None)


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
    found = page._stream_plots({"model": {"chunk_shift": 32}}, built)
    assert list(found) == ["int8"]
    assert found["int8"]["title"] == "int8: 1 of 4 outputs go wrong with time"
    assert "avg 35.0 to 10.0 dB; embed_states exact" in found["int8"]["svg"]


def test_share_of_work_in_int8_is_a_tile():
    entry = variant("w8a8", 20e6, 30.0)
    entry["build"]["int8_macs_share"] = 0.957
    tiles = page.verdict(report_of({"int8": entry}), None)["tiles"]
    assert {"work in int8": "95.7 %"}.items() <= {t["what"]: t["figure"] for t in tiles}.items()


def test_plots_are_text_in_the_pages_colours_with_ids_of_their_own():
    histogram = Histogram(-1.0, 1.0)
    histogram.add(np.linspace(-1.5, 1.2, 300))
    series = {"a": {"one": [3.0, math.inf], "free": [2.0, 1.0]}}
    drawn = [
        plots.histogram("x", histogram, histogram),
        plots.histogram("y", histogram, histogram),
        plots.drift([[0, 3], [4, 7]], {"a": [20.0, None], "b": [30.0, math.inf]}),
        plots.outputs(["first", "second"], series),
        plots.rates([{"label": "float", "rate": 3.0, "interval": None}], "WER"),
        plots.flow({"a": {"seconds": 3.0, "memory_mb": None, "after": []}}),
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


def test_graph_of_rules_bends_long_edges_at_every_layer():
    rules = {
        "index": {"after": []},
        "features": {"after": ["index"]},
        "traces": {"after": ["features", "index"]},
        "encode": {"after": ["features"]},
        "build": {"after": ["traces"]},
        "score": {"after": ["build", "encode", "index"]},
    }
    layers, edges = plots._layers(rules)
    level = {node: number for number, layer in enumerate(layers) for node in layer}
    assert all(level[end] == level[start] + 1 for start, end in edges)
    # As late as possible, and what follows from other edges is left out.
    assert level["encode"] == level["build"] == 3
    assert ("index", "traces") not in edges
    assert len([node for node in level if isinstance(node, tuple)]) == 1


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
