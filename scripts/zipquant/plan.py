"""What a run consists of: checked settings, the parts of the model, the utterances of each shard.

The Snakefile makes a plan at every start, also for a dry run, so this module imports little and
changes no file.
"""

import ast
import hashlib
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from zipquant import config as configuration
from zipquant.audio import manifest
from zipquant.audio.split import split
from zipquant.audio.utterance import Utterance, shown
from zipquant.board import keywords, vocabulary
from zipquant.board.description import BINS
from zipquant.calibration import recipes
from zipquant.calibration.recipes import Recipe
from zipquant.errors import UserError
from zipquant.evaluation import board_result
from zipquant.jobs import files
from zipquant.model import contract, locate, look, recognizer
from zipquant.model.contract import Contract
from zipquant.model.recognizer import Recognizer

SETS = ("calibration", "evaluation")
"""The two sets of audio."""

DEMO = Path("demo/audio/evaluation.tsv")
"""The demo's evaluation audio, in the folder of the workflow."""

JOINER_UTTERANCES = 50
"""Utterances that an int8 joiner is calibrated with; of them 256 rows are drawn."""

FEW = 50
"""Up to so many utterances of evaluation audio are one shard where the settings name no number: the
job of each further one sets the simulator up again, which takes as long as some utterances do."""

Shards = dict[int, list[Utterance]]
"""The utterances of each shard that holds any, by its number."""


@dataclass(frozen=True)
class Plan:
    """A checked configuration and what follows from it.

    Attributes:
        model: the configuration's section `model`, with the files that were found. Those in
            `originals` stand there as the files that will be made of them.
        originals: the files of the model that are turned into plain float32 ones first, by part.
        recipe: how the calibration set is made.
        recognizer: what makes text of the encoder's output; None where no text is made.
        encoder: the contract of the encoder.
        shards: the utterances of both sets, by shard.
        variants: the settings of each variant that is built.
        keywords: names of the keywords that are looked for; empty for none.
        uses_transcripts: whether the transcripts are for this model.
        warnings: what the user should know before anything runs, one line each.
        notes: what was decided for the user, one line each.
    """

    model: Mapping[str, Any]
    originals: Mapping[str, str]
    recipe: Recipe
    recognizer: Recognizer | None
    encoder: Contract
    shards: Mapping[str, Shards]
    variants: Mapping[str, Mapping[str, Any]]
    keywords: tuple[str, ...] = ()
    uses_transcripts: bool = True
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_transducer(self) -> bool:
        """Whether text is made with a decoder and a joiner."""
        return self.recognizer is not None and self.recognizer.decoder is not None

    def front_end(self, name: str) -> dict[str, Any]:
        """Return how a front end computes features for this model, see `audio.features`."""
        return {"name": name, "features": self.encoder.features, "bins": self.encoder.bins}

    def shards_of(self, name: str) -> list[int]:
        """Return the shards of a set that hold audio; empty ones need no jobs."""
        return sorted(self.shards[name])

    def usable(self, name: str, shard: str | int) -> list[Utterance]:
        """Return the utterances of a shard but for those whose files cannot be used."""
        return [u for u in self.shards[name].get(int(shard), []) if not u.problem]

    def unreachable(self, name: str, shard: str | int) -> dict[str, str]:
        """Return those others: why each is left out, by its path."""
        odd = [u for u in self.shards[name].get(int(shard), []) if u.problem]
        return {shown(u.path): u.problem for u in odd}

    @cached_property
    def transcripts_digest(self) -> str:
        """A hash of all transcripts of the evaluation audio; empty where there are none to use."""
        if not self.uses_transcripts:
            return ""
        texts = [(u.id, u.text) for us in self.shards["evaluation"].values() for u in us if u.text]
        return hashlib.sha256(repr(sorted(texts)).encode()).hexdigest() if texts else ""

    @cached_property
    def _drawn_for_joiner(self) -> frozenset[str]:
        everything = sum(self.shards["calibration"].values(), [])
        return frozenset(u.id for u in manifest.cap(everything, JOINER_UTTERANCES))

    def joiner_utterances(self, shard: str | int) -> list[str]:
        """Return the utterances of a calibration shard that calibrate an int8 joiner."""
        usable = self.usable("calibration", shard)
        return [u.id for u in usable if u.id in self._drawn_for_joiner]

    def joiner_shards(self) -> list[int]:
        """Return the calibration shards that hold any of those."""
        return [s for s in self.shards_of("calibration") if self.joiner_utterances(s)]


