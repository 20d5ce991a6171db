"""What a process with the CPU adapter sees, for its tests."""

from typing import Any

import torch


def replaced() -> dict[str, Any]:
    """What a process with the adapter sees."""
    from megatron.core.optimizer import clip_grads

    from tatara.train import cpu_adapter

    try:
        torch.zeros(1, device="cuda")
        refuses = False
    except (AssertionError, RuntimeError):
        refuses = True
    return {
        "installed again": cpu_adapter.install(),
        "cuda available": torch.cuda.is_available(),
        "current device": str(torch.cuda.current_device()),
        "type outside": torch.zeros(1).type(),
        "torch itself refuses cuda": refuses,
        "megatron allocates": str(clip_grads.torch.zeros(1, device="cuda").device),
    }
