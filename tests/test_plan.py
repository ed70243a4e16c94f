"""The plan of a run: shards, what a script imports, transcripts."""

import pytest
import yaml

from helpers.audio import write_audio
from helpers.places import ROOT
from zipquant import plan
from zipquant.audio.utterance import Utterance
from zipquant.errors import UserError
from zipquant.evaluation.scores import read_references


@pytest.fixture
def settings(tmp_path):
    """The demo's configuration, with audio of its own: five files, one of an odd name."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    for name in plan.SETS:
        for number in range(4):
            write_audio(tmp_path / name / f"{name[0]}{number}.wav", 0.5, number)
        write_audio(tmp_path / name / "odd\x1b.wav", 0.5)
        config["audio"][name] = str(tmp_path / name)
    config["model"]["encoder"] = str(ROOT / "models/demo/encoder.onnx")
    config["results"] = str(tmp_path / "results")
    return config


def test_plan_of_the_demo_model(settings):
    made = plan.make(settings, ROOT)
    assert made.is_transducer and made.warnings == []
    assert set(made.variants) == {"int8", "fp16"} and made.recipe.states == "real"
    utterances = [
        u.id for shard in made.shards_of("calibration") for u in made.usable("calibration", shard)
    ]
    assert sorted(utterances) == ["c0", "c1", "c2", "c3"]


def test_file_that_cannot_be_named_is_left_out_with_its_reason(settings):
    made = plan.make(settings, ROOT)
    shards = made.shards_of("evaluation")
    (reason,) = [r for shard in shards for r in made.unreachable("evaluation", shard).values()]
    assert "odd\\x1b.wav" in reason and "rename" in reason


def test_shard_without_audio_has_no_utterances(settings):
    made = plan.make(settings, ROOT)
    assert made.usable("calibration", 99) == [] and 99 not in made.shards_of("calibration")


def test_variant_that_is_null_is_not_built(settings):
    settings["variants"]["fp16"] = None
    assert set(plan.make(settings, ROOT).variants) == {"int8"}


def test_cap_on_utterances_holds_for_the_evaluation_alone(settings):
    settings["evaluation"]["max_utterances"] = 2
    made = plan.make(settings, ROOT)
    count = {name: sum(map(len, made.shards[name].values())) for name in plan.SETS}
    assert count == {"calibration": 5, "evaluation": 2}


@pytest.mark.parametrize("count, shards", [(1, 1), (50, 1), (51, 2), (500, 2)])
def test_few_utterances_are_evaluated_in_one_job(settings, monkeypatch, count, shards):
    settings["audio"]["shards"]["evaluation"] = "auto"
    monkeypatch.setattr(
        plan,
        "utterances_of",
        lambda config, name: [Utterance(f"u{n:03d}", f"u{n:03d}.wav") for n in range(count)],
    )
    found = plan.shard_audio(settings, "evaluation")
    assert set(found) == set(range(shards))
    assert sum(map(len, found.values())) == count


def test_joiner_is_calibrated_with_the_same_few_utterances_whatever_the_shards(
    settings, monkeypatch
):
    monkeypatch.setattr(plan, "JOINER_UTTERANCES", 3)
    drawn = []
    for count in (1, 4):
        settings["audio"]["shards"]["calibration"] = count
        made = plan.make(settings, ROOT)
        drawn.append(sorted(sum(map(made.joiner_utterances, made.joiner_shards()), [])))
    assert drawn[0] == drawn[1] and 2 <= len(drawn[0]) <= 3


def test_transcripts_that_the_model_cannot_spell(settings, tmp_path):
    manifest = tmp_path / "evaluation.tsv"
    rows = [f"e{n}\tevaluation/e{n}.wav\t{'one two' if n else 'Paris'}" for n in range(4)]
    manifest.write_text("id\tpath\ttext\n" + "\n".join(rows) + "\n")
    settings["audio"]["evaluation"] = str(manifest)
    (warning,) = plan.make(settings, ROOT).warnings
    assert "1 of 4 transcripts" in warning and "'paris' in 'e0'" in warning
    manifest.write_text(manifest.read_text().replace("one two", "three quarters"))
    with pytest.raises(UserError, match="4 of 4 transcripts"):
        plan.make(settings, ROOT)


def test_library_files_of_a_script_are_those_that_it_imports(tmp_path):
    for name, text in {
        "stage.py": "from job import run\nfrom zipquant.first import one\n",
        "job.py": "import os\n",
        "zipquant/first/one.py": "from zipquant.second.two import Name\n",
        "zipquant/first/other.py": "",
        "zipquant/second/two.py": "from zipquant import three\n",
        "zipquant/three.py": "",
        "zipquant/three.json": "{}",
        "zipquant/first/other.json": "{}",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = {str(p.relative_to(tmp_path)) for p in plan.library_files(tmp_path, "stage")}
    library = {"first/one.py", "second/two.py", "three.py", "three.json"}
    assert found == {"stage.py", "job.py", *(f"zipquant/{name}" for name in library)}


def test_what_scripts_depend_on():
    """A report sentence reruns the report alone; a front end what computes features."""
    scripts = ROOT / "scripts"
    users: dict[str, set[str]] = {}
    for script in scripts.glob("*.py"):
        for path in plan.library_files(scripts, script.stem):
            name = str(path.relative_to(scripts)).removeprefix("zipquant/")
            users.setdefault(name, set()).add(script.stem)
    assert users["report/page.py"] == users["report/words.py"] == {"report"}
    assert users["evaluation/verdict.py"] == {"choose", "report"}
    assert users["audio/librosa_front_ends.py"] == {"features"}
    assert "quantize" not in users["evaluation/drift.py"] | users["evaluation/long_stream.py"]
    assert users["evaluation/choice.py"] == {"choose"}


def test_package_files_hold_a_docstring_alone():
    """They are no inputs of any rule."""
    import ast

    for path in (ROOT / "scripts/zipquant").rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1 and ast.get_docstring(ast.parse(path.read_text())), path


def test_one_source_is_split_and_its_transcripts_are_those_of_the_evaluation(settings, tmp_path):
    for number in range(20):
        write_audio(tmp_path / f"all/{number}.wav", 0.3, number)
    rows = "".join(f"{n}\tall/{n}.wav\tone {'two' if n % 2 else ''}\n" for n in range(20))
    (tmp_path / "all.tsv").write_text(f"id\tpath\ttext\n{rows}")
    settings["audio"]["source"] = str(tmp_path / "all.tsv")
    made = plan.make(settings, ROOT)
    used = {name: {u.id for us in made.shards[name].values() for u in us} for name in plan.SETS}
    assert used["calibration"] | used["evaluation"] == set(map(str, range(20)))
    assert not used["calibration"] & used["evaluation"] and len(used["evaluation"]) >= 1
    plan.write_transcripts(settings, tmp_path / "transcripts.tsv")
    assert set(read_references(tmp_path / "transcripts.tsv")) == used["evaluation"]
    settings["audio"]["source"] = str(tmp_path / "all" / "1.wav")
    with pytest.raises(UserError):
        plan.make(settings, ROOT)


def test_a_single_file_cannot_be_split(settings, tmp_path):
    write_audio(tmp_path / "single/one.wav", 0.3)
    settings["audio"]["source"] = str(tmp_path / "single")
    with pytest.raises(UserError, match="one file cannot be split"):
        plan.make(settings, ROOT)
