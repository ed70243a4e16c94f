"""How long a run still takes, in words."""

import pytest

from zipquant.jobs import time_left
from zipquant.jobs.time_left import TimeLeft


def test_jobs_of_this_run_go_before_those_of_earlier_ones():
    left = TimeLeft({"traces": 8}, {"traces": 30.0}, cores=2)
    assert left.in_words(0) == "about 2 min left"
    for number in range(4):
        left.begin(number, "traces", 100 * number)
        left.finish(number, 100 * number + 100)
    assert left.expected("traces") == 100
    # Four are left, two at once.
    assert left.in_words(400) == "about 3 min left"


def test_what_is_not_known_is_not_guessed():
    left = TimeLeft({"index": 1, "traces": 4, "quantize": 1}, {"traces": 120.0}, cores=2)
    assert left.in_words(0) == "at least 4 min left"
    assert TimeLeft({"traces": 1, "quantize": 1}, {"traces": 40.0}, 1).in_words(0) == ""
    assert TimeLeft({"quantize": 1}, {}, 1).in_words(0) == ""


def test_running_job_counts_with_what_it_has_still_to_do():
    left = TimeLeft({"quantize": 1}, {"quantize": 100.0}, cores=4)
    left.begin("a", "quantize", 0)
    assert left.in_words(0) == "about 2 min left"
    assert left.in_words(60) == "about 40 s left"
    # It takes longer than it was expected to.
    assert left.in_words(200) == ""
    # Tried again, it begins again.
    left.begin("a", "quantize", 200)
    assert left.in_words(200) == "about 2 min left"


def test_more_cores_do_not_make_the_longest_job_shorter():
    left = TimeLeft({"quantize": 1, "index": 3}, {"quantize": 300.0, "index": 1.0}, cores=16)
    assert left.in_words(0) == "about 5 min left"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "10 s"), (44, "40 s"), (94, "90 s"), (100, "2 min"), (5000, "83 min"), (9000, "2.5 h")],
)
def test_times_are_as_coarse_as_an_estimate(seconds, said):
    assert time_left.rounded(seconds) == said


def test_benchmark_files_of_earlier_runs_are_read_and_damaged_ones_are_not(tmp_path):
    for name, text in {"a/0": "s\th:m:s\n4.0\t0:00:04\n", "a/1": "s\n8.0\n", "b": "\x00"}.items():
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    patterns = {"traces": "benchmarks/a/*.tsv", "sample": "benchmarks/b.tsv", "none": "x/*.tsv"}
    assert time_left.earlier(patterns, tmp_path) == {"traces": 6.0}
    absolute = {"traces": f"{tmp_path}/benchmarks/a/*.tsv"}
    assert time_left.earlier(absolute) == {"traces": 6.0}
