"""The bundle: everything that a board needs, in one folder and one tar file."""

import codecs
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from zipquant.board import description
from zipquant.errors import UserError, printable
from zipquant.jobs import files
from zipquant.model.contract import Contract
from zipquant.toolkit import rknn_file, sherpa_onnx, versions
from zipquant.toolkit.variant_folder import ENCODER
from zipquant.variants.record import Build
from zipquant.version import VERSION

SCRIPT = "transcribe.py"
"""What runs the bundle on a board without sherpa-onnx."""

LIBRARY = Path(__file__).parent

SHARED = (
    "__init__.py",
    "errors.py",
    "board/__init__.py",
    "board/description.py",
    "board/fbank.py",
    "board/greedy_search.py",
    "board/keyword_search.py",
    "board/keywords.py",
    "board/measuring.py",
    "board/vocabulary.py",
    "board/whisper.py",
)
"""The modules of this library that it needs: the package `board`, and what that imports."""

PLAIN_ENCODER = "encoder-plain.rknn"
"""The same encoder from its graph as it is, where `ENCODER` is built in another form."""

DECODER, JOINER, TOKENS = "decoder.rknn", "joiner.rknn", "tokens.txt"
KEYWORDS = "keywords.txt"


def copy_script(folder: Path) -> None:
    """Copy `SCRIPT` and the modules that it imports into a bundle's folder."""
    shutil.copyfile(LIBRARY / "board" / SCRIPT, folder / SCRIPT)
    for name in SHARED:
        copy = folder / LIBRARY.name / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(LIBRARY / name, copy)


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of, beside the best variant.

    Attributes:
        tokens: the tokens file; None where no text is made.
        decoder: the decoder's .rknn; None for a CTC model.
        joiner: the joiner's .rknn; None for a CTC model.
        verified: JSON of how exact decoder and joiner are; none for a CTC model.
        plain: build.json of the same variant from the encoder as it is; None for none.
        restored: what `restored.prove` has written; None where the model was float32 as given.
        keywords: the keywords file; None where none are looked for.
    """

    tokens: str | Path | None = None
    decoder: str | Path | None = None
    joiner: str | Path | None = None
    verified: Sequence[str | Path] = ()
    plain: str | Path | None = None
    restored: str | Path | None = None
    keywords: str | Path | None = None


def write(
    best_file: str | Path,
    scores_file: str | Path | None,
    contract_file: str | Path,
    variants: Mapping[str, str | Path],
    parts: Parts,
    audio: Mapping[str, Any],
    folder: str | Path,
    archive: str | Path,
) -> None:
    """Copy the best variant and what belongs to it into a folder, with a manifest and a README.

    Args:
        best_file: JSON that names the variant, written by `choice.write`.
        scores_file: the error rates, written by `scores.write`; None where no text is made.
        contract_file: the encoder's contract.
        variants: build.json of each variant, with the encoder beside it.
        parts: the other files.
        audio: the settings `channels` and `tail_padding`.
        folder: the folder to write.
        archive: the tar file to write, with the same content.

    Raises:
        UserError: the parts do not belong together, see `check_parts`.
    """
    choice, folder = files.read_json(best_file), Path(folder)
    best = choice["best"]
    build, contract = Build.load(variants[best]), Contract.load(contract_file)
    _copy_parts(Path(variants[best]).parent, build, contract, parts, folder)
    copy_script(folder)
    context = int(build.metadata()["context_size"]) if parts.decoder else None
    files.write_json(folder / description.MODEL, describe(contract, context, audio))
    manifest = {
        "zipquant": VERSION,
        "variant": best,
        "status": choice["status"],
        "refusals": refusals(folder),
        "build": build.summary(),
        "plain": Build.load(parts.plain).summary() if parts.plain else None,
        "choice": choice["why"],
        "restored": files.read_json(parts.restored) if parts.restored else {},
        "recognizer": {Path(path).stem: files.read_json(path) for path in parts.verified},
        "accuracy": _accuracy(files.read_json(scores_file), best) if scores_file else None,
        "keywords": _keywords(files.read_json(scores_file), best) if scores_file else None,
        "files": inventory(folder),
    }
    files.write_json(folder / description.MANIFEST, manifest)
    _write_readme(folder, manifest, parts, contract)
    with files.atomic(archive) as temporary, tarfile.open(temporary, "w") as tar:
        for path in _content(folder):
            tar.add(path, f"{folder.name}/{path.relative_to(folder)}", filter=_plain)


def _copy_parts(
    variant: Path, build: Build, contract: Contract, parts: Parts, folder: Path
) -> None:
    """Copy models and tokens into a new folder, checked to be what was built, and of one model."""
    encoder, other = variant / ENCODER, _plain_encoder(parts.plain)
    build.check(variant)
    sources = {
        **{ENCODER: encoder, PLAIN_ENCODER: other},
        **{DECODER: parts.decoder, JOINER: parts.joiner},
    }
    check_parts(build, contract, [path for path in sources.values() if path])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, source in sources.items():
        if source:
            shutil.copyfile(source, folder / name)
    for name, source in {TOKENS: parts.tokens, KEYWORDS: parts.keywords}.items():
        if source:
            # sherpa-onnx would take a byte order mark for a part of the first token.
            content = Path(source).read_bytes()
            (folder / name).write_bytes(content.removeprefix(codecs.BOM_UTF8))


def _write_readme(
    folder: Path, manifest: Mapping[str, Any], parts: Parts, contract: Contract
) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(LIBRARY / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=printable,
    )
    page = environment.get_template("bundle.md.j2").render(
        manifest,
        transducer=bool(parts.decoder),
        whole=bool(parts.tokens),
        features=contract.features,
        feat_dim=contract.bins if contract.bins != description.BINS else None,
        spots=bool(parts.keywords),
        lite=versions.lite(manifest["build"]["rknn_toolkit2"]),
    )
    files.write_text(folder / "README.md", page)


def _plain_encoder(plain: str | Path | None) -> Path | None:
    """The encoder that is built from the graph as it is, checked; None where there is none."""
    if plain is None or Build.load(plain).failure:
        return None
    folder = Path(plain).parent
    Build.load(plain).check(folder)
    return folder / ENCODER


def check_parts(build: Build, contract: Contract, parts: Sequence[str | Path]) -> None:
    """Check that the parts of a bundle are of one model, one platform and one toolkit.

    Args:
        build: what build.json says of the encoder.
        contract: that of the model that the run is about.
        parts: the .rknn files, which say themselves for what they were built.

    Raises:
        UserError: some do not agree; both sides are named.
    """
    again = "delete it and run the same command again"
    if build.model_sha256 != contract.sha256:
        raise UserError(f"{parts[0]} was built from another model than the other parts: {again}")
    expected = (build.platform, build.rknn_toolkit2)
    for path in parts:
        found = rknn_file.built_for(path)
        if found != expected:
            raise UserError(
                f"{path} was built for {found[0]} by rknn-toolkit2 {found[1]}, but the bundle is "
                f"for {expected[0]}, by {expected[1]}: {again}"
            )


def inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and hash of every file in a bundle, by its path in it."""
    return {
        str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "sha256": files.sha256(path),
        }
        for path in _content(folder)
    }


