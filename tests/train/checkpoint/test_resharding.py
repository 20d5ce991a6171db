"""A checkpoint of any layout continues in any other, with its optimizer's state."""

import pytest

from model.ranks import run_ranks
from train.checkpoint import checkpoint_cases as cases
from train.tokens_cases import write_tokens

DENSE = {"num_layers": 4}
MIXTURE = {
    "num_layers": 2,
    "moe": {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 32, "score": "sigmoid", "balancing": "bias"},
}
TP = {"tp": 2, "sequence_parallel": True}
LAYOUTS = {
    "dense": {
        "dp2": {},
        "tp2": TP,
        "pp2-uneven": {"pp": 2, "first_stage_layers": 1, "last_stage_layers": 3},
        "pp2-interleaved": {"pp": 2, "virtual_stages": 2},
    },
    "mixture": {"dp2": {}, "ep2": {"ep": 2}, "tp2": TP, "pp2": {"pp": 2}},
}
# Saved in the first, loaded in the second; with one rank, each is loaded again.
PAIRS = {
    "dense": [
        ("dp2", {"cp": 2}),
        ("tp2", LAYOUTS["dense"]["pp2-uneven"]),
        ("pp2-uneven", LAYOUTS["dense"]["pp2-interleaved"]),
        ("pp2-interleaved", TP),
        ("one", {}),
    ],
    "mixture": [("dp2", {"ep": 2}), ("ep2", TP), ("ep2", {"pp": 2}), ("tp2", {}), ("one", {"ep": 2})],
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return str(write_tokens(tmp_path_factory.mktemp("resharding") / "tokens"))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_goes_on_in_every_other(tokens, tmp_path, kind):
    changes = DENSE if kind == "dense" else MIXTURE
    layouts, root = LAYOUTS[kind], str(tmp_path)
    reference = run_ranks(1, cases.save_in, tokens, root, {"one": {}}, changes)[0]["one"]
    undisturbed = run_ranks(2, cases.save_in, tokens, root, layouts, changes)[0]
    for losses in undisturbed.values():
        assert losses == pytest.approx(reference, rel=1e-5)

    same = list(layouts.items())
    resumed = run_ranks(2, cases.load_in, tokens, root, same + PAIRS[kind], changes)[0]
    assert resumed[: len(same)] == list(undisturbed.values())
    for losses in resumed[len(same) :]:
        assert losses == pytest.approx(reference, rel=1e-5)

    alone = run_ranks(1, cases.load_in, tokens, root, [("one", {}), *((name, {}) for name in layouts)], changes)[0]
    assert alone[0] == reference
    for losses in alone[1:]:
        assert losses == pytest.approx(reference, rel=1e-5)
