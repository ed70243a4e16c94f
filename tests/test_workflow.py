"""The workflow itself, run by Snakemake: end to end with the real toolkit, reruns, bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from conftest import ROOT, SHARED_SPEECH, needs_shared_speech, tiny_encoder, write_audio
from zipquant import chunk_table, contract, index, manifest, rknn_file

PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "profiles", "models")
CALIBRATION_FILES, EVALUATION_FILES = 6, 2
AUDIO = {
    "calibration": "audio/calibration",
    "evaluation": "audio/evaluation",
    "shards": {"calibration": 3, "evaluation": 1},
}


def snakemake(project: Path, *arguments: str, cores: int = 2) -> subprocess.CompletedProcess:
    """Run Snakemake in a project folder with the settings in its my.yaml."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", *arguments),
            *("--cores", str(cores), "--configfile", "my.yaml"),
        ],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )


def run(project: Path, *arguments: str, cores: int = 2) -> subprocess.CompletedProcess:
    """Run Snakemake and insist that it succeeds."""
    done = snakemake(project, *arguments, cores=cores)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def planned(project: Path, *targets: str, cores: int = 2) -> dict[str, int]:
    """Return how many jobs of each rule Snakemake would run, the target rule left out."""
    done = run(project, *targets, "--dry-run", "--quiet", "rules", cores=cores)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}


def configure(project: Path, **changes) -> None:
    """Write the project's my.yaml."""
    settings = {
        "audio": AUDIO,
        "calibration": {"rows": 12},
    }
    (project / "my.yaml").write_text(yaml.safe_dump(settings | changes))


