"""Show what Zipquant reads of a folder of audio or of a manifest.

python scripts/show_manifest.py SOURCE              # the kind, the counts, the first utterances
python scripts/show_manifest.py SOURCE --output m.tsv    # all of them, as a manifest of our own
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from zipquant.audio import manifest
from zipquant.audio.manifests.kinds import kind_of
from zipquant.audio.split import split
from zipquant.errors import UserError, plain
from zipquant.jobs import files

FIRST = 5


def main() -> None:
    """Read the source, and print or write what it holds."""
    parser = argparse.ArgumentParser(description="Show what is read of a folder or a manifest.")
    parser.add_argument("source", help="a folder of audio, or a manifest")
    parser.add_argument("--output", type=Path, help="write all utterances to this TSV manifest")
    arguments = parser.parse_args()
    try:
        utterances = manifest.read(arguments.source)
        remarks = manifest.remarks(arguments.source)
        kind = kind_of(arguments.source).NAME
    except UserError as error:
        sys.exit(f"error: {plain(str(error))}")
    spoken = sum(bool(utterance.text) for utterance in utterances)
    print(f"{plain(arguments.source)}: {kind}, {len(utterances)} utterances, {spoken} transcripts")
    if len(utterances) > 1:
        print(f"as audio.source it would be split {split(utterances).how}")
    for utterance in utterances[:FIRST]:
        end = "" if utterance.end is None else f"{utterance.end:g}"
        part = f" [{utterance.start:g}-{end} s]" if utterance.start or end else ""
        print(plain(f"  {utterance.id}: {utterance.path}{part} {utterance.text}"))
    for remark in remarks:
        print(f"warning: {plain(remark)}")
    if beside := manifest.passed_over(arguments.source):
        print(plain(beside))
    if arguments.output:
        folder = arguments.output.parent
        with files.tsv_writer(arguments.output) as table:
            table.writerow(["id", "path", "text", "start", "end"])
            for u in utterances:
                end = "" if u.end is None else f"{u.end:g}"
                table.writerow([u.id, os.path.relpath(u.path, folder), u.text, f"{u.start:g}", end])


if __name__ == "__main__":
    main()
