"""Bad input: stopped early, with one plain line."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from helpers.audio import write_audio
from helpers.models import tiny_ctc, tiny_encoder
from helpers.projects import AUDIO, CALIBRATION_FILES, EVALUATION_FILES, configure, run, snakemake
from zipquant.audio import index
from zipquant.traces import chunk_table


def test_evaluation_without_a_board_ends_with_what_to_do(project):
    before = (project / "results/variants/int8/encoder.rknn").read_bytes()
    configure(project, evaluation={"target": "rk3588", "long_stream": 0})
    done = snakemake(project)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    message = r"^error: no rk3588 board can be used: connect it by USB .* set evaluation.target to"
    assert re.search(message, done.stderr, re.MULTILINE)
    assert (project / "results/variants/int8/encoder.rknn").read_bytes() == before


def refuse(project: Path, *arguments: str) -> str:
    """Run Snakemake, insist that it ends with one plain message before any job, return it."""
    done = snakemake(project, *arguments)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in output
    assert "rule" not in output
    (message,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert not (project / "results").exists()
    return message


def test_what_the_platform_does_not_have_is_refused(fresh):
    configure(fresh, variants={"int8": {"dtype": "w4a16"}})
    message = refuse(fresh)
    assert "variants.int8: rk3588 has no w4a16. Known for it: w8a8, float16; w4a16" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("▁one\nSEVEN @SEVEN\n", "keywords.txt, line 2: 'SEVEN' is not in "),
        ("", "keywords.txt is empty: write a keyword on each line, or set model.keywords"),
    ],
)
def test_wrong_keywords_are_refused(fresh, content, said):
    # Beside the encoder, where it is found.
    (fresh / "models/demo/keywords.txt").write_text(content, encoding="utf-8")
    assert said in refuse(fresh)


def test_keywords_for_a_ctc_model_are_refused(fresh):
    model = tiny_ctc(fresh / "models/ctc.onnx", tokens=3)
    (fresh / "models/tokens.txt").write_text("<blk> 0\na 1\nb 2\n")
    (fresh / "models/keywords.txt").write_text("a b\n")
    configure(fresh, model={"encoder": str(model)})
    assert "is a CTC model: sherpa-onnx's keyword spotter takes transducers" in refuse(fresh)


def test_folder_without_audio_is_refused(fresh):
    shutil.rmtree(fresh / "audio/calibration")
    assert "no audio at 'audio/calibration'" in refuse(fresh)
    (fresh / "audio/calibration").mkdir()
    assert "no audio found in 'audio/calibration'" in refuse(fresh)


def test_missing_model_is_refused(fresh):
    configure(fresh, model={"encoder": "models/none.onnx"})
    assert "no model at 'models/none.onnx'" in refuse(fresh)


def test_model_that_is_no_streaming_encoder_is_refused(fresh):
    tiny_encoder(fresh / "models/odd.onnx", counter_output="lens")
    configure(fresh, model={"encoder": "models/odd.onnx"})
    message = refuse(fresh)
    assert "models/odd.onnx is not a streaming encoder: input 'processed_lens'" in message
    assert "unpaired outputs: lens" in message


def test_unknown_platform_and_misspelt_key_are_refused(fresh):
    configure(fresh, platform="rk3558", calibraton={"rows": 3})
    message = refuse(fresh)
    assert "platform: 'rk3558' is not known, did you mean 'rk3588'?" in message
    assert "unknown key 'calibraton', did you mean 'calibration'?" in message


def test_tokens_of_another_model_are_refused(fresh):
    with open(fresh / "models/demo/tokens.txt", "a") as file:
        file.write("▁ten 11\n")
    assert "tokens.txt has 12 tokens, but models/demo/joiner.onnx gives 11" in refuse(fresh)


def test_transcripts_of_another_language_are_refused(fresh):
    rows = [f"e{number}\taudio/evaluation/e{number}.wav\t你好\n" for number in range(2)]
    (fresh / "spoken.tsv").write_text("id\tpath\ttext\n" + "".join(rows))
    configure(fresh, audio=AUDIO | {"evaluation": "spoken.tsv"})
    message = refuse(fresh)
    assert "spoken.tsv: 2 of 2 transcripts hold words" in message
    assert "the first is '你' in 'e0'" in message


def test_evaluation_audio_that_is_calibrated_with_stops_before_heavy_jobs(fresh):
    shutil.copy(fresh / "audio/calibration/c2.wav", fresh / "audio/evaluation/other_name.wav")
    done = snakemake(fresh)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "audio/evaluation/other_name.wav is evaluation audio, but has the same" in message
    assert "audio/calibration/c2.wav" in message
    assert not (fresh / "results/traces").exists()
    assert not (fresh / "results/variants").exists()


def test_overlap_can_be_only_warned_of(project):
    shutil.copy(project / "audio/calibration/c2.wav", project / "audio/evaluation/e0.wav")
    settings = {"variants": {"fp16": None}, "evaluation": {"long_stream": 0}}
    configure(project, audio=AUDIO | {"on_overlap": "warn"}, **settings)
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    (warning,) = [text for text in report["warnings"] if "calibration audio" in text]
    assert "the first is e0 (the same as c2)" in warning
    assert warning.split()[0] in (project / "results/report/index.html").read_text()


def test_bad_file_with_stop_ends_before_heavy_jobs_and_is_told_last(fresh):
    (fresh / "audio/calibration/broken.wav").write_text("no audio")
    configure(fresh, audio=AUDIO | {"on_bad_file": "stop"})
    done = snakemake(fresh)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(r"^error: 1 unusable .*broken\.wav: not readable", done.stderr, re.MULTILINE)
    assert not (fresh / "results/calibration/dataset.txt").exists()


def test_bad_file_is_skipped_and_named_in_the_report(project):
    (project / "audio/evaluation/broken.wav").write_text("no audio")
    configure(project, variants={"fp16": None}, evaluation={"long_stream": 0})
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    (problem,) = report["audio"]["evaluation"]["skipped"]
    assert "broken.wav: not readable as audio" in problem
    assert report["audio"]["evaluation"]["used"] == EVALUATION_FILES


def test_odd_names_and_bad_files_do_not_stop_the_rest(fresh):
    audio = fresh / "audio/calibration"
    odd = [
        "a space",
        'it\'s "quoted"',
        "语音-é",
        "br{a}ce",
        "x<y>",
        "<unk>[a-z]",
        "$(x);&*",
        "back\\slash",
    ]
    for number, name in enumerate(odd):
        write_audio(audio / f"{name}.wav", 1.0, 200 + number)
    (audio / "line\nbreak.wav").write_bytes((audio / "c1.wav").read_bytes())
    with open(os.fsencode(audio) + b"/n\xff.wav", "wb") as file:
        file.write((audio / "c1.wav").read_bytes())
    (audio / "text.wav").write_text("no audio")
    dataset = "results/calibration/dataset.txt"
    configure(fresh, calibration={"rows": 1000})
    run(fresh, dataset)
    tables = (fresh / "results/traces").glob("*.parquet")
    traced = set(pd.concat(map(chunk_table.read, tables))["utterance"])
    assert traced == {*odd, *(f"c{number}" for number in range(CALIBRATION_FILES))}
    indexes = (fresh / "results/index/calibration").glob("*.tsv")
    skipped = {e.path for path in indexes for e in index.read(path) if e.problem}
    assert {Path(path).name for path in skipped} == {
        *("line\\x0abreak.wav", "n\\xff.wav", "text.wav")
    }
    again = run(fresh, dataset)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_files_of_somebodys_own_in_the_results_folder_stop_the_run_and_stay(fresh):
    names = ["bundle/precious.txt", "calibration/arrays/mine.npy", "report/index.html", "best.json"]
    for name in names:
        path = fresh / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    configure(fresh, results="work")
    message = refuse(fresh)
    assert "no job of Zipquant has made" in message
    assert all(name in message for name in names)
    assert all((fresh / "work" / name).read_text() == "mine" for name in names)


@pytest.mark.parametrize("results", ["scripts", ".git", "audio_link", "/dev/null", "a" * 300])
def test_results_folder_that_is_none_is_refused(fresh, results):
    (fresh / "audio_link").symlink_to("audio/calibration")
    configure(fresh, results=results)
    assert "config: results: " in refuse(fresh)
