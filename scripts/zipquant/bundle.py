"""The bundle: everything that a board needs, in one folder and one tar file."""

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from zipquant import files, rknn_file, runtime

ENCODER, DECODER, JOINER, TOKENS = "encoder.rknn", "decoder.rknn", "joiner.rknn", "tokens.txt"


def write(
    best_file: str | Path,
    scores_file: str | Path,
    variants: Mapping[str, str | Path],
    tokens: str | Path,
    decoder: str | Path | None,
    joiner: str | Path | None,
    folder: str | Path,
    archive: str | Path,
) -> None:
    """Copy the best variant and what belongs to it into a folder, with a manifest and a README.

    Args:
        best_file: JSON that names the variant, written by `scoring.choose`.
        scores_file: the error rates, written by `scoring.write`.
        variants: build.json of each variant, with the encoder beside it.
        tokens: the tokens file.
        decoder: the decoder's .rknn; None for a CTC model.
        joiner: the joiner's .rknn; None for a CTC model.
        folder: the folder to write.
        archive: the tar file to write, with the same content.
    """
    best = files.read_json(best_file)["best"]
    build = files.read_json(variants[best])
    encoder = Path(variants[best]).with_name(ENCODER)
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sources = {ENCODER: encoder, DECODER: decoder, JOINER: joiner, TOKENS: tokens}
    for name, source in sources.items():
        if source:
            shutil.copyfile(source, folder / name)
    manifest = {
        "variant": best,
        "refusals": refusals(folder),
        "build": {key: value for key, value in build.items() if key not in ("inputs", "outputs")},
        "accuracy": _accuracy(files.read_json(scores_file), best),
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
            for path in sorted(folder.iterdir())
        },
    }
    files.write_json(folder / "manifest.json", manifest)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("bundle.md.j2").render(manifest, transducer=bool(decoder))
    files.write_text(folder / "README.md", page)
    with files.atomic(archive) as temporary, tarfile.open(temporary, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"{folder.name}/{path.name}", filter=_plain)


def refusals(folder: Path) -> list[str]:
    """Return why a stock sherpa-onnx would refuse the files of a bundle, read back from them."""
    encoder = folder / ENCODER
    found = runtime.refusals(rknn_file.io_types(encoder), rknn_file.custom_string(encoder))
    for name in (DECODER, JOINER):
        if (folder / name).exists():
            types = rknn_file.io_types(folder / name)
            found += [f"{name}: {reason}" for reason in runtime.type_refusals(types)]
    return found


def _accuracy(scores: Mapping[str, Any], best: str) -> dict[str, Any]:
    models = {"float": "float", best: best, "rknn": "all three in RKNN"}
    return {
        "unit": scores["unit"],
        "utterances": scores["utterances"],
        "models": {
            label: scores["models"][name]
            for name, label in models.items()
            if name in scores["models"]
        },
    }


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made the file and when, so that equal files give an equal archive."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry
