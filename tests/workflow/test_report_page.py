"""The report of a finished run, in a browser too."""

import html
import json
import math
import re
import zipfile

import markupsafe
import networkx
import numpy as np
import pytest

from helpers.browser import browser, needs_chromium
from helpers.projects import EVALUATION_FILES, run, shards, snakemake
from zipquant.model import contract
from zipquant.report import figures
from zipquant.report.costs import Benchmarks
from zipquant.report.words import CLIPPED, DRIFT_DB
from zipquant.toolkit.layer_costs import ESTIMATED, Range

OTHER = {"index.html": "index.zh-CN.html", "index.zh-CN.html": "index.html"}


@pytest.mark.parametrize("name", OTHER)
def test_page_is_self_contained_but_for_the_link_to_the_other_language(finished, name):
    page = (finished / "results/report" / name).read_text()
    links = set(re.findall(r'href="([^"]*)"', page))
    assert {link for link in links if not link.startswith("#")} == {OTHER[name]}
    assert not re.search(r"src=|url\((?!#)|@import|https?://|<script", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    # A term is linked once, where it is said first.
    terms = re.findall(r'<a class="term" href="#([^"]+)"', page)
    assert len(terms) == len(set(terms)) > 5


@pytest.mark.parametrize("name", OTHER)
def test_page_can_be_read_by_a_screen_reader(finished, name):
    page = (finished / "results/report" / name).read_text()
    assert page.count("<main>") == page.count("<nav ") == page.count("<h1>") == 1
    assert not re.search(r"<th>|<th (?!scope=)", page)
    assert f'<html lang="{"zh-CN" if "zh" in name else "en"}">' in page


def test_chinese_page_says_all_in_chinese(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    page = (finished / "results/report/index.zh-CN.html").read_text()
    labels = re.findall(r'aria-label="([^"]+)"', page)
    text = re.sub(r"<(style|pre|code|svg)\b.*?</\1>", "", page, flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", "\n", text)) + "\n".join(labels)
    # What the compiler's side says of a graph is not translated.
    for name in report["variants"].values():
        text = text.replace(name["build"].get("plain_because", "\0"), "")
    text = text.replace(report["preparation"]["native"]["reason"] or "\0", "")
    english = re.findall(r".*\b(?:the|of|is|are|with|from|that|and)\b.*", text)
    assert english == []
    english = (finished / "results/report/index.html").read_text()
    assert not re.search("[\u4e00-\u9fff]", english.replace(">中文<", ""))
    for tag in ("section", "tr", "li", "p", "th", "td", "svg", "figure", "dt"):
        counts = [len(re.findall(f"<{tag}[ >]", text)) for text in (page, english)]
        assert counts[0] == counts[1] > 0, tag


def test_page_says_what_to_do_next(finished):
    page = (finished / "results/report/index.html").read_text()
    (box,) = re.findall(r'<div class="next" id="next">.*?</div>', page, re.DOTALL)
    assert "<code>scp results/bundle.tar USER@BOARD:</code>" in box
    assert page.index("<h1>") < page.index(box) < page.index('class="tiles"')


def test_simulators_time_is_nowhere_said(finished):
    """It says nothing of a board's; report.json has it for programs."""
    report = json.loads((finished / "results/report/report.json").read_text())
    time = report["variants"]["int8"]["time"]
    assert time["target"] == "simulator" and 0 < time["median_ms"] <= time["p95_ms"]
    for name in ("index.html", "index.zh-CN.html", "report.md", "summary.txt"):
        page = (finished / "results/report" / name).read_text()
        assert f"{time['median_ms']:.1f} ms" not in page.replace("\u00a0", " ")
        assert 'id="times"' not in page
    low, high = report["layers"]["networks"]["int8"]["price"]
    tile = str(Range(low, high)).replace(" ms", "\u00a0ms")
    assert f"<b>{tile}</b>" in (finished / "results/report/index.html").read_text()


def test_page_lists_every_output(finished):
    page = (finished / "results/report/index.html").read_text()
    (table,) = re.findall(r'<table id="outputs-table">.*?</table>', page, re.DOTALL)
    assert table.count("<code>new_cached_") == 35
    assert len(page) < 3e6
    assert "encoder output" in (finished / "results/report/report.md").read_text()


def test_page_says_what_was_rewritten_and_chosen(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    page = (finished / "results/report/index.html").read_text()
    for name, entry in report["preparation"]["rewrites"].items():
        assert f'<th scope="row"><code>{name}</code></th><td>{entry["nodes"]}</td>' in page
    assert "No CumSum" in page
    assert all(
        f"<li>{markupsafe.escape(reason)}</li>" in page for reason in report["choice"]["why"]
    )
    assert set(report["parts"]) == {"decoder", "joiner"}
    assert report["parts"]["joiner"]["same_argmax"] > 0.9
    share = f"{100 * report['variants']['int8']['build']['int8_macs_share']:.1f} %"
    assert f"<b>{share}</b>" in page.replace("\u00a0", " ")
    assert f"{share} of MACs in int8" in (finished / "results/report/summary.txt").read_text()


def test_page_says_what_the_board_runs_and_that_its_times_are_estimated(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    page = (finished / "results/report/index.html").read_text()
    networks = report["layers"]["networks"]
    assert set(networks) == {*report["variants"], "decoder", "joiner"}
    assert all(entry["source"] == "compiler" for entry in networks.values())
    int8, fp16 = networks["int8"], networks["fp16"]
    assert int8["kinds"]["conversion"] > fp16["kinds"]["conversion"]
    assert int8["weight_memory"] < fp16["weight_memory"]
    for entry in networks.values():
        assert sum(entry["kinds"].values()) == sum(entry["targets"].values()) == entry["layers"]
        assert sum(row["layers"] for row in entry["modules"]) == entry["layers"]
        assert 0 < entry["price"][0] < entry["price"][1]
    (section,) = re.findall(r'<section id="layers">.*?</section>', page, re.DOTALL)
    assert f"Of the {int8['layers']} layers of int8, " in re.sub("</?a[^>]*>", "", section)
    assert f"Times of a call are {ESTIMATED}" in section and "<code>exDataConvert</code>" in section
    text = (finished / "results/report/report.md").read_text()
    assert f"Times are {ESTIMATED}" in text and f"| int8 | {int8['layers']} | " in text


@needs_chromium
def test_page_in_a_real_browser(finished, tmp_path):
    page = finished / "results/report/index.html"
    with browser(tmp_path / "profile") as window:
        for width in (390, 1280):
            window.show(page, width)
            window.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
            inner, scroll = window.run("return [innerWidth, document.documentElement.scrollWidth]")
            assert (inner, scroll <= inner) == (width, True)
            # What is wider than its place scrolls there, and is not cut off.
            assert not window.run(OVERFLOWING)
            # Where a table is wider than its place, a line above says so, and nowhere else.
            hints = window.run(HINTS)
            assert hints and not [hint for hint in hints if hint[0] != hint[1]]
            assert any(wide for wide, _ in hints) == (width == 390)
            least = window.run(SMALLEST)
            assert least >= 10.5, f"{least} px at {width} px"
        plots = window.run(
            "return [...document.querySelectorAll('svg.plot')].map(s => {"
            "  const box = s.getBoundingClientRect();"
            "  return [s.getAttribute('aria-label'), s.querySelectorAll('path').length,"
            "          box.width, box.height]})"
        )
        # Rates, drift, outputs, what the variants do over a long stream, the search of one, and 31
        # inputs that are no counters.
        report = json.loads((finished / "results/report/report.json").read_text())
        built = report["variants"].values()
        streams = sum(variant["long_stream"]["chunks"] > 0 for variant in built)
        searches = sum("steps" in (v["build"].get("mixed_precision") or {}) for v in built)
        assert len(plots) == 3 + streams + searches + 31
        for label, paths, width, height in plots:
            assert len(label) > 30 and paths > 5 and width > 100 and height > 50
        rows = window.run(
            "return Object.fromEntries([...document.querySelectorAll('table')].map("
            "t => [t.id, t.tBodies[0].rows.length]))"
        )
        assert rows["rates"] == 4 and rows["variants-table"] == 3
        assert (rows["outputs-table"], rows["ranges"], rows["coverage"]) == (36, 31, 37)
        assert rows["jobs"] == len(report["jobs"]) and rows["drift-table"] > 1
        papers = set()
        for scheme in ("light", "dark"):
            window.show(page, scheme=scheme)
            papers.add(window.run("return getComputedStyle(document.body).backgroundColor"))
            faint = window.run(FAINT)
            assert not faint, f"{scheme}: {faint}"
        assert len(papers) == 2
        assert window.messages() == []
        assert window.requests() == {page.as_uri()}


OVERFLOWING = """
return [...document.body.querySelectorAll('*')].filter(e => {
  if (e.closest('.wide, pre, svg')) return false;
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map(e => e.outerHTML.slice(0, 80))
"""
"""Elements that stick out of the window, those in boxes that scroll left out."""


HINTS = """
return [...document.querySelectorAll('.wide')].map(box => [
  box.scrollWidth > box.clientWidth,
  box.querySelector('.swipe').getBoundingClientRect().height > 5,
]);
"""
"""Whether each table is wider than its place, and whether it says so."""

SMALLEST = """
return Math.min(...[...document.querySelectorAll('svg.plot')].flatMap(svg => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return [...svg.querySelectorAll('text')]
    .map(text => scale * parseFloat(getComputedStyle(text).fontSize));
}));
"""
"""Height in CSS pixels of the smallest text in a plot."""

FAINT = """
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const paper = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if ((numbers(colour)[3] ?? 1) > 0.5) return colour;
  }
  return 'rgb(255, 255, 255)';
};
return [...document.body.querySelectorAll('*')].filter(e =>
  [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
).map(e => {
  const style = getComputedStyle(e);
  const [a, b] = [light(e.closest('svg') ? style.fill : style.color), light(paper(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return [ratio, e.textContent.trim().slice(0, 40)];
}).filter(([ratio]) => ratio < 4.5)
"""
"""Texts with less contrast to what is behind them than 4.5 to 1 (WCAG 2.1, level AA)."""


def test_report_of_snakemake_is_built_with_captions(finished, tmp_path):
    done = snakemake(finished, "--report", str(tmp_path / "report.zip"))
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = archive.namelist()
        page = archive.read(next(n for n in names if n.endswith("/report.html"))).decode()
        (embedded,) = [name for name in names if name.endswith("/index.html")]
        assert archive.read(embedded) == (finished / "results/report/index.html").read_bytes()
    assert f"fall of {DRIFT_DB:g} dB" in page
    assert f"More than {100 * CLIPPED:g} % of an input" in page
    assert "span: 1 is all of it" in page and "made of each utterance" in page


def test_stages_of_the_report_are_the_workflows(finished):
    """The report's table has every rule that ends in it, with the jobs of this run."""
    done = run(finished, "--rulegraph", "dot")
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)"', done.stdout, re.MULTILINE))
    edges = re.findall(r"^\s*(\d+) -> (\d+)", done.stdout, re.MULTILINE)
    real = networkx.DiGraph((names[a], names[b]) for a, b in edges)
    report = json.loads((finished / "results/report/report.json").read_text())
    assert set(report["jobs"]) == networkx.ancestors(real, "report")
    jobs = {rule: entry["jobs"] for rule, entry in report["jobs"].items()}
    assert (jobs["traces"], jobs["evaluate"], jobs["decode"]) == (len(shards(finished)), 2, 3)
    assert report["jobs"]["quantize"]["seconds"] > 1


def test_histograms_count_every_value_of_the_calibration_rows_and_of_the_evaluation(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    inputs = report["variants"]["int8"]["inputs"]
    model = contract.Contract.load(finished / "results/model.json")
    sizes = {t.name: math.prod(t.shape) for t in model.inputs if t.dtype == "float32"}
    assert set(inputs) == set(sizes)
    arrays = finished / "results/calibration"
    lines = (arrays / "dataset.txt").read_text().splitlines()
    for position, tensor in enumerate(model.inputs):
        if tensor.name not in inputs:
            continue
        found = inputs[tensor.name]
        rows = [np.load(arrays / line.split()[position]) for line in lines]
        # With the algorithm `normal` the range is that of the rows.
        assert (found["low"], found["high"]) == (np.min(rows), np.max(rows))
        assert sum(found["rows_counts"]) == sizes[tensor.name] * len(rows)
        chunks = report["variants"]["int8"]["chunks"]
        assert sum(found["counts"]) == sizes[tensor.name] * chunks
        assert found["rows_outside"] == 0 <= found["outside"] < 1
    assert report["variants"]["fp16"]["inputs"] == {}


def test_variant_that_failed_is_in_the_report_with_its_reason(finished, tmp_path):
    """Written by the library from the finished run's files, with a build.json that says so."""
    results = finished / "results"
    reason = "rknn-toolkit2's hybrid_quantization_step1 failed: <no> such layer"
    odd = tmp_path / "odd/build.json"
    odd.parent.mkdir()
    odd.write_text(json.dumps({"platform": "rk3588", "dtype": "w8a8", "failure": reason}))
    scores = json.loads((results / "scores/scores.json").read_text())
    del scores["models"]["fp16"]
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    missing = [tmp_path / "none"]
    files = {
        name: figures.VariantFiles(
            build=results / f"variants/{name}/build.json",
            toolkit=results / f"variants/{name}/toolkit",
            evaluations=sorted((results / f"evaluation/{name}").glob("*.parquet")),
            histograms=sorted((results / f"evaluation/{name}").glob("*.histograms.json")),
            times=sorted((results / f"evaluation/{name}").glob("*.time.json")),
            long_stream=min((results / f"evaluation/{name}").glob("*.stream.json")),
            layers=results / f"variants/{name}/layers.tsv",
        )
        for name in ("int8", "fp16")
    }
    files["odd"] = figures.VariantFiles(odd, odd.parent, missing, missing, missing, *2 * missing)
    parts = ("decoder", "joiner")
    figures.write(
        model=figures.ModelFiles(
            encoder=finished / "models/demo/encoder.onnx",
            contract=results / "model.json",
            prepared=results / "prepared/prepared.json",
        ),
        audio=figures.AudioFiles(
            indexes={"calibration": sorted((results / "index/calibration").glob("*.tsv"))},
            overlap=results / "index/overlap.tsv",
            sample=results / "calibration/sample.tsv",
            coverage=results / "calibration/coverage.tsv",
            outliers=results / "calibration/outliers.tsv",
            chunk_tables=list((results / "traces").glob("*.parquet")),
        ),
        variants=files,
        best_file=results / "best.json",
        texts=figures.TextFiles(
            scores=tmp_path / "scores.json",
            texts=results / "scores/texts.tsv",
            parts=[results / f"recognizer/{part}.rknn" for part in parts],
            verified=[results / f"recognizer/{part}.json" for part in parts],
            layers=[results / f"recognizer/{part}.layers.tsv" for part in parts],
        ),
        run=figures.Run(
            settings={
                **{"calibration": {"seed": 0}, "platform": "rk3588", "results": "results"},
                **{"toolkit": "2.3.2"},
                "evaluation": {"board_costs": None, "board_result": None},
            },
            warnings=[],
            benchmarks=Benchmarks({}, {}),
        ),
        outputs=figures.Outputs(
            json=tmp_path / "report.json",
            markdown=tmp_path / "report.md",
            html={"en": tmp_path / "index.html"},
            summary=tmp_path / "summary.txt",
        ),
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["variants"]["odd"]["failure"] == reason
    assert "outputs" not in report["variants"]["odd"]
    assert report["variants"]["int8"]["outputs"]
    assert f"variant odd could not be built: {reason}" in report["warnings"]
    page = (tmp_path / "index.html").read_text()
    assert f"failed: {markupsafe.escape(reason)}" in page
    # One page alone has nothing to link to.
    assert "hreflang" not in page
    assert f"| odd | failed: {reason} |" in (tmp_path / "report.md").read_text()
    assert f"odd: failed: {reason}" in (tmp_path / "summary.txt").read_text().splitlines()


def test_texts_are_compared_with_the_float_models_own_where_there_are_no_transcripts(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    found = report["recognition"]
    assert (found["utterances"], found["transcribed"]) == (EVALUATION_FILES, 0)
    assert list(found["models"]) == ["float", "int8", "fp16", "rknn"]
    assert found["models"]["fp16"]["same"]["same"] == EVALUATION_FILES
    assert found["best"] == "int8"
    summary = (finished / "results/report/summary.txt").read_text().splitlines()
    assert summary[-1].startswith("WER against the float model's own text on 2 utterances")
    page = (finished / "results/report/index.html").read_text().replace("\u00a0", " ")
    assert "Not shown yet: 2 utterances cannot tell whether int8 changes more than 3 %" in page
    assert summary[0] == report["verdict"]["headline"]
    assert all(f'<th scope="row">e{number}</th>' in page for number in range(EVALUATION_FILES))
