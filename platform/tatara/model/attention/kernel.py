"""Which kernel computes attention: what this machine has, and what was asked for."""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from typing import Literal

import torch

from tatara.errors import EngineError
from tatara.model.attention import cpu, varlen
from tatara.model.attention.pieces import Work

Wanted = Literal["auto", "sdpa", "flex", "flash"]
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Work, float | None], torch.Tensor]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What matters for the choice."""

    capability: tuple[int, int] | None = None
    """Of the GPU; None without one."""
    modules: frozenset[str] = frozenset()
    """Which of ``flash_attn`` and ``flash_attn_interface`` (FlashAttention-3) are installed."""

    @staticmethod
    def here() -> "Machine":
        """This one."""
        names = ("flash_attn", "flash_attn_interface")
        return Machine(
            torch.cuda.get_device_capability() if torch.cuda.is_available() else None,
            frozenset(name for name in names if importlib.util.find_spec(name)),
        )


@dataclass(frozen=True)
class Kernel:
    """What computes attention.

    Attributes:
        name: ``sdpa``, ``flex`` or ``flash``.
        source: Which implementation, with its version.
        attend: Attention of the queries of a context-parallel rank to all keys; see `cpu.attend`.
    """

    name: str
    source: str
    attend: Attend

    def __str__(self) -> str:
        return f"{self.name} ({self.source})"


def choose(wanted: Wanted, dtype: torch.dtype, machine: Machine) -> Kernel:
    """The kernel that was asked for, or with ``auto`` the fastest.

    Raises:
        EngineError: The machine lacks what the kernel needs.
    """
    here = f"torch {torch.__version__}"
    missing = _flash_needs(dtype, machine)
    if wanted == "flash" or (wanted == "auto" and not missing):
        if missing:
            raise EngineError(f"attention kernel flash needs {missing}: use auto or sdpa")
        if "flash_attn_interface" in machine.modules and machine.capability and machine.capability[0] == 9:
            return _packed("flash", _version("flash_attn_3", "FlashAttention-3"), varlen.flash_attention_3)
        if "flash_attn" in machine.modules:
            return _packed("flash", _version("flash_attn", "flash-attn"), varlen.flash_attention)
        return _packed("flash", here, varlen.torch_varlen)
    if wanted == "flex":
        if machine.capability is None:
            raise EngineError(
                f"attention kernel flex needs a GPU: FlexAttention of {here} has no backward pass on CPU; use sdpa"
            )
        # Brings the compiler along.
        from tatara.model.attention import flex

        return Kernel("flex", here, flex.attend)
    if machine.capability is None:
        return Kernel("sdpa", f"{here}, by blocks on CPU", cpu.attend)
    return _packed("sdpa", here, varlen.sdpa)


@cache
def chosen_kernel(wanted: Wanted = "auto", dtype: torch.dtype = torch.bfloat16) -> Kernel:
    """The kernel for this machine; says so in the log once.

    Raises:
        EngineError: The machine lacks what the kernel needs.
    """
    kernel = choose(wanted, dtype, Machine.here())
    _log.info("attention kernel: %s", kernel)
    return kernel


def _flash_needs(dtype: torch.dtype, machine: Machine) -> str | None:
    """What is missing for flash-attention."""
    if machine.capability is None:
        return "a GPU, and this machine has none"
    if machine.capability < (8, 0):
        return f"a GPU of compute capability 8.0, and this one has {'.'.join(map(str, machine.capability))}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"bfloat16 or float16, and the model is {str(dtype).removeprefix('torch.')}"
    return None


def _packed(name: str, source: str, function: varlen.Kernel) -> Kernel:
    return Kernel(name, source, partial(varlen.attend, kernel=function))


def _version(distribution: str, name: str) -> str:
    try:
        return f"{name} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return name
