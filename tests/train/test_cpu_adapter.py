import multiprocessing
import subprocess
import sys

import pytest

from model.ranks import PRELOADED, run_ranks
from train import adapter_cases as cases


def test_the_parts_it_replaces():
    assert run_ranks(1, cases.replaced)[0] == {
        "installed again": True,
        "cuda available": False,
        "current device": "cpu",
        "type outside": "torch.FloatTensor",
        "torch itself refuses cuda": True,
        "megatron allocates": "cpu",
    }


def test_its_collectives_do_what_torchs_do():
    for found in run_ranks(3, cases.collectives):
        assert found["sum"].tolist() == found["expected"].tolist()
        assert found["mean"].tolist() == pytest.approx((found["expected"] / 3).tolist())
        assert found["gathered"].tolist() == [0.0] * 3 + [1.0] * 3 + [2.0] * 3


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
            "import megatron.core.tensor_parallel.random as m\nm._get_cuda_rng_state = lambda device, clone: None",
            "it takes device, clone, not device, clone, graph_safe",
        ),
        (
            "import megatron.core.transformer.moe.token_dispatcher as m; del m.maybe_move_tensor_to_cpu",
            "replaces megatron.core.transformer.moe.token_dispatcher.maybe_move_tensor_to_cpu, which this version",
        ),
    ],
    ids=["version", "module", "signature", "name"],
)
def test_an_unknown_megatron_fails_by_name(change, message):
    # Forked from a process that has imported Megatron and knows nothing of the adapter.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with context.Pool(1) as pool:
        assert message in pool.apply(cases.refusal_after, (change,))
