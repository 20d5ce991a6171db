"""Averages kept by the ranks against a plain loop, and their exact continuation."""

import math

import pytest

from model.ranks import run_ranks
from train.checkpoint import average_cases
from train.tokens_cases import write_tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return str(write_tokens(tmp_path_factory.mktemp("averages") / "tokens"))


@pytest.mark.parametrize(
    ("world", "layout", "resume_in"),
    [(1, {}, {}), (2, {}, {}), (2, {"tp": 2}, {"tp": 2})],
    ids=["one rank", "dp2", "tp2"],
)
def test_they_equal_a_plain_loop_and_resume_bit_for_bit(tokens, tmp_path, world, layout, resume_in):
    for result in run_ranks(world, average_cases.averages, tokens, str(tmp_path), layout, resume_in):
        differences, restored, kept, resumed, (loss,) = result
        # Two roundings of weights of about one.
        assert max(differences) < 3e-7
        assert restored
        assert resumed == kept
        assert math.isfinite(loss)


def test_they_reshard(tokens, tmp_path):
    results = run_ranks(2, average_cases.averages, tokens, str(tmp_path), {}, {"pp": 2})
    # Sums over all ranks: of no parameter is there a copy.
    for kept, resumed in zip(
        [sum(map(sum, rank)) for rank in zip(*(result[2] for result in results), strict=True)],
        [sum(map(sum, rank)) for rank in zip(*(result[3] for result in results), strict=True)],
        strict=True,
    ):
        assert resumed == pytest.approx(kept, rel=1e-5)
