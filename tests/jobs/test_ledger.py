"""What a job has used against what it would get now: content, settings, versions, never time."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from zipquant.errors import UserError
from zipquant.jobs import content, integrity, ledger

SOURCE = "import onnxruntime\n"


@pytest.fixture
def job(tmp_path, monkeypatch) -> SimpleNamespace:
    """A job that was done: it has read a model, a library and a file of another job."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ledger, "_version", lambda package: "1.0")
    for name, text in {"model.onnx": "weights", "lib.py": SOURCE, "audio.wav": "speech"}.items():
        Path(name).write_text(text)
    Path("results/texts").mkdir(parents=True)
    Path("results/index.tsv").write_text("an index")
    integrity.seal("results", ["results/index.tsv"])
    params = {"seed": 3, "work": "results/variants", "reads": ["audio.wav"]}
    made = SimpleNamespace(
        output=["results/texts/0.tsv", "results/texts/1.tsv"],
        input=["model.onnx", "lib.py", "results/index.tsv"],
        params=params,
    )
    age(*made.input, "audio.wav")
    do(made)
    return made


def do(job: SimpleNamespace, results: str = "results", again: str = "") -> None:
    """Do a job as `job.run` does, without its work."""
    integrity.begin(results, job.output)
    origin = ledger.origin(results, job)
    origin.again = again
    for path in job.output:
        Path(path).write_text(path)
    ledger.check_unchanged(results, job, origin)
    integrity.seal(results, job.output, origin)


def age(*paths: str) -> None:
    """Give files a time of long ago, and wait until they are no longer fresh."""
    for path in paths:
        os.utime(path, (10**9, 10**9))
    time.sleep(1.1 * content.SETTLED_NS / 1e9)


def why(job: SimpleNamespace, results: str = "results") -> str:
    return ledger.Ledger(results).why(job)


def test_what_has_not_changed_is_not_made_again(job):
    assert why(job) == ""


@pytest.mark.parametrize("name", ["model.onnx", "lib.py", "audio.wav"])
def test_other_content_under_an_older_time_and_the_same_size_is_noticed(job, name):
    Path(name).write_text(Path(name).read_text()[::-1])
    age(name)
    assert why(job) == f"{name} has another content"


def test_touched_and_copied_files_and_a_checkout_and_back_change_nothing(job):
    for name in ("model.onnx", "lib.py", "audio.wav"):
        before = Path(name).read_bytes()
        Path(name).write_text("another commit")
        Path(name).unlink()
        Path(name).write_bytes(before)
    assert why(job) == ""


def test_unchanged_file_is_not_read_again(job, monkeypatch):
    monkeypatch.setattr(content, "digest", lambda path: pytest.fail(f"{path} was read"))
    assert why(job) == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 4}, "seed was 3, is 4"),
        ({"rows": 7}, "rows was not set, is 7"),
        ({"reads": []}, "audio.wav is no input any more"),
    ],
)
def test_other_parameters_are_noticed_without_notes_of_snakemake(job, change, expected):
    job.params |= change
    assert why(job) == expected


def test_long_parameters_are_compared_too(job):
    job.params["ids"] = [f"utterance {number}" for number in range(1000)]
    do(job)
    assert why(job) == ""
    job.params["ids"][500] = "another"
    assert why(job) == "ids was other, is other"


def test_added_input_and_changed_result_of_another_job_are_noticed(job):
    job.input.append("audio.wav")
    job.params["reads"] = []
    assert why(job) == ""
    Path("more.txt").touch()
    job.input.append("more.txt")
    assert why(job) == "more.txt is a new input"
    job.input.pop()
    Path("results/index.tsv").write_text("another index")
    integrity.seal("results", ["results/index.tsv"])
    assert why(job) == "<results>/index.tsv has another content"


def test_other_version_of_a_library_that_numbers_depend_on_is_noticed(job, monkeypatch):
    monkeypatch.setattr(ledger, "_version", lambda package: "1.1")
    assert why(job) == "onnxruntime was 1.0, is 1.1"
    assert ledger.Ledger("results", lambda: False).why(job) == ""


@pytest.mark.parametrize("path", ["results/texts/0.tsv", "results/texts/1.tsv"])
def test_deleted_damaged_and_unfinished_outputs_are_made_again(job, path, capsys):
    intact = Path(path).read_bytes()
    Path(path).unlink()
    assert why(job) == f"{path}: it is missing"
    Path(path).write_bytes(intact + b" ")
    assert why(job) == f"{path}: it has {len(intact) + 1} bytes instead of {len(intact)}"
    assert f"warning: {path} was damaged (it has" in capsys.readouterr().err
    integrity.discard("results", path, "a flipped bit")
    assert why(job) == f"{path}: {integrity.UNFINISHED}"


def test_result_that_is_not_to_be_kept_is_made_again(job):
    do(job, again="the toolkit failed")
    assert why(job) == "the toolkit failed"


def test_file_that_a_job_may_make_has_to_be_there_if_it_was_made(job):
    job.params["also"] = ["results/encoder.rknn", "results/never.made"]
    Path("results/encoder.rknn").write_text("RKNN")
    integrity.begin("results", ledger.outputs(job))
    made, left_out = ledger.split(job)
    assert left_out == ["results/never.made"]
    integrity.seal("results", made, ledger.origin("results", job))
    assert why(job) == f"results/never.made: {integrity.UNFINISHED}"
    integrity.forget("results", left_out)
    assert why(job) == ""
    Path("results/encoder.rknn").unlink()
    assert why(job) == "results/encoder.rknn: it is missing"


def test_results_that_were_moved_are_the_same(job):
    shutil.move("results", "elsewhere/results")
    for paths in (job.output, job.input):
        paths[:] = [path.replace("results/", "elsewhere/results/") for path in paths]
    job.params["work"] = "elsewhere/results/variants"
    assert why(job, "elsewhere/results") == ""


def test_job_that_was_never_done_is_left_to_snakemake(job):
    job.output = ["results/none.tsv"]
    assert why(job) == ""


def test_file_that_changes_after_the_start_of_the_run_is_refused(job):
    start = ledger.Ledger("results")
    start.look(job)
    start.seen.save()
    do(job)
    Path("model.onnx").write_text("swapped")
    with pytest.raises(UserError, match=r"model\.onnx has changed since this run has begun"):
        do(job)


def test_file_that_changes_during_a_job_is_refused(job):
    origin = ledger.origin("results", job)
    Path("audio.wav").write_text("others")
    with pytest.raises(UserError, match=r"audio\.wav has changed since the job has begun"):
        ledger.check_unchanged("results", job, origin)


@pytest.mark.parametrize("text", ["", "[]", "garbage", '{"model.onnx": 3}', '{"a": [[], 1, 2]}'])
def test_damaged_notes_of_what_was_seen_are_forgotten(job, text):
    seen = Path("results", integrity.SEEN)
    seen.write_text(text)
    assert why(job) == ""
    do(job)


def test_snakemake_that_does_not_ask_is_refused(monkeypatch):
    import snakemake.api  # noqa: F401 (the others import each other in circles)
    from snakemake.jobs import Job

    monkeypatch.delattr(Job, "output_mintime")
    with pytest.raises(UserError, match=r"has no Job\.output_mintime: install the version"):
        ledger.install(ledger.Ledger("results"))