def make_project(folder: Path) -> Path:
    """Copy the workflow to a folder and give it a little audio of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, folder / part)
    for number in range(CALIBRATION_FILES):
        write_audio(folder / f"audio/calibration/c{number}.wav", 1.0 + 0.3 * number, number)
    for number in range(EVALUATION_FILES):
        write_audio(folder / f"audio/evaluation/e{number}.wav", 1.2, 100 + number)
    configure(folder)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A project that has run through, toolkit and all; never changed by a test."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    run(project)
    return project


@pytest.fixture
def project(finished, tmp_path):
    """A copy of the finished project, for a test to change."""
    return Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))


def test_whole_line_ends_with_a_built_model_and_figures(finished):
    results = finished / "results"
    encoder = results / "variants/int8/encoder.rknn"
    assert encoder.read_bytes()[:4] == b"RKNN"
    model = contract.Contract.load(results / "model.json")
    assert len(model.inputs) == 36
    types = rknn_file.io_types(encoder)
    assert {tensor.name for tensor in model.inputs} | set(model.outputs) == set(types)
    assert set(types.values()) == {"float16", "int64"}
    assert types["x"] == "float16" and types["cached_len_0"] == "int64"
    build = json.loads((encoder.parent / "build.json").read_text())
    assert build["running_means"] == [f"new_cached_avg_{stack}" for stack in range(5)]
    assert build["refusals"] == []
    report = json.loads((results / "report/report.json").read_text())
    # A wrong layout, a lost state or an uncalibrated model each fall far below these.
    for variant, least in (("int8", 25), ("fp16", 50)):
        figures = report["variants"][variant]["encoder_out"]
        assert figures["one step"]["sqnr_db"] > least
        assert figures["free-running"]["sqnr_db"] > least
        assert figures["free-running"]["cosine"] > 0.998
    assert report["variants"]["int8"]["build"]["bytes"] == encoder.stat().st_size
    assert report["audio"]["calibration"]["used"] == CALIBRATION_FILES


def test_every_row_of_the_dataset_is_complete_and_its_states_are_real(finished):
    results = finished / "results"
    model = contract.Contract.load(results / "model.json")
    lines = (results / "calibration/dataset.txt").read_text().splitlines()
    sample = (results / "calibration/sample.tsv").read_text().splitlines()[1:]
    assert len(lines) == len(sample) == 12
    for line, chosen in zip(lines, sample, strict=True):
        arrays = [np.load(results / "calibration" / path) for path in line.split(" ")]
        for tensor, array in zip(model.inputs, arrays, strict=True):
            assert (array.shape, str(array.dtype)) == (tensor.shape, tensor.dtype)
        first = chosen.split("\t")[2] == "0"
        for tensor, array in zip(model.inputs[1:], arrays[1:], strict=True):
            assert array.any() != first, tensor.name


def test_noise_of_the_toolkit_stays_in_the_log(finished):
    log = (finished / "results/logs/quantize/int8.log").read_text()
    assert "rknn-toolkit2 version" in log


def test_page_is_self_contained_and_lists_every_output(finished):
    page = (finished / "results/report/index.html").read_text()
    assert not re.search(r"(src|href)=|url\(|@import|https?://", page)
    assert page.count("<code>new_cached_") == 35
    assert "encoder output" in (finished / "results/report/report.md").read_text()


def test_texts_are_compared_with_the_float_models_own_where_there_are_no_transcripts(finished):
    report = json.loads((finished / "results/report/report.json").read_text())
    found = report["recognition"]
    assert (found["utterances"], found["transcribed"]) == (EVALUATION_FILES, 0)
    assert list(found["models"]) == ["float", "int8", "fp16", "rknn"]
    assert found["models"]["fp16"]["same"]["same"] == EVALUATION_FILES
    assert found["best"] == "int8"
    summary = (finished / "results/report/summary.txt").read_text().splitlines()
    assert summary[-1].startswith("WER against the float model's own text on 2 utterances")
    page = (finished / "results/report/index.html").read_text()
    assert "2 utterances decide little" in page
    assert all(f"<td>e{number}</td>" in page for number in range(EVALUATION_FILES))


def test_bundle_is_complete_and_what_a_stock_sherpa_onnx_loads(finished):
    folder = finished / "results/bundle"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["variant"] == "int8" and manifest["refusals"] == []
    models = ("decoder.rknn", "encoder.rknn", "joiner.rknn")
    assert sorted(manifest["files"]) == [*models, "tokens.txt"]
    for name in models:
        assert (folder / name).read_bytes()[:4] == b"RKNN"
    encoder = finished / "results/variants/int8/encoder.rknn"
    assert (folder / "encoder.rknn").read_bytes() == encoder.read_bytes()
    metadata = rknn_file.custom_string(folder / "encoder.rknn").split(";")
    assert {"T=39", "decode_chunk_len=32", "context_size=2"} <= set(metadata)
    page = (folder / "README.md").read_text()
    assert "--encoder=encoder.rknn --decoder=decoder.rknn" in page and "takes these files" in page
    with tarfile.open(finished / "results/bundle.tar") as tar:
        # Snakemake leaves a time stamp in a folder that a rule makes.
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert {name.removeprefix("bundle/") for name in tar.getnames()} == names


def test_transcripts_rerun_no_simulator_and_give_error_rates(project):
    rows = [f"e{n}\taudio/evaluation/e{n}.wav\tsix {'ten' * n}\n" for n in range(2)]
    (project / "spoken.tsv").write_text("id\tpath\ttext\n" + "".join(rows))
    configure(project, audio=AUDIO | {"evaluation": "spoken.tsv"})
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    warning = "1 of 2 transcripts hold words that the tokens in models/demo/tokens.txt cannot"
    assert f"warning: spoken.tsv: {warning} spell" in done.stderr
    assert "Evaluating" not in done.stderr and "Decoding float" not in done.stderr
    report = json.loads((project / "results/report/report.json").read_text())
    assert report["warnings"][0].startswith(f"spoken.tsv: {warning}")
    found = report["recognition"]["models"]["int8"]["transcript"]["word"]
    # noise that is no speech: at best nothing is heard, and all 3 words are missing
    assert (found["units"], found["rate"] > 0) == (3, True)
    assert done.stderr.splitlines()[-1].startswith("WER on 2 utterances (3 words): float ")


def test_second_run_does_nothing(finished):
    assert planned(finished) == {}


AFTER_DECODING = {"choose": 1, "decode_rknn": 1, "score": 1, "bundle": 1, "report": 1}


def test_one_more_wav_reruns_its_shard_and_what_follows(project):
    write_audio(project / "audio/calibration/new.wav", 2.0, 50)
    assert planned(project) == {
        **{"index": 1, "overlap": 1, "features": 1, "traces": 1, "sample": 1, "calibration": 1},
        **{"quantize": 1, "evaluate": 1, "decode": 1},
        **AFTER_DECODING,
    }


def test_evaluation_audio_reruns_no_build(project):
    write_audio(project / "audio/evaluation/new.wav", 1.0, 51)
    assert planned(project) == {
        **{"index": 1, "overlap": 1, "features": 1, "encode": 1, "evaluate": 2, "decode": 3},
        **AFTER_DECODING,
    }


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
        **{"quantize": 2, "encode": 1, "evaluate": 2, "decode": 3},
        **AFTER_DECODING,
    }


def test_other_seed_draws_anew_and_traces_nothing(project):
    configure(project, calibration={"rows": 12, "seed": 5})
    assert planned(project) == {
        **{"sample": 1, "calibration": 1, "quantize": 1, "evaluate": 1, "decode": 1},
        **AFTER_DECODING,
    }


def test_changed_variant_rebuilds_it_alone(project):
    configure(project, variants={"int8": {"method": "layer"}})
    assert planned(project) == {"quantize": 1, "evaluate": 1, "decode": 1, **AFTER_DECODING}


def test_other_tokens_decode_anew_and_run_no_encoder(project):
    tokens = project / "models/demo/tokens.txt"
    tokens.write_text(tokens.read_text().replace("nine", "neun"))
    assert planned(project) == {"decode": 3, "convert": 2, **AFTER_DECODING}


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


AFTER_SAMPLE = {"calibration": 1, "quantize": 1, "evaluate": 1, "decode": 1, **AFTER_DECODING}
"""What follows a new sample: the float16 variant and the float model are not concerned."""


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("sampling", {"sample": 1}),
        ("slides", {"traces": 3, "sample": 1}),
        ("trace_store", {"traces": 3, "sample": 1}),
        ("chunk_table", {"traces": 3, "sample": 1}),
        ("calibration", {}),
    ],
)
def test_changed_library_module_reruns_the_rules_that_use_it(project, module, first):
    with open(project / f"scripts/zipquant/{module}.py", "a") as file:
        file.write("\n# A remark.\n")
    plan = planned(project)
    before_the_build = ("inspect", "index", "overlap", "features", "traces", "sample", "encode")
    assert {rule: plan[rule] for rule in before_the_build if rule in plan} == first
    assert plan["calibration"] == plan["report"] == 1


def test_sampling_opens_no_model(finished):
    """Its rule has no model among its inputs, and its code nothing to open one with."""
    code = "import sys; import zipquant.sampling; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(finished / "scripts")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    # It reads model.json with the module that reads ONNX files as well, hence no word of onnx.
    assert not {"onnxruntime", "rknn", "h5py"} & set(done.stdout.split())
    rule = (finished / "rules/calibration.smk").read_text().split("rule calibration")[0]
    assert "model" not in rule and "traces/{shard}.h5" not in rule


@pytest.mark.parametrize(
    "name", ["traces/{}.h5", "traces/{}.parquet", "features/calibration/{}.h5"]
)
def test_damaged_file_is_named_and_made_anew_by_the_same_command(project, name):
    shard = shards(project)[0].stem
    victim = project / "results" / name.format(shard)
    intact = victim.read_bytes()
    victim.write_bytes(intact[: len(intact) // 2] + b"damage" + intact[len(intact) // 2 + 6 :])
    # Something that makes its reader run: another sample, or a trace that is gone.
    if name.startswith("features"):
        (project / f"results/traces/{shard}.h5").unlink()
    configure(project, calibration={"rows": 1000})
    dataset = "results/calibration/dataset.txt"
    done = snakemake(project, dataset)
    assert done.returncode != 0
    path = victim.relative_to(project)
    assert re.search(rf"^error: {path} was damaged .*: run the same", done.stderr, re.MULTILINE)
    run(project, dataset)
    assert victim.read_bytes() == intact
    for entry in (project / "results").rglob("*"):
        assert not entry.name.endswith((".part.h5", ".spool.h5")), entry


def shards(project: Path) -> list[Path]:
    """The shards that hold calibration audio."""
    return list((project / "results/traces").glob("*.h5"))


@pytest.mark.parametrize(("count", "cores"), [(1, 1), (5, 2)])
def test_calibration_set_is_the_same_for_any_shards_and_cores(finished, tmp_path, count, cores):
    project = make_project(tmp_path / "project")
    shards = {"calibration": count, "evaluation": 1}
    configure(project, audio=AUDIO | {"shards": shards}, traces={"lanes": count})
    run(project, "results/calibration/dataset.txt", cores=cores)
    expected = finished / "results/calibration"
    produced = project / "results/calibration"
    for path in [Path("dataset.txt"), *(p.relative_to(expected) for p in expected.glob("*/*.npy"))]:
        assert (produced / path).read_bytes() == (expected / path).read_bytes()


@pytest.mark.parametrize("killed", ["run", "job"])
def test_killed_run_goes_on_with_the_same_command_and_keeps_others_out(finished, project, killed):
    dataset = "results/calibration/dataset.txt"
    for path in shards(project):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in (project / "results").glob("features/*/*")}
    first = subprocess.Popen(
        [sys.executable, "-m", "snakemake", dataset, "--cores", "1", "--configfile", "my.yaml"],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    while not list(project.glob("results/traces/.*.part.h5")):
        assert first.poll() is None
        time.sleep(0.002)
    victim = first.pid
    if killed == "job":
        script = project / ".snakemake/scripts"
        (victim,) = {
            process.pid
            for process in psutil.Process(first.pid).children(recursive=True)
            if any(argument.startswith(str(script)) for argument in process.cmdline())
            and process.parent().name() == "bash"
        }
    else:
        assert "error: another run (process" in snakemake(project, dataset).stderr
    os.kill(victim, signal.SIGKILL)
    assert first.wait(30) != 0
    run(project, dataset)
    for path in (finished / "results/calibration").rglob("*.*"):
        if path.suffix in (".npy", ".txt"):
            produced = project / path.relative_to(finished)
            assert produced.read_bytes() == path.read_bytes()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(project.glob("results/**/.*.part*"))


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


@pytest.fixture
def fresh(tmp_path):
    """A project that has not run yet."""
    return make_project(tmp_path / "project")


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
    configure(project, audio=AUDIO | {"on_overlap": "warn"}, variants={"fp16": None})
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    (warning,) = report["warnings"]
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
        "line\nbreak",
        "tab\there",
        "$(x);&*",
        "back\\slash",
    ]
    for number, name in enumerate(odd):
        write_audio(audio / f"{name}.wav", 1.0, 200 + number)
    (audio / "br{a}ce.wav").write_bytes((audio / "c1.wav").read_bytes())
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
    assert {Path(path).name for path in skipped} == {"br{a}ce.wav", "n\\xff.wav", "text.wav"}
    again = run(fresh, dataset)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_failed_build_leaves_no_model_and_a_plain_error(project):
    arrays = project / "results/calibration/arrays"
    victim = next(arrays.glob("x.*.npy"))
    victim.write_bytes(victim.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    configure(project, variants={"int8": {"algorithm": "kl_divergence"}})
    done = snakemake(project)
    assert done.returncode != 0
    damaged = rf"^error: results/calibration/arrays was damaged \({victim.name}: it has another"
    assert re.search(damaged, done.stderr, re.MULTILINE)
    assert not (project / "results/variants/int8/encoder.rknn").exists()


@needs_shared_speech
def test_real_speech_runs_through_by_config_alone(tmp_path):
    project = make_project(tmp_path / "project")
    speech = sorted((SHARED_SPEECH / "mandarin").glob("*.wav"))
    for name, paths in (("calibration", speech[:20]), ("evaluation", speech[20:])):
        rows = "".join(f"{path.stem}\t{path}\n" for path in paths)
        (project / f"{name}.tsv").write_text(f"id\tpath\n{rows}")
    audio = {"calibration": "calibration.tsv", "evaluation": "evaluation.tsv"}
    settings = {"evaluation": {"max_utterances": 1}, "calibration": {"rows": 60}}
    configure(project, audio=audio, variants={"fp16": None}, **settings)
    run(project)
    report = json.loads((project / "results/report/report.json").read_text())
    assert report["recognition"]["utterances"] == 1
    assert report["variants"]["int8"]["chunks"] > 5
    assert report["variants"]["int8"]["encoder_out"]["free-running"]["sqnr_db"] > 20
