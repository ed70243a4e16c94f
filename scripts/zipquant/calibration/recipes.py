"""Recipes: the ways of making a calibration set, each a name for three independent choices.

The Snakefile imports this module on every start, so it needs nothing but the standard library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One way of making a calibration set.

    Attributes:
        front_end: how features are computed: `kaldi` as on the board (`features.fbank`),
            `librosa-db` or `librosa-preemphasis` (`front_ends`).
        states: `real` as the float model hands them on, `zero` in every row, or `none`: rows of
            features alone.
        strategy: which chunks are taken, see `sampling.STRATEGIES`.
    """

    front_end: str
    states: str
    strategy: str


RECIPES = {
    "05-streaming": Recipe("librosa-db", "real", "all"),
    "06-snapshot": Recipe("librosa-db", "none", "snapshot"),
    "07-hybrid": Recipe("librosa-db", "zero", "snapshot"),
    "08-final": Recipe("librosa-preemphasis", "zero", "snapshot"),
    "09": Recipe("librosa-preemphasis", "real", "uniform"),
    "exact": Recipe("kaldi", "real", "coverage"),
}
"""The five scripts that were tried before, in their order, and Zipquant's own way."""


def resolve(settings: Mapping[str, Any]) -> Recipe:
    """Return what the configuration asks for: a recipe, with single choices replaced.

    Args:
        settings: the section `calibration`: `recipe`, and `front_end`, `states` and `strategy`,
            each null where the recipe's own is meant.
    """
    recipe = RECIPES[settings["recipe"]]
    return Recipe(
        settings["front_end"] or recipe.front_end,
        settings["states"] or recipe.states,
        settings["strategy"] or recipe.strategy,
    )
