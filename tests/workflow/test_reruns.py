"""What a change computes again, and what it does not."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.audio import write_audio
from helpers.places import ROOT
from helpers.projects import (
    AUDIO,
    check_all_is_recorded,
    configure,
    planned,
    run,
    shards,
    snakemake,
)
from zipquant.audio import manifest


def test_transcripts_rerun_no_simulator_and_give_error_rates(project):
    rows = [f"e{n}\taudio/evaluation/e{n}.wav\tsix {'ten' * n}\n" for n in range(2)]
    (project / "spoken.tsv").write_text("id\tpath\ttext\n" + "".join(rows))
    configure(project, audio=AUDIO | {"evaluation": "spoken.tsv"})
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    warning = "1 of 2 transcripts hold words that the tokens in models/demo/tokens.txt cannot"
    assert f"warning: spoken.tsv: {warning} spell" in done.stderr
    assert "Evaluating" not in done.stderr and "Decoding float" not in done.stderr
    assert " jobs to do: report, bundle; their logs are in results/logs" in done.stderr
    assert "Job stats" not in done.stderr and "Provided resources" not in done.stderr
    report = json.loads((project / "results/report/report.json").read_text())
    assert report["warnings"][0].startswith(f"spoken.tsv: {warning}")
    found = report["recognition"]["models"]["int8"]["transcript"]["word"]
    # noise that is no speech: at best nothing is heard, and all 3 words are missing
    assert (found["units"], found["rate"] > 0) == (3, True)
    assert "\nWER on 2 utterances (3 words): float " in done.stderr
    assert done.stderr.splitlines()[-1] == f"next: {report['verdict']['next'][-1]}"


def test_second_run_does_nothing(finished):
    assert planned(finished) == {}


def test_what_other_settings_have_made_does_not_pass_for_a_part_of_this_run(project):
    """The report's folder has the pages of this run alone; what else is left is named."""
    pages = project / "results/report"
    assert (pages / "index.zh-CN.html").exists()
    configure(project, report={"language": "zh"}, variants={"fp16": None})
    done = run(project)
    assert [page.name for page in pages.glob("*.html")] == ["index.html"]
    left = "encoded/fp16, evaluation/fp16, texts/fp16, variants/fp16"
    note = f"note: not of this run but of other settings, in results: {left}"
    assert note in done.stderr.splitlines()
    check_all_is_recorded(project)
    assert planned(project) == {}
    configure(project)
    assert planned(project) == AFTER_DECODING


AFTER_QUANTIZE = {"quantize": 1, "evaluate": 1, "decode": 1}


AFTER_DECODING = {"choose": 1, "decode_rknn": 1, "score": 1, "bundle": 1, "report": 1}


def test_one_more_wav_reruns_its_shard_and_what_follows(project):
    write_audio(project / "audio/calibration/new.wav", 2.0, 50)
    assert planned(project) == {
        **{"index": 1, "overlap": 1, "features": 1, "traces": 1, "sample": 1, "calibration": 1},
        **{"prove": 1, "quantize": 1, "evaluate": 1, "decode": 1},
        **AFTER_DECODING,
    }


def test_evaluation_audio_reruns_no_build(project):
    write_audio(project / "audio/evaluation/new.wav", 1.0, 51)
    assert planned(project) == {
        **{"index": 1, "overlap": 1, "features": 1, "encode": 1, "evaluate": 2, "decode": 3},
        **{"verify": 1},
        **AFTER_DECODING,
    }


@pytest.mark.parametrize("output", ["index/overlap.tsv", "prepared/encoder.onnx", "model.json"])
def test_job_killed_before_it_is_registered_hides_nothing_from_the_plan(project, output):
    """Snakemake marks what a job is at work on; a run killed just after the job leaves the mark."""
    shutil.rmtree(project / "results/variants/fp16")
    configure(project, evaluation={"long_stream": 12, "one_step_chunks": 2})
    expected = planned(project)
    assert (expected["quantize"], expected["evaluate"]) == (1, 2)
    mark = base64.b64encode(f"results/{output}".encode()).decode()
    (project / ".snakemake/incomplete" / mark).touch()
    plan = planned(project)
    assert all(plan.get(rule, 0) >= count for rule, count in expected.items())
    assert plan != expected


def test_touched_model_and_audio_rerun_nothing(project):
    for path in ("models/demo/encoder.onnx", "audio/calibration/c1.wav"):
        (project / path).touch()
    assert planned(project) == {}


