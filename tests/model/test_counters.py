"""How long the counters among a model's states last in float16."""

import pytest

from helpers.places import DEMO_MODEL
from zipquant.model import counters
from zipquant.model.streaming import OnnxEncoder


def test_limit_of_float16_counters_follows_from_the_model(demo_contract):
    limit = counters.counter_limit(OnnxEncoder(DEMO_MODEL, demo_contract), demo_contract)
    # 16 of 32 frames a chunk in the fastest stack: 50 a second.
    assert (limit["state"], limit["frames_per_chunk"]) == ("cached_len_0", 16)
    assert limit["exact_minutes"] == pytest.approx(2048 / 50 / 60)
    assert limit["end_minutes"] == pytest.approx(65504 / 50 / 60)
