"""Word error rates of the demo model, float and int8, on recordings of your own.

    python benchmarks/recognition.py --audio recordings.tsv
    python benchmarks/recognition.py --digits DIR --each 50

The first takes a manifest (tab-separated: id, path, text) of spoken digits; a text is "six two" or
"6 2". The second joins recordings of single digits, {digit}_{speaker}_{index}.wav, to strings of
3 to 7 digits of one speaker. Both run the whole workflow, calibrated with the demo's audio, and
print the error rates; the report is in the folder `results` below the one given by --folder.
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


def prepare(rows: list[tuple[str, str, str]], folder: Path) -> Path:
    """Write a manifest of utterances and the settings of a run, and return the settings' file.

    The results get a folder of their own below: what the run reads may not lie among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "utterances.tsv"
    with open(manifest, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, dialect="excel-tab", quoting=csv.QUOTE_NONE)
        table.writerows([("id", "path", "text"), *rows])
    shards = {"calibration": 4, "evaluation": max(2, len(rows) // 50)}
    settings = {
        "results": str(folder / "results"),
        "audio": {"evaluation": str(manifest), "shards": shards},
        "evaluation": {"one_step_chunks": 1},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder / "settings.yaml"


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
    settings = [*more, str(prepare(rows, folder))]
    command = [sys.executable, "-m", "snakemake", "--cores", str(args.cores)]
    command += ["--dry-run", "--quiet"] if args.dry_run else []
    subprocess.run([*command, "--configfile", *settings], cwd=ROOT, check=True)
    if args.dry_run:
        return
    figures = figures_of(json.loads((folder / "results/scores/scores.json").read_text()))
    if args.record:
        record(figures)
    else:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