def describe(contract: Contract, context: int | None, audio: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `board.transcribe` must know of encoder and audio, for `description.MODEL`.

    Args:
        contract: the encoder's contract.
        context: tokens that the decoder looks back; None for a CTC model.
        audio: the settings `channels` and `tail_padding`.
    """
    # As in the .rknn, whose counters have 64 bits.
    kinds = {"int32": "int64"}
    return {
        "chunk_frames": contract.chunk_frames,
        "chunk_shift": contract.chunk_shift,
        "bins": contract.bins,
        "features": contract.features,
        "context": context,
        "channels": audio["channels"],
        "tail_padding": audio["tail_padding"],
        "states": [
            {
                "name": state.tensor.name,
                "shape": list(state.tensor.shape),
                "dtype": kinds.get(state.tensor.dtype, state.tensor.dtype),
            }
            for state in contract.states
        ],
    }


def refusals(folder: Path) -> list[str]:
    """Return why a stock sherpa-onnx cannot use the files of a bundle, read back from them."""
    encoder = folder / ENCODER
    found = sherpa_onnx.refusals(rknn_file.io_types(encoder), rknn_file.custom_string(encoder))
    for name in (DECODER, JOINER):
        if (folder / name).exists():
            types = rknn_file.io_types(folder / name)
            found += [f"{name}: {reason}" for reason in sherpa_onnx.type_refusals(types)]
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


def _keywords(scores: Mapping[str, Any], best: str) -> dict[str, Any] | None:
    found = scores["keywords"]
    if not found:
        return None
    models = {name: found["models"][name] for name in ("float", best)}
    return {**found, "models": models}


def _content(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made the file and when, so that equal files give an equal archive."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry
