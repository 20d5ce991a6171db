import pytest
import torch

from tatara.errors import EngineError
from tatara.model.attention.kernel import Machine, choose, chosen_kernel

CPU = Machine()
HOPPER = Machine(capability=(9, 0))
BOTH = frozenset({"flash_attn", "flash_attn_interface"})


@pytest.mark.parametrize(
    ("machine", "dtype", "name", "source"),
    [
        (CPU, torch.bfloat16, "sdpa", "CPU"),
        (HOPPER, torch.float32, "sdpa", "torch"),
        (HOPPER, torch.bfloat16, "flash", "torch"),
        (Machine((7, 5)), torch.float16, "sdpa", "torch"),
        (Machine((8, 0), BOTH), torch.bfloat16, "flash", "flash-attn"),
        (
            Machine((9, 0), BOTH),
            torch.float16,
            "flash",
            "FlashAttention-3",
        ),
    ],
)
def test_auto_takes_the_best_that_there_is(machine, dtype, name, source):
    kernel = choose("auto", dtype, machine)
    assert kernel.name == name
    assert source in kernel.source


@pytest.mark.parametrize(
    ("wanted", "machine", "dtype", "message"),
    [
        ("flash", CPU, torch.bfloat16, "flash needs a GPU, and this machine has none: use auto or sdpa"),
        ("flash", HOPPER, torch.float32, "flash needs bfloat16 or float16, and the model is float32"),
        ("flash", Machine((7, 5)), torch.float16, "flash needs a GPU of compute capability 8.0, and this one has 7.5"),
        ("flex", CPU, torch.float32, "flex needs a GPU: .* no backward pass on CPU"),
    ],
)
def test_what_the_machine_lacks_is_named(wanted, machine, dtype, message):
    with pytest.raises(EngineError, match=message):
        choose(wanted, dtype, machine)


def test_the_choice_is_kept_and_logged_once(caplog):
    chosen_kernel.cache_clear()
    with caplog.at_level("INFO"):
        assert chosen_kernel() is chosen_kernel()
    assert [r.getMessage() for r in caplog.records] == [f"attention kernel: {chosen_kernel()}"]


def test_flex_has_no_backward_pass_on_cpu():
    """If this fails, torch has learned it: let it be chosen there."""
    tensor = torch.randn(1, 1, 128, 16, requires_grad=True)
    with pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        torch.nn.attention.flex_attention.flex_attention(tensor, tensor, tensor)
