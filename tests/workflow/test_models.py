"""Models as people have them: what a dry run makes of them, from any folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jinja2
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from helpers.places import DEMO_MODEL, ROOT
from helpers.projects import configure, planned, snakemake
from zipquant import bundle

ICEFALL = ROOT.parent / "shared/icefall"


def dry_run(folder: Path, *arguments: str) -> str:
    """Plan in a folder that is not the project's; return what Snakemake says."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*(sys.executable, "-m", "snakemake"), "-n", "--cores", "1", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PATH": path},
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_workflow_runs_from_any_folder(tmp_path):
    assert "decode_rknn" in dry_run(tmp_path, "-s", str(ROOT / "Snakefile"), "--quiet", "rules")
    (tmp_path / "Snakefile").write_text(
        f'module zq:\n    snakefile: "{ROOT / "Snakefile"}"\n    config: {{"platform": "rk3566"}}\n'
        "use rule * from zq as zq_*\n"
        'rule mine:\n    default_target: True\n    input: "results/report/report.md"\n'
    )
    assert "zq_quantize" in dry_run(tmp_path, "--quiet", "rules")


@pytest.mark.skipif(not ICEFALL.is_dir(), reason="needs the folder shared/icefall")
@pytest.mark.parametrize("name", ["zipformer", "zipformer2", "zipformer2-ctc"])
def test_a_folder_alone_is_a_model(tmp_path, name):
    (tmp_path / "my.yaml").write_text(f"model: {ICEFALL / name}\n")
    arguments = ("-s", str(ROOT / "Snakefile"), "--quiet", "rules", "--configfile", "my.yaml")
    said = dry_run(tmp_path, *arguments)
    assert ("decode_rknn" in said) == (name != "zipformer2-ctc")
    assert "decode" in said and "restore" not in said
    assert "is taken, the float32 encoder" in said
    assert "so they are left out, and error rates are against the float model's own text" in said


def test_int8_is_refused_or_restored(fresh):
    shutil.rmtree(fresh / "models/demo")
    (fresh / "models/demo").mkdir()
    for part in ("encoder", "decoder", "joiner"):
        target = fresh / f"models/demo/{part}-epoch-99-avg-1.int8.onnx"
        quantize_dynamic(
            DEMO_MODEL.with_name(f"{part}.onnx"),
            target,
            op_types_to_quantize=["MatMul", "Gather"] if part == "decoder" else ["MatMul"],
            weight_type=QuantType.QInt8,
        )
    shutil.copy(DEMO_MODEL.with_name("tokens.txt"), fresh / "models/demo")
    refused = snakemake(fresh, "-n")
    assert refused.returncode != 0
    assert "is the int8 model (DynamicQuantizeLinear, MatMulInteger)" in refused.stderr
    configure(fresh, model={"restore": True})
    jobs = planned(fresh)
    assert (jobs["restore"], jobs["prove_restored"], jobs["decode_rknn"]) == (3, 1, 1)


def test_weights_in_another_file_are_put_into_one(fresh):
    path = fresh / "models/demo/encoder.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="encoder.onnx.data")
    assert planned(fresh)["restore"] == 1


def test_an_encoder_alone_has_no_command_in_its_bundle():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(bundle.LIBRARY / "templates"), trim_blocks=True
    )
    page = environment.get_template("bundle.md.j2")
    shared = {"build": {}, "variant": "int8", "refusals": [], "choice": [], "accuracy": None}
    shared["lite"] = "rknn-toolkit-lite2==2.3.2"
    shared["restored"] = {"joiner": {"precision": "int8"}, "encoder": {"precision": "float32"}}
    alone = page.render(shared, transducer=False, whole=False)
    assert "sherpa-onnx --provider" not in alone and "transcribe.py" not in alone
    whole = page.render(shared, transducer=False, whole=True)
    assert "--zipformer2-ctc-model" in whole
    assert "The joiner was made of a model in int8, turned back into float32" in whole
    assert "The encoder was made of" not in whole


def test_a_bundle_says_which_features_its_model_takes():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(bundle.LIBRARY / "templates"), trim_blocks=True
    )
    page = environment.get_template("bundle.md.j2")
    shared = {"build": {}, "variant": "int8", "choice": [], "accuracy": None, "restored": {}}
    shared |= {"transducer": True, "whole": True, "lite": "rknn-toolkit-lite2==2.3.2"}
    whisper = page.render(shared, refusals=["it takes Whisper's features"], features="whisper")
    assert "cannot use this bundle" in whisper and "--provider=rknn" not in whisper
    assert "which `transcribe.py` computes as sherpa-onnx does" in whisper
    wide = page.render(shared, refusals=[], features="fbank", feat_dim=128)
    assert "--feat-dim=128" in wide
    assert "--feat-dim" not in page.render(shared, refusals=[], features="fbank", feat_dim=None)