def make(config: MutableMapping[str, Any], project: str | Path) -> Plan:
    """Check a configuration and what it names, and return the plan of its run.

    Args:
        config: the merged configuration; its results folder gets one spelling.
        project: the folder of the workflow.

    Raises:
        UserError: the configuration, the model, its parts or a manifest are not right.
    """
    configuration.validate(config)
    image = config["container"]
    if image and not configuration.is_address(image) and not os.path.exists(image):
        raise UserError(
            f"config: container: there is no {image}: give the file of an image (.sif), which "
            "docs/install.md says how to make, or an address such as docker://registry/zipquant"
        )
    if config["evaluation"]["board_result"]:
        board_result.read(config["evaluation"]["board_result"])
    model, notes, missing = locate.locate(config["model"])
    configuration.settle_results(config, project, model)
    # A wrong model is reported at once, also by a dry run; the rule `inspect` runs it as well.
    encoder = contract.inspect(model["encoder"], model["state_outputs"], model["restore"])
    recipe = recipes.resolve(config["calibration"])
    _check_front_end(recipe, encoder, model["encoder"])
    parts = recognizer.find(model, encoder)
    originals = {
        part: model[part]
        for part in ("encoder", "decoder", "joiner")
        if model[part] and not look.look(model[part]).plain
    }
    restored = {part: f"{config['results']}/restored/{part}.onnx" for part in originals}
    shards = {name: shard_audio(config, name) for name in SETS}
    source = sources(config)[-1]
    is_demo = os.path.abspath(source) == str(Path(project).resolve() / DEMO)
    warned, usable = check_transcripts(shards["evaluation"], parts, source, is_demo)
    remarks = [remark for path in sources(config) for remark in manifest.remarks(path)]
    beside = filter(None, map(manifest.passed_over, sources(config)))
    return Plan(
        model={**model, **restored},
        originals=originals,
        recipe=recipe,
        recognizer=parts.moved(restored) if parts else None,
        encoder=encoder,
        shards=shards,
        keywords=find_keywords(model, parts),
        variants={name: found for name, found in config["variants"].items() if found},
        uses_transcripts=usable,
        warnings=[
            *missing,
            *_features_ignored(encoder, model["encoder"]),
            *remarks,
            *warned,
        ],
        notes=[
            *notes,
            *_how_split(config),
            *beside,
            *_spotted(model),
        ],
    )


def takes(encoder: Contract, recipe: Recipe) -> bool:
    """Whether a recipe computes what an encoder takes; older ones compute 80 bins of log-mel."""
    return recipe.front_end == "kaldi" or (encoder.features, encoder.bins) == ("fbank", BINS)


def _check_front_end(recipe: Recipe, encoder: Contract, path: str) -> None:
    """Refuse a recipe with features that the encoder does not take."""
    if not takes(encoder, recipe):
        kind = "Whisper's features" if encoder.features == "whisper" else "log-mel features"
        raise UserError(
            f"{path} takes {kind} with {encoder.bins} bins, which the front end "
            f"'{recipe.front_end}' does not compute: set calibration.front_end to kaldi"
        )


def _features_ignored(encoder: Contract, path: str) -> list[str]:
    """Return a warning where metadata ask for features that sherpa-onnx does not compute."""
    asked = encoder.metadata.get("feature", "")
    if contract.FEATURES[asked] == encoder.features:
        return []
    return [
        f"{path} asks for features of the kind {asked} in its metadata, which sherpa-onnx reads "
        f"of {', '.join(contract.WHISPER_MODELS)} models alone; as in sherpa-onnx, log-mel "
        "features are computed for it"
    ]


def find_keywords(model: Mapping[str, Any], parts: Recognizer | None) -> tuple[str, ...]:
    """Return the names of the keywords that are looked for, each once.

    Args:
        model: the configuration's section `model`, with the files that were found.
        parts: what makes text; None where no text is made.

    Raises:
        UserError: the file is not right, or the model cannot be searched for keywords.
    """
    path = model["keywords"]
    if not path:
        return ()
    if parts is None or not parts.decoder:
        what = "lacks a decoder, a joiner or tokens" if parts is None else "is a CTC model"
        raise UserError(
            f"{path} asks for keywords, but {model['encoder']} {what}: sherpa-onnx's keyword "
            "spotter takes transducers; set model.keywords to null to go without"
        )
    found = keywords.read(path, vocabulary.read(parts.tokens))
    return tuple(dict.fromkeys(keyword.name for keyword in found))


def sources(config: Mapping[str, Any]) -> list[str]:
    """Return where the audio of both sets comes from, the evaluation's last."""
    audio = config["audio"]
    return [audio["source"]] if audio["source"] else [audio[name] for name in SETS]


def utterances_of(config: Mapping[str, Any], name: str) -> list[Utterance]:
    """Return the utterances of a set.

    Args:
        config: a valid configuration.
        name: `calibration` or `evaluation`.

    Raises:
        UserError: there is no audio, or its manifest is broken.
    """
    if not config["audio"]["source"]:
        return manifest.read(config["audio"][name])
    everything = manifest.read(config["audio"]["source"])
    if len(everything) < 2:
        raise UserError(
            f"{config['audio']['source']}: one file cannot be split into audio to calibrate with "
            "and audio to measure with; add some, or set audio.calibration and audio.evaluation"
        )
    return getattr(split(everything), name)