def test_changed_model_reruns_all_that_used_it(project):
    import onnx

    model = onnx.load(project / "models/demo/encoder.onnx")
    weight = next(w for w in model.graph.initializer if len(w.raw_data) > 1000)
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, project / "models/demo/encoder.onnx")
    assert planned(project) == {
        **{"inspect": 1, "traces": len(shards(project)), "sample": 1, "calibration": 1},
        **{"prepare": 1, "prove": 1, "quantize": 2, "encode": 1, "evaluate": 2, "decode": 3},
        **{"verify": 1, **AFTER_DECODING},
    }


def test_changed_model_with_a_time_of_long_ago_is_noticed_as_well(project):
    """As `cp -p`, `mv`, `tar` and `rsync -a` leave it."""
    for part in ("encoder", "joiner"):
        path = project / f"models/demo/{part}.onnx"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        os.utime(path, (10**9, 10**9))
    plan = planned(project)
    assert (plan["inspect"], plan["convert"], plan["quantize"], plan["encode"]) == (1, 2, 2, 1)


def test_touched_scripts_and_a_checkout_and_back_rerun_nothing(project):
    for path in [*(project / "scripts").rglob("*.py"), *(project / "rules").glob("*.smk")]:
        text = path.read_bytes()
        path.unlink()
        path.write_bytes(text)
    assert planned(project) == {}


def spelled(project: Path) -> list[str]:
    (project / "link").symlink_to("results")
    return ["./results", "results/", "models/../results", "link", str(project / "results")]


def test_changed_settings_are_noticed_without_notes_and_however_results_is_spelled(project):
    shutil.rmtree(project / ".snakemake")
    assert planned(project) == {}
    changed = {"platform": "rk3566", "calibration": {"rows": 12, "seed": 9}}
    configure(project, **changed)
    expected = planned(project)
    assert (expected["sample"], expected["quantize"], expected["convert"]) == (1, 2, 2)
    for results in spelled(project):
        configure(project, results=results, **changed)
        assert planned(project) == expected, results


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("calibration/dataset.txt", {"calibration": 1}),
        ("variants/int8/encoder.rknn", {"quantize": 1}),
        ("recognizer/decoder.rknn", {"convert": 1}),
        ("scores/scores.json", {"score": 1}),
        ("bundle/encoder.rknn", {"bundle": 1}),
    ],
)
def test_what_the_check_has_deleted_is_made_again_by_the_same_command(project, name, first):
    victim = project / "results" / name
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    command = [sys.executable, ROOT / "scripts/check_results.py", "results"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "1 damaged" in done.stdout, done.stdout
    assert not victim.exists()
    assert first.items() <= planned(project).items()


def test_other_versions_of_libraries_rerun_what_they_have_made(project, monkeypatch):
    stand_in = project / "new/onnxruntime-1.99.0.dist-info"
    stand_in.mkdir(parents=True)
    (stand_in / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.99.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(project / "new"))
    plan = planned(project)
    assert (plan["traces"], plan["encode"]) == (len(shards(project)), 1)
    assert "index" not in plan and "features" not in plan


def test_other_toolkit_builds_again_and_traces_nothing(project):
    configure(project, toolkit="2.2.0")
    after = {rule: 2 * count for rule, count in AFTER_QUANTIZE.items()}
    assert planned(project) == {"convert": 2, "verify": 1, **after, **AFTER_DECODING}


def test_audio_in_a_folder_whose_name_is_a_pattern_is_the_audio_that_is_used(project):
    folder = project / "other/x<y>"
    folder.mkdir(parents=True)
    for number in range(2):
        write_audio(folder / f"{{n}}{number}.wav", 1.1, 300 + number)
    configure(project, audio=AUDIO | {"evaluation": "other"})
    plan = planned(project)
    assert (plan["index"], plan["features"], plan["encode"], plan["evaluate"]) == (1, 1, 1, 2)


def test_other_seed_draws_anew_and_traces_nothing(project):
    configure(project, calibration={"rows": 12, "seed": 5})
    assert planned(project) == {
        **AFTER_SAMPLE,
        "sample": 1,
    }


def test_changed_variant_rebuilds_it_alone(project):
    configure(project, variants={"int8": {"method": "layer"}})
    assert planned(project) == {**AFTER_QUANTIZE, **AFTER_DECODING}


def test_other_preparation_prepares_and_builds_anew_and_traces_nothing(project):
    configure(project, preparation={"fold_constants": True})
    after = {rule: 2 * count for rule, count in AFTER_QUANTIZE.items()}
    assert planned(project) == {"prepare": 1, "prove": 1, **after, **AFTER_DECODING}


def test_other_tokens_decode_anew_and_run_no_encoder(project):
    tokens = project / "models/demo/tokens.txt"
    tokens.write_text(tokens.read_text().replace("nine", "neun"))
    assert planned(project) == {"decode": 3, "convert": 2, "verify": 1, **AFTER_DECODING}


def test_other_number_of_rows_draws_anew_and_traces_nothing(project):
    configure(project, calibration={"rows": 13})
    assert planned(project) == {**AFTER_SAMPLE, "sample": 1}


def shard_of(*names: str) -> set[int]:
    """The shards of some calibration files."""
    return {manifest.shard_of(name, 3) for name in names}


def remove(project: Path) -> set[int]:
    (project / "audio/calibration/c1.wav").unlink()
    return shard_of("c1")


def change(project: Path) -> set[int]:
    write_audio(project / "audio/calibration/c2.wav", 1.7, 77)
    return shard_of("c2")


def rename(project: Path) -> set[int]:
    (project / "audio/calibration/c3.wav").rename(project / "audio/calibration/d3.wav")
    return shard_of("c3", "d3")


def replace_by_another_of_long_ago(project: Path) -> set[int]:
    path = project / "audio/calibration/c4.wav"
    write_audio(path, 3.3, 78)
    os.utime(path, (10**9, 10**9))
    return shard_of("c4")


@pytest.mark.parametrize("edit", [remove, change, rename, replace_by_another_of_long_ago])
def test_edited_audio_reruns_its_shards_alone(project, edit):
    # A shard whose only file is gone has no jobs any more.
    remaining = len(edit(project) & used_shards(project))
    per_shard = {rule: remaining for rule in ("index", "features", "traces") if remaining}
    assert planned(project) == {**AFTER_SAMPLE, "sample": 1, "overlap": 1, **per_shard}


def used_shards(project: Path) -> set[int]:
    return shard_of(*(path.stem for path in (project / "audio/calibration").iterdir()))


def test_other_cores_and_lanes_rerun_nothing(project):
    assert planned(project, cores=1) == planned(project, cores=7) == {}
    configure(project, traces={"lanes": 3})
    # The report prints all settings.
    assert planned(project) == {"report": 1}


def test_copied_project_reruns_nothing_and_jobs_do_not_grow_with_the_audio(project):
    assert planned(project) == {}
    for number in range(60):
        shutil.copy(
            project / "audio/calibration/c1.wav", project / f"audio/calibration/n{number}.wav"
        )
    assert planned(project) == {
        **{"index": 3, "overlap": 1, "features": 3, "traces": 3, "sample": 1},
        **AFTER_SAMPLE,
    }


def test_other_joiner_converts_it_anew_and_builds_no_encoder(project):
    configure(project, recognizer={"joiner": "int8"})
    rerun = {"encode_calibration": len(used_shards(project)), "convert": 1, "verify": 1}
    rerun |= {"decode_rknn": 1, "score": 1, "bundle": 1, "report": 1}
    assert planned(project) == rerun
    run(project)
    manifest = json.loads((project / "results/bundle/manifest.json").read_text())
    assert manifest["recognizer"]["joiner"]["dtype"] == "int8"
    assert manifest["refusals"] == []
    assert "joiner int8" in (project / "results/bundle/README.md").read_text()


AFTER_SAMPLE = {"calibration": 1, "prove": 1, **AFTER_QUANTIZE, **AFTER_DECODING}
"""What follows a new sample: the float16 variant and the float model are not concerned."""


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("calibration/sampling", {"sample": 1}),
        ("traces/slides", {"traces": 3, "sample": 1}),
        ("traces/store", {"traces": 3, "sample": 1}),
        ("traces/chunk_table", {"traces": 3, "sample": 1}),
        ("calibration/dataset", {}),
    ],
)
def test_changed_library_module_reruns_the_rules_that_use_it(project, module, first):
    with open(project / f"scripts/zipquant/{module}.py", "a") as file:
        file.write("\n# A remark.\n")
    plan = planned(project)
    before_the_build = ("inspect", "index", "overlap", "features", "traces", "sample", "encode")
    assert {rule: plan[rule] for rule in before_the_build if rule in plan} == first
    assert plan["calibration"] == plan["report"] == 1
