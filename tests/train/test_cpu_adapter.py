import subprocess
import sys

import pytest

from model.megatron_cases import layout
from model.ranks import run_ranks
from train import adapter_cases as cases


def close(one, other, tolerance=1e-5):
    """Losses and gradient norms, relative."""
    return len(one) == len(other) and all(
        a == pytest.approx(b, rel=tolerance)
        for pair in zip(one, other, strict=True)
        for a, b in zip(*pair, strict=True)
    )


@pytest.fixture(scope="module")
def one_rank():
    return run_ranks(1, cases.train, layout(), distributed_optimizer=False)[0]


def test_training_learns(one_rank):
    losses = [loss for loss, _ in one_rank]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize(
    ("world", "sizes", "distributed_optimizer"),
    [
        (1, {}, True),
        (2, {}, True),
        (2, {}, False),
        (2, {"tp": 2, "sequence_parallel": True}, True),
        (2, {"cp": 2}, True),
        (2, {"pp": 2}, True),
        (2, {"pp": 2, "virtual_stages": 2}, True),
        (4, {"tp": 2, "pp": 2}, True),
    ],
    ids=str,
)
def test_a_layout_changes_neither_losses_nor_gradients(world, sizes, distributed_optimizer, one_rank):
    for steps in run_ranks(world, cases.train, layout(**sizes), distributed_optimizer=distributed_optimizer):
        assert close(steps, one_rank)


def test_a_tied_table_is_one_table_under_pipeline_parallelism():
    alone = run_ranks(1, cases.train, layout(), tie_word_embeddings=True)[0]
    assert close(run_ranks(2, cases.train, layout(pp=2), tie_word_embeddings=True)[0], alone)


def test_bfloat16_keeps_float32_in_the_optimizer(one_rank):
    rounded = run_ranks(2, cases.train, layout(), dtype="bfloat16")[0]
    assert close(rounded, one_rank, tolerance=0.02)
    assert not close(rounded, one_rank, tolerance=1e-5)


@pytest.mark.slow
def test_a_checkpoint_continues_in_every_layout(tmp_path):
    expected = run_ranks(2, cases.train_and_save, layout(tp=2), tmp_path / "checkpoint")[0]
    for world, sizes in ((1, {}), (2, {}), (2, {"pp": 2, "virtual_stages": 2}), (2, {"cp": 2})):
        assert close(run_ranks(world, cases.load_and_train, layout(**sizes), tmp_path / "checkpoint")[0], expected)


def test_experts_on_two_ranks_are_the_experts_of_one():
    (alone,) = run_ranks(1, cases.mixture_losses, 1)
    for spread in run_ranks(2, cases.mixture_losses, 2):
        assert (spread - alone).abs().max() < 1e-3 * alone.abs().max()


def test_the_parts_it_replaces(one_rank):
    assert run_ranks(1, cases.replaced)[0] == {
        "installed again": True,
        "cuda available": False,
        "current device": "cpu",
        "type outside": "torch.FloatTensor",
        "torch itself refuses cuda": True,
        "megatron allocates": "cpu",
    }


def run_alone(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_with_a_gpu_nothing_is_touched():
    # This machine need not have one: what the adapter asks is answered as a machine with a GPU would.
    result = run_alone("""
import torch
torch.cuda.is_available = lambda: True
before = {name: getattr(torch.cuda, name) for name in dir(torch.cuda)}, torch.Tensor.cuda, torch.Tensor.type
from tatara.train import cpu_adapter
assert cpu_adapter.install() is False
after = {name: getattr(torch.cuda, name) for name in before[0]}, torch.Tensor.cuda, torch.Tensor.type
assert before == after
import sys
assert not any(name.startswith("megatron") for name in sys.modules)
print("untouched")
""")
    assert result.stdout == "untouched\n", result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("import megatron.core as m; m.__version__ = '0.17.0'", "knows megatron-core 0.16.x, but 0.17.0 is installed"),
        (
            "import megatron.core.optimizer.clip_grads as m; m.torch = None",
            "does not know this megatron.core.optimizer.clip_grads",
        ),
        (
            "import megatron.core.optimizer.distrib_optimizer as m\n"
            "m.DistributedOptimizer.load_state_dict = lambda self, state, strict: None",
            "it takes self, state, strict, not self, state_dict",
        ),
        (
            "import megatron.core.transformer.moe.token_dispatcher as m; del m.maybe_move_tensor_to_cpu",
            "replaces megatron.core.transformer.moe.token_dispatcher.maybe_move_tensor_to_cpu, which this version",
        ),
    ],
    ids=["version", "module", "signature", "name"],
)
def test_an_unknown_megatron_fails_by_name(change, message):
    result = run_alone(f"{change}\nfrom tatara.train import cpu_adapter\ncpu_adapter.install()")
    assert "EngineError" in result.stderr
    assert message in result.stderr
