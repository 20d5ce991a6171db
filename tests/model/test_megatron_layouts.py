import pytest
import torch

from model import megatron_cases as cases
from model import megatron_steps as steps
from model.ranks import run_ranks
from tatara.errors import LayoutError
from tatara.model.megatron import transformer_config
from tatara.model.spec import MixtureOfExperts

EXPERTS = MixtureOfExperts(
    num_experts=4,
    top_k=2,
    expert_ffn_hidden_size=32,
    shared_expert_ffn_hidden_size=48,
    auxiliary_coefficient=0.05,
    z_loss_coefficient=0.01,
)
SPECS = {
    "one norm for all heads": cases.small_spec(num_layers=3, qk_norm="full"),
    "a norm per head": cases.small_spec(num_layers=4, qk_norm="head", tie_word_embeddings=True),
    "experts": cases.small_spec(num_layers=3, moe=EXPERTS),
}
DENSE = [
    (2, {"tp": 2}),
    (2, {"tp": 2, "sequence_parallel": True}),
    (2, {"pp": 2, "first_stage_layers": 1}),
    (2, {"cp": 2}),
]
SPARSE = [
    (2, {"ep": 2}),
    (2, {"tp": 2, "sequence_parallel": True}),
    (2, {"tp": 2, "sequence_parallel": True, "ep": 2}),
    (2, {"cp": 2, "ep": 2}),
    (2, {"pp": 2, "last_stage_layers": 2}),
    (4, {"tp": 2, "sequence_parallel": True, "ep": 4}),
]
LAYOUTS = [
    *(("one norm for all heads", *each) for each in DENSE),
    ("a norm per head", 2, {"tp": 2}),
    ("a norm per head", 2, {"tp": 2, "sequence_parallel": True}),
    ("a norm per head", 2, {"pp": 2, "virtual_stages": 2}),
    *(("experts", *each) for each in SPARSE),
]


@pytest.fixture(scope="module")
def one_rank():
    return {name: run_ranks(1, steps.step_gradients, spec, cases.layout())[0] for name, spec in SPECS.items()}


@pytest.mark.parametrize(("kind", "world", "sizes"), LAYOUTS, ids=str)
def test_a_layout_changes_no_gradient(kind, world, sizes, one_rank):
    loss, gradients = one_rank[kind]
    ranks = run_ranks(world, steps.step_gradients, SPECS[kind], cases.layout(**sizes))
    assert {name for _, local in ranks for name in local} == gradients.keys()
    # Only the last stage of a pipeline knows the loss.
    assert max(rank_loss for rank_loss, _ in ranks) == pytest.approx(loss, rel=1e-6)
    for _, local in ranks:
        for name, gradient in local.items():
            assert gradients[name].norm() > 0
            assert (gradient - gradients[name]).norm() < 1e-5 * gradients[name].norm(), name


def test_experts_have_their_number_in_the_model_and_weights_that_no_layout_changes():
    spec = cases.small_spec(num_layers=4, moe=EXPERTS)
    (whole,) = run_ranks(1, steps.names, spec, cases.layout())
    assert sum(tensor.numel() for tensor in whole.values()) == spec.parameter_count() + 2 * 12 * spec.hidden_size
    parts = run_ranks(4, steps.names, spec, cases.layout(ep=2, pp=2, virtual_stages=2))
    assert {name for part in parts for name in part} == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for part in parts for name, tensor in part.items())
    experts = [{name.split(".")[6] for name in part if "local_experts" in name} for part in parts]
    assert experts == [{"0", "1"}, {"2", "3"}] * 2
    # Interleaved and uneven: one and two layers per chunk.
    longer = spec.model_copy(update={"num_layers": 6})
    (whole_longer,) = run_ranks(1, steps.names, longer, cases.layout())
    uneven = cases.layout(pp=2, virtual_stages=2, first_stage_layers=2, last_stage_layers=4)
    parts = run_ranks(2, steps.names, longer, uneven)
    assert {name.split(".")[2] for name in parts[0] if ".layers." in name} == {"0", "3"}
    assert {name for part in parts for name in part} == whole_longer.keys()
    assert all(torch.equal(tensor, whole_longer[name]) for part in parts for name, tensor in part.items())
    drawn = [tensor for name, tensor in whole.items() if "local_experts" in name and "fc1" in name]
    assert len({float(tensor.sum()) for tensor in drawn}) == len(drawn) == 16


def test_the_balancing_losses_are_the_published_ones():
    ((ours, formula),) = run_ranks(1, steps.balancing_gradients, cases.small_spec(num_layers=2, moe=EXPERTS))
    assert formula.norm() > 0
    assert (ours - formula).norm() < 1e-3 * formula.norm()


def test_the_bias_moves_towards_experts_that_got_too_little_of_the_global_batch():
    moe = MixtureOfExperts(
        num_experts=4, top_k=2, expert_ffn_hidden_size=32, score="sigmoid", balancing="bias", bias_update_rate=0.25
    )
    spec = cases.small_spec(num_layers=2, moe=moe)
    for bias, counts in run_ranks(2, steps.bias_after_a_step, spec, cases.layout(ep=2)):
        assert counts.sum() == 4 * cases.SEQUENCE * 2
        assert torch.equal(bias, 0.25 * torch.sign(counts.float().mean() - counts))


@pytest.mark.parametrize("kind", ["one norm for all heads", "experts"])
def test_a_checkpoint_of_two_ranks_loads_on_one(kind, tmp_path):
    spec = SPECS[kind]
    two = cases.layout(tp=2, sequence_parallel=True, ep=1 if spec.moe is None else 2)
    saved = run_ranks(2, steps.save, spec, two, str(tmp_path))
    (loaded,) = run_ranks(1, steps.load, spec, cases.layout(), str(tmp_path))
    assert {name for part in saved for name in part} == loaded.keys()
    for name, tensor in loaded.items():
        generator = torch.Generator().manual_seed(len(name))
        assert torch.equal(tensor, torch.rand(tensor.shape, generator=generator)), name


@pytest.mark.parametrize(
    ("spec", "sizes", "message"),
    [
        (cases.small_spec(), {"ep": 2}, "ep 2 needs a mixture-of-experts model, but this one is dense"),
        (
            cases.small_spec(),
            {"pp": 2, "first_stage_layers": 1, "last_stage_layers": 2},
            "first_stage_layers 1 and last_stage_layers 2 must add up to the 4 layers",
        ),
        (SPECS["experts"], {"ep": 3}, "ep 3 must divide the 4 experts"),
        (SPECS["experts"], {"tp": 2}, "a mixture of experts with tp 2 needs sequence_parallel"),
    ],
)
def test_a_layout_that_does_not_fit_says_so(spec, sizes, message):
    with pytest.raises(LayoutError, match=message):
        transformer_config(spec, cases.layout(**sizes))
