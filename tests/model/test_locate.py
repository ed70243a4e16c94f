"""Finding a model's files in folders and archives, by their names and by what is in them."""

import shutil
import tarfile
import zipfile

import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from helpers.models import tiny_ctc
from helpers.places import DEMO_MODEL
from zipquant.errors import UserError
from zipquant.model import locate

DEMO = DEMO_MODEL.parent


def section(**settings):
    """The configuration's section, with all files to be found."""
    auto = dict.fromkeys(("encoder", "decoder", "joiner", "tokens", "keywords"), "auto")
    return {"folder": None, **auto, "restore": False, "state_outputs": {}} | settings


def found_in(folder, **settings):
    """The names of the files that are found, and the notes."""
    found, notes, missing = locate.locate(section(folder=str(folder), **settings))
    keys = ("encoder", "decoder", "joiner", "tokens")
    root = str(folder)
    return [
        str(found[k]).removeprefix(f"{root}/") if found[k] else None for k in keys
    ], notes + missing


def release(folder, suffix="-epoch-99-avg-1", parts=("encoder", "decoder", "joiner")):
    """The demo model under the names of a release."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        shutil.copy(DEMO / f"{part}.onnx", folder / f"{part}{suffix}.onnx")
    shutil.copy(DEMO / "tokens.txt", folder)
    return folder


def quantized(path):
    """An int8 copy of a model, as icefall's scripts write it beside the float32 file."""
    target = path.with_name(f"{path.stem}.int8.onnx")
    quantize_dynamic(path, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    return target


def test_a_release_folder_is_found_by_its_names(tmp_path):
    files, notes = found_in(release(tmp_path))
    parts = [f"{part}-epoch-99-avg-1.onnx" for part in ("encoder", "decoder", "joiner")]
    assert files == [*parts, "tokens.txt"]
    assert notes == []


def test_float32_is_taken_where_int8_lies_beside_it(tmp_path):
    release(tmp_path)
    for part in ("encoder", "decoder", "joiner"):
        quantized(tmp_path / f"{part}-epoch-99-avg-1.onnx")
    files, notes = found_in(tmp_path)
    assert not any("int8" in name for name in files)
    assert notes == [
        f"{tmp_path}/encoder-epoch-99-avg-1.onnx is taken, the float32 encoder; not "
        "encoder-epoch-99-avg-1.int8.onnx"
    ]
    (tmp_path / "decoder-epoch-99-avg-1.onnx").unlink()
    assert found_in(tmp_path)[0][1] == "decoder-epoch-99-avg-1.int8.onnx"


def test_other_names_are_found_by_what_is_in_the_files(tmp_path):
    for number, part in enumerate(("joiner", "encoder", "decoder")):
        shutil.copy(DEMO / f"{part}.onnx", tmp_path / f"model_{number}.onnx")
    shutil.copy(DEMO / "tokens.txt", tmp_path / "vocab.txt")
    files, notes = found_in(tmp_path)
    assert files == ["model_1.onnx", "model_2.onnx", "model_0.onnx", "vocab.txt"]
    assert notes == []


def test_an_encoder_of_another_name_has_its_parts_beside_it(tmp_path):
    release(tmp_path, "", ("decoder", "joiner"))
    shutil.copy(DEMO_MODEL, tmp_path / "my_model.onnx")
    found, notes, missing = locate.locate(section(encoder=str(tmp_path / "my_model.onnx")))
    assert found["decoder"] == str(tmp_path / "decoder.onnx")
    assert found["joiner"] == str(tmp_path / "joiner.onnx")
    assert notes == missing == []


def test_parts_of_another_epoch_are_taken_with_a_word(tmp_path):
    release(tmp_path, "-epoch-99")
    (tmp_path / "joiner-epoch-99.onnx").rename(tmp_path / "joiner-epoch-30.onnx")
    files, (note,) = found_in(tmp_path)
    assert files[2] == "joiner-epoch-30.onnx"
    assert "is taken as the joiner, but is not called joiner-epoch-99.onnx" in note


def test_several_encoders_are_named(tmp_path):
    release(release(tmp_path, "-epoch-20"), "-epoch-30")
    with pytest.raises(UserError, match=r"several encoders .*encoder-epoch-20.onnx, .*-30.onnx"):
        found_in(tmp_path)
    # The parts go with the encoder that is chosen.
    encoder = str(tmp_path / "encoder-epoch-30.onnx")
    assert found_in(tmp_path, encoder=encoder)[0][2] == "joiner-epoch-30.onnx"


def test_what_was_looked_for_is_told_where_parts_are_missing(tmp_path):
    release(tmp_path, parts=("encoder", "joiner"))
    (tmp_path / "tokens.txt").unlink()
    files, (note,) = found_in(tmp_path)
    assert files[1] is None and files[3] is None
    assert f"no decoder and no tokens found for {tmp_path}/encoder-epoch-99-avg-1.onnx" in note
    assert "decoder-epoch-99-avg-1.onnx, *decoder*.onnx, tokens.txt" in note
    assert "set model.decoder, model.tokens" in note
    assert found_in(tmp_path, decoder=None, tokens=None)[1] == []


def test_a_ctc_model_is_not_given_the_parts_of_another_model(tmp_path):
    release(tmp_path, parts=("decoder", "joiner"))
    tiny_ctc(tmp_path / "ctc-epoch-1.onnx", tokens=11)
    files, notes = found_in(tmp_path)
    assert files == ["ctc-epoch-1.onnx", None, None, "tokens.txt"]
    assert notes == []


def test_folders_without_an_encoder_are_refused_with_what_lies_there(tmp_path):
    with pytest.raises(UserError, match=r"no streaming encoder in the folder .* it is empty"):
        found_in(tmp_path)
    release(tmp_path, parts=("decoder", "joiner"))
    (tmp_path / "pretrained.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"there are .*decoder-.*pretrained\.pt.*tokens\.txt"):
        found_in(tmp_path)
    with pytest.raises(UserError, match="no model at '/nowhere'"):
        found_in("/nowhere")


def test_several_tokens_files_are_named(tmp_path):
    release(tmp_path)
    (tmp_path / "tokens.txt").rename(tmp_path / "a_tokens.txt")
    shutil.copy(tmp_path / "a_tokens.txt", tmp_path / "b_tokens.txt")
    with pytest.raises(UserError, match=r"set model.tokens to one of .*a_tokens.*b_tokens"):
        found_in(tmp_path)


@pytest.mark.parametrize("ending", [".tar.bz2", ".tar.gz", ".tgz", ".tar", ".zip"])
def test_a_release_archive_is_unpacked_once(tmp_path, monkeypatch, ending):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = release(tmp_path / "sherpa-onnx-streaming-zipformer")
    (folder / "test_wavs").mkdir()
    (folder / "test_wavs/0.wav").write_bytes(b"RIFF")
    archive = tmp_path / f"release{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in folder.rglob("*"):
                file.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(
            archive, "w:" + {".tgz": "gz", ".tar": ""}.get(ending, ending[5:])
        ) as file:
            file.add(folder, folder.name)
    files, (note,) = found_in(archive)
    assert note.startswith(f"{archive} is an archive; its model is used from {tmp_path}/cache/")
    unpacked = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(unpacked) == 4 and "0.wav" not in unpacked
    assert files[0].endswith("/sherpa-onnx-streaming-zipformer/encoder-epoch-99-avg-1.onnx")
    onnx.checker.check_model(files[0])
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert found_in(archive)[0] == files
    assert again == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}


def test_broken_archives_and_other_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = release(tmp_path / "model")
    with tarfile.open(tmp_path / "half.tar.gz", "w:gz") as file:
        file.add(folder, "model")
    whole = (tmp_path / "half.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half\.tar\.gz cannot be unpacked"):
        found_in(tmp_path / "half.tar.gz")
    for name, content, reason in (
        ("a.tar.bz2", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("b.tar.bz2", b"<!DOCTYPE html>", "a web page"),
        ("c.zip", b"nothing", "is neither a folder nor an archive"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=reason):
            found_in(tmp_path / name)


def test_an_encoder_is_found_however_deep_and_not_among_leftovers(tmp_path):
    deep = release(tmp_path / "a/b/c/d")
    (tmp_path / "silero_vad.onnx").write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    (deep / "._encoder-epoch-99-avg-1.onnx").write_bytes(b"\0\5\x16\7")
    (deep / "._tokens.txt").write_bytes(b"\0")
    leftovers = tmp_path / "__MACOSX"
    leftovers.mkdir()
    (leftovers / "encoder.onnx").write_bytes(b"\0\5\x16\7")
    found, said = found_in(tmp_path)
    assert found[0] == "a/b/c/d/encoder-epoch-99-avg-1.onnx"
    assert found[3] == "a/b/c/d/tokens.txt" and said == []


def test_endings_in_capitals_and_addresses(tmp_path):
    folder = release(tmp_path / "m", "")
    (folder / "encoder.onnx").rename(folder / "Encoder.ONNX")
    assert found_in(folder)[0] == ["Encoder.ONNX", "decoder.onnx", "joiner.onnx", "tokens.txt"]
    with pytest.raises(UserError, match="is an address: download the model"):
        locate.locate(section(folder="https:/example.org/model"))


@pytest.mark.parametrize("name", ["m.7z", "m.rar", "encoder.onnx.gz"])
def test_other_archives_are_to_be_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(b"7z\xbc\xaf" + bytes(60))
    with pytest.raises(UserError, match="is compressed in a way that is not read here: unpack it"):
        locate.locate(section(folder=str(tmp_path / name)))
