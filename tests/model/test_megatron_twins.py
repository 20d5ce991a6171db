import pytest

from model import megatron_twins as twins
from model.megatron_cases import SEQUENCE, small_spec
from model.ranks import run_ranks
from tatara.model.spec import MixtureOfExperts, RopeScaling


def experts(**changes):
    return MixtureOfExperts(**({"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 48} | changes))


YARN = RopeScaling(type="yarn", factor=4.0, original_max_position_embeddings=SEQUENCE // 4)
LLAMA3 = RopeScaling(
    type="llama3", factor=8.0, original_max_position_embeddings=32, low_freq_factor=1.0, high_freq_factor=4.0
)
KINDS = {
    "llama": {"rope_scaling": LLAMA3},
    "llama with yarn": {"rope_scaling": YARN},
    "qwen3": {"qk_norm": "head", "tie_word_embeddings": True, "head_dim": 32},
    "instella": {"qk_norm": "full", "num_query_groups": 4},
    "grouped heads under one norm": {"qk_norm": "full"},
    "mixtral": {"moe": experts()},
    "qwen3 moe": {"qk_norm": "head", "moe": experts(top_k=3)},
    "olmoe": {"qk_norm": "full", "moe": experts(normalize_top_k=False)},
    "glm4 moe": {
        "qk_norm": "head",
        "moe": experts(score="sigmoid", balancing="bias", shared_expert_ffn_hidden_size=48, scaling_factor=2.5),
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_says_what_that_of_transformers_says(kind):
    ((ours, theirs),) = run_ranks(1, twins.logits_of_both, small_spec(num_layers=2, **KINDS[kind]))
    assert theirs.std() > 0.3
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 500000.0, "max_position_embeddings": 2 * SEQUENCE},
        {"rope_scaling": YARN},
        {"rope_scaling": None},
        {"rope_scaling": RopeScaling(type="linear", factor=2.0)},
    ],
    ids=str,
)
def test_a_live_model_takes_other_rotary_positions(changes):
    before = small_spec(num_layers=2, rope_scaling=RopeScaling(**YARN.model_dump() | {"attention_factor": 1.5}))
    after = before.model_copy(update=changes)
    ((ours, theirs),) = run_ranks(1, twins.logits_of_both, before, after)
    assert (ours - theirs).abs().max() < 1e-4