def _how_split(config: Mapping[str, Any]) -> list[str]:
    source = config["audio"]["source"]
    return [f"{source} is split {split(manifest.read(source)).how}"] if source else []


def _spotted(model: Mapping[str, Any]) -> list[str]:
    path = model["keywords"]
    return [f"the keywords of {path} are looked for (model.keywords)"] if path else []


def write_transcripts(config: Mapping[str, Any], output: str | Path) -> None:
    """Write the transcripts of the evaluation audio as TSV: `id` and `text`.

    Args:
        config: a valid configuration.
        output: the file to write; utterances without a transcript are not in it.

    Raises:
        UserError: the audio is gone, or its manifest is broken.
    """
    with files.tsv_writer(output) as table:
        table.writerow(["id", "text"])
        table.writerows([u.id, u.text] for u in utterances_of(config, "evaluation") if u.text)


def shard_audio(config: Mapping[str, Any], name: str) -> Shards:
    """Split the audio of a set into its shards.

    Args:
        config: a valid configuration.
        name: `calibration` or `evaluation`.

    Raises:
        UserError: there is no audio, or its manifest is broken.
    """
    utterances = utterances_of(config, name)
    if name == "evaluation":
        utterances = manifest.cap(utterances, config["evaluation"]["max_utterances"])
    shards: Shards = {}
    count = config["audio"]["shards"][name]
    if count == "auto":
        count = 1 if len(utterances) <= FEW else 2
    for utterance in utterances:
        shard = manifest.shard_of(utterance.id, count)
        shards.setdefault(shard, []).append(utterance)
    return shards


def check_transcripts(
    shards: Shards, parts: Recognizer | None, source: str, is_demo: bool = False
) -> tuple[list[str], bool]:
    """Return a warning where the model cannot produce some of the transcripts.

    Args:
        shards: the evaluation audio.
        parts: what makes text; None where no text is made.
        source: the evaluation manifest, for the message.
        is_demo: whether that is the demo's audio, which any model is tried on, so that its digits
            need not be words of the model.

    Returns:
        The warnings, and whether the transcripts are to be used.

    Raises:
        UserError: the model cannot produce most of them.
    """
    texts = {u.id: u.text for utterances in shards.values() for u in utterances if u.text}
    if parts is None or not texts:
        return [], True
    unknown = recognizer.unspeakable(texts, parts)
    if not unknown:
        return [], True
    name, words = next(iter(unknown.items()))
    message = (
        f"{source}: {len(unknown)} of {len(texts)} transcripts hold words that the tokens in "
        f"{parts.tokens} cannot spell, which count as errors; the first is '{words[0]}' in '{name}'"
    )
    if 2 * len(unknown) <= len(texts):
        return [message], True
    if is_demo:
        return [
            f"{parts.tokens} cannot spell the transcripts of the demo's audio, so they are left "
            "out, and error rates are against the float model's own text; set audio.calibration "
            "and audio.evaluation to speech of the kind that the board will hear"
        ], False
    raise UserError(
        f"{message}. Write the transcripts as the model writes (numbers as words, no "
        "punctuation), or set model.tokens to the tokens of the right model"
    )


def library_files(scripts: Path, script: str) -> list[Path]:
    """Return an entry script and all library files that it imports, directly or through others.

    As inputs of its rule, these make a changed module rerun just the rules that use it, and the
    rerun's reason names the module. So do the figures or words that stand beside a module, in a
    JSON or YAML file of its name. The `__init__` files of the packages hold a docstring alone, so
    they are left out.

    Args:
        scripts: the folder of the entry scripts, with the library below it.
        script: name of an entry script without its suffix.
    """
    todo = [scripts / f"{script}.py"]
    library = set(todo)
    while todo:
        paths = _imports(scripts, todo.pop())
        todo += [path for path in paths if path not in library]
        library.update(paths)
    beside = {path.with_suffix(suffix) for path in library for suffix in (".json", ".yaml")}
    return sorted(library | {path for path in beside if path.exists()})


def _imports(scripts: Path, path: Path) -> list[Path]:
    """Return the library files that a Python file imports itself."""
    return _parsed(scripts, path, path.stat().st_mtime_ns)


@cache
def _parsed(scripts: Path, path: Path, changed: int) -> list[Path]:
    """Do so once for each content: parsing is most of what a start takes."""
    paths = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module == "job":
            paths.append(scripts / "job.py")
        elif node.module.split(".")[0] == "zipquant":
            package = scripts / node.module.replace(".", "/")
            if package.is_dir():
                paths += [package / f"{name.name}.py" for name in node.names]
            else:
                paths.append(package.with_suffix(".py"))
    return paths
