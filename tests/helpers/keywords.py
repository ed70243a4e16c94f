"""Keywords of the demo's model, and what the script of the board hears of them."""

import json
from pathlib import Path

from helpers.places import ROOT
from helpers.texts import TAIL, OnnxRunner
from zipquant import bundle
from zipquant.audio import features
from zipquant.board import keywords, transcribe, vocabulary
from zipquant.board.keyword_search import KeywordSearch, spot
from zipquant.model import contract

DEMO_AUDIO = sorted((ROOT / "demo/audio").glob("*/*.wav"))

# Single words, words that begin and end alike, boosts and thresholds, a name, and none.
DIGITS = """\
▁seven ▁seven @SEVEN_SEVEN
▁one ▁seven
▁two ▁three :2.0 #0.1 @2-3

▁four
▁six ▁one ▁four #0.5
▁one ▁four ▁one :1.5 @141
▁eight :0.5 #0.6
▁one
"""


def ours(model: Path, parts: dict, file: Path, wav: Path) -> list[tuple]:
    """Return what is heard with the script of the board: chunk, name, and frame of each token."""
    runners = [OnnxRunner(parts[part]) for part in ("decoder", "joiner")]
    described = json.loads(
        json.dumps(
            bundle.describe(contract.inspect(model), 2, {"channels": "mean", "tail_padding": TAIL})
        )
    )
    known = vocabulary.read(parts["tokens"])
    graph = keywords.Graph(keywords.read(file, known))
    search = KeywordSearch(transcribe.RunnerNetworks(*runners, 2), graph, known)
    frames = features.extract(wav, "mean", TAIL)
    stream = transcribe.Stream(OnnxRunner(model), described, frames)
    return [(chunk, hit.keyword.name, hit.frames) for chunk, hit in spot(search, stream)]
