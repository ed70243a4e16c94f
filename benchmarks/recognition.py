"""Word error rates of the demo model, float and int8, on recordings of your own.

    python benchmarks/recognition.py --audio recordings.tsv
    python benchmarks/recognition.py --digits DIR --each 50

The first takes a manifest (tab-separated: id, path, text) of spoken digits; a text is "six two" or
"6 2". The second joins recordings of single digits, {digit}_{speaker}_{index}.wav, to strings of
3 to 7 digits of one speaker. Both run the whole workflow, calibrated with the demo's audio, and
print the error rates; the report is in the folder given by --results.
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


def evaluate(rows: list[tuple[str, str, str]], results: Path, cores: int) -> dict:
    """Run the workflow on some utterances and return its error rates."""
    results.mkdir(parents=True, exist_ok=True)
    with open(results / "utterances.tsv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, dialect="excel-tab", quoting=csv.QUOTE_NONE)
        table.writerows([("id", "path", "text"), *rows])
    shards = {"calibration": 4, "evaluation": max(2, len(rows) // 50)}
    settings = {
        "results": str(results),
        "audio": {"evaluation": str(results / "utterances.tsv"), "shards": shards},
        "evaluation": {"one_step_chunks": 1},
    }
    (results / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--configfile"]
    subprocess.run([*command, str(results / "settings.yaml")], cwd=ROOT, check=True)
    return json.loads((results / "scores/scores.json").read_text())


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
    parser.add_argument("--results", type=Path, default=ROOT / "results/recognition")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="keep the figures in results.json")
    args = parser.parse_args()
    results = args.results.resolve()
    if args.digits:
        rows = join(args.digits, range(args.first, args.last + 1), args.each, results / "audio")
    else:
        rows = read(args.audio)
    scores = evaluate(rows, results, args.cores)
    figures = {"recognition_utterances": scores["utterances"]}
    for model, found in scores["models"].items():
        if found["transcript"]:
            figures[f"recognition_wer_{model}"] = found["transcript"]["word"]["rate"]
        if "same" in found:
            figures[f"recognition_same_text_{model}"] = found["same"]["share"]
    if args.record:
        record(figures)
    else:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
