"""The figures of the fault campaign: nothing lost, nothing silently wrong, all in the docs."""

import json
import re

import pytest

from helpers.places import ROOT

FIGURES = json.loads((ROOT / "benchmarks/faults.json").read_text())


def test_nothing_was_lost_or_silently_wrong():
    assert FIGURES["lost"] == FIGURES["silently_wrong"] == 0
    assert FIGURES["kills"] >= 50 and FIGURES["damaged"] >= 100
    assert all("failure" not in kind for kind in FIGURES["details"]["inputs"].values())


def changes_and_obstacles(details: dict) -> list[int]:
    """What was exchanged or damaged, how results was spelled, and what was in the way."""
    if not {"changes", "obstacles"} <= details.keys():
        return []  # a campaign of before these parts
    spelled = details["changes"]["spellings of the results folder"]
    return [sum(details["changes"].values()) - spelled, spelled, sum(details["obstacles"].values())]


def rows() -> list[int]:
    """The numbers of the table in the docs, in its order."""
    details = FIGURES["details"]
    kills = [item for kinds in details["kills"].values() for item in kinds.items()]
    places = details["places"]
    return [
        FIGURES["kills"],
        sum(count for kind, count in kills if "mid-write" in kind),
        FIGURES["damaged"],
        sum(details["repair"].values()),
        len(places["disk full during"]),
        len(places) - 1,
        *changes_and_obstacles(details),
        len(details["toolkit"]),
        *(kind["tried"] for kind in details["inputs"].values()),
        FIGURES["lost"],
        FIGURES["silently_wrong"],
    ]


@pytest.mark.parametrize("page", ["faults.md", "faults.zh-CN.md"])
def test_page_has_the_figures_of_the_campaign(page):
    lines = (ROOT / "docs" / page).read_text().splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    counts = [cell[1].strip().replace(",", "") for cell in cells]
    assert [int(count) for count in counts if re.fullmatch(r"\d+", count)] == rows()
