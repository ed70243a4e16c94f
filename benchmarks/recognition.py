"""Word error rates of the demo model, float and int8, on recordings of your own.

    python benchmarks/recognition.py --audio recordings.tsv
    python benchmarks/recognition.py --digits DIR --each 50
    python benchmarks/recognition.py --digits DIR --each 90 --faithful --calibrate 25

The first takes a manifest (tab-separated: id, path, text) of spoken digits; a text is "six two" or
"6 2". The second joins recordings of single digits, {digit}_{speaker}_{index}.wav, to strings of
3 to 7 digits of one speaker. Both run the whole workflow, calibrated with the demo's audio, and
print the error rates; the report is in the folder `results` below the one given by --folder. The
third compares int8 as the settings have it with int8 that must keep the float model's text, and
with plain int8 of the graph as it is, in the emulation: how many of 540 strings have the same text
(6 speakers), and in what predicted time; it calibrates with other recordings of the same people.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml
from record import record

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def spell(text: str) -> str:
    """Return a transcript with each digit as a word, as the demo model writes it."""
    return re.sub(r"\d", lambda digit: f" {WORDS[int(digit[0])]} ", text).strip()


def read(source: Path) -> list[tuple[str, str, str]]:
    """Return id, path and transcript of each utterance of a manifest."""
    from zipquant.audio import manifest

    return [(u.id, str(Path(u.path).resolve()), spell(u.text)) for u in manifest.read(str(source))]


def join(digits: Path, indices: range, each: int, folder: Path) -> list[tuple[str, str, str]]:
    """Join recordings of single digits to strings, the same for every call; see `read`."""
    import soundfile

    import data

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    speakers = data.load_recordings(digits, indices)
    for speaker, utterances in data.test_strings(speakers, each, seed=31).items():
        for number, utterance in enumerate(utterances):
            path = folder / f"{speaker}-{number:03d}.wav"
            soundfile.write(path, utterance.samples, data.RATE, subtype="PCM_16")
            text = " ".join(WORDS[digit] for digit in utterance.digits)
            rows.append((path.stem, str(path.resolve()), text))
    return rows


def write(manifest: Path, rows: list[tuple[str, str, str]]) -> str:
    """Write a manifest of utterances, and return its path."""
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with open(manifest, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, dialect="excel-tab", quoting=csv.QUOTE_NONE)
        table.writerows([("id", "path", "text"), *rows])
    return str(manifest)


def prepare(rows: list[tuple[str, str, str]], folder: Path, shards: int) -> Path:
    """Write a manifest of utterances and the settings of a run, and return the settings' file.

    The results get a folder of their own below: what the run reads may not lie among them.
    """
    manifest = write(folder / "utterances.tsv", rows)
    shards = {"calibration": 4, "evaluation": shards}
    settings = {
        "results": str(folder / "results"),
        "audio": {"evaluation": manifest, "shards": shards},
        "evaluation": {"one_step_chunks": 1},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder / "settings.yaml"


FAITHFUL_DB = 40
"""What int8 is asked for that must keep the text; as much more time as it is allowed."""

MOST_TIME = 1.05
"""How much time it may take, against plain int8 of the graph as it is."""


def faithful(folder: Path, audio: str | None) -> Path:
    """Write settings for three variants, in the emulation, and return their file.

    Args:
        folder: for the file.
        audio: manifest of the audio to calibrate with; None for the demo's.
    """
    default = yaml.safe_load((ROOT / "config.yaml").read_text())["variants"]["int8"]
    more = default["mixed_precision"] | {"target_sqnr": FAITHFUL_DB}
    settings = {
        "variants": {
            "fp16": None,
            "faithful": default | {"mixed_precision": more},
            "plain": default | {"mixed_precision": None, "npu_native": False},
        },
        "bundle": {"plain_encoder": False},
        "evaluation": {"engine": "emulation", "long_stream": 0},
    }
    if audio:
        settings["audio"] = {"calibration": audio}
    path = folder / "faithful.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def compare(results: Path, scores: dict) -> dict[str, float]:
    """Print what the three variants are, and return the figures of the aim."""
    from zipquant.toolkit import layer_costs
    from zipquant.toolkit.layer_table import Table

    costs, ms, same = layer_costs.costs("rk3588"), {}, {}
    for name in ("plain", "int8", "faithful"):
        table = Table.read(results / f"variants/{name}/layers.tsv")
        price, found = layer_costs.price(table, costs), scores["models"][name]
        build = json.loads((results / f"variants/{name}/build.json").read_text())
        ms[name], same[name] = sum(price) / 2, found["same"]["share"]
        print(
            f"{name}: {found['same']['same']} of {scores['utterances']} the same text, WER "
            f"{found['transcript']['word']['rate']:.2f} %, {len(table.layers)} layers, {price}, "
            f"{build['int8_macs_share']:.1%} of MACs in int8, {build['bytes'] / 1e6:.2f} MB"
        )
    times = {f"time_540_{name}": ms[name] / ms["plain"] for name in ("int8", "faithful")}
    if times["time_540_faithful"] > MOST_TIME:
        raise SystemExit(f"faithful takes more than {MOST_TIME} of plain int8's time: {times}")
    kept = {"same_text_540": same["faithful"], "same_text_540_int8": same["int8"]}
    return kept | {"same_text_540_plain": same["plain"]} | times


def figures_of(scores: dict) -> dict[str, float]:
    """Return what is kept of the error rates of a run."""
    figures = {"recognition_utterances": scores["utterances"]}
    for model, found in scores["models"].items():
        if found["transcript"]:
            figures[f"recognition_wer_{model}"] = found["transcript"]["word"]["rate"]
        if "same" in found:
            figures[f"recognition_same_text_{model}"] = found["same"]["share"]
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--audio", type=Path, help="manifest of utterances, or a folder of wavs")
    source.add_argument("--digits", type=Path, help="folder of {digit}_{speaker}_{index}.wav")
    parser.add_argument("--first", type=int, default=5, help="first index taken from --digits")
    parser.add_argument("--last", type=int, default=9, help="last index taken from --digits")
    parser.add_argument("--each", type=int, default=50, help="strings of each speaker")
    parser.add_argument("--faithful", action="store_true", help="compare three kinds of int8")
    parser.add_argument(
        "--calibrate", type=int, default=0, help="strings of each speaker, of the next 5 indices"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "tmp/recognition")
    parser.add_argument("--configfile", type=Path, help="settings besides, such as variants")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    parser.add_argument("--record", action="store_true", help="keep the figures in results.json")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if args.digits:
        rows = join(args.digits, range(args.first, args.last + 1), args.each, folder / "audio")
    else:
        rows = read(args.audio)
    more = [str(args.configfile.resolve())] if args.configfile else []
    if args.faithful:
        audio = None
        if args.calibrate:
            others = range(args.last + 1, args.last + 6)
            heard = join(args.digits, others, args.calibrate, folder / "calibration")
            audio = write(folder / "calibration.tsv", heard)
        more.append(str(faithful(folder, audio)))
    settings = [*more, str(prepare(rows, folder, args.cores))]
    command = [sys.executable, "-m", "snakemake", "--cores", str(args.cores)]
    command += ["--dry-run", "--quiet"] if args.dry_run else []
    subprocess.run([*command, "--configfile", *settings], cwd=ROOT, check=True)
    if args.dry_run:
        return
    scores = json.loads((folder / "results/scores/scores.json").read_text())
    figures = compare(folder / "results", scores) if args.faithful else figures_of(scores)
    if args.record:
        record(figures)
    else:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
