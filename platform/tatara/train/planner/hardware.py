"""Accelerators that a run can be planned for: what their makers publish, and what matrix products reach on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tatara.config import nearest
from tatara.errors import ConfigError

Precision = Literal["bf16", "fp8"]
GIB = 2**30
_GB = 1e9


@dataclass(frozen=True)
class Hardware:
    """One accelerator and the network around it. Rates are per device and direction.

    Attributes:
        name: What the command line calls it.
        bf16: Published dense peak, FLOP/s.
        fp8: The same in FP8; None where there is none.
        reached: Share of the peak that the fastest matrix product of any shape reaches.
        memory: Bytes.
        memory_bandwidth: Bytes/s.
        node: Devices that the fast network joins.
        fast: Within a node (NVLink, Infinity Fabric), bytes/s.
        slow: Between nodes, bytes/s of a device's own network card.
    """

    name: str
    bf16: float
    fp8: float | None
    reached: float
    memory: float
    memory_bandwidth: float
    node: int
    fast: float
    slow: float

    def peak(self, precision: Precision) -> float:
        """Published dense peak in FLOP/s.

        Raises:
            ConfigError: It cannot compute in FP8.
        """
        if precision == "bf16":
            return self.bf16
        if self.fp8 is None:
            raise ConfigError(f"{self.name} has no FP8 matrix products: plan with precision bf16")
        return self.fp8


def _entry(
    name: str,
    peaks: tuple[float, float | None],
    reached: float,
    memory: tuple[float, float],
    network: tuple[int, float, float],
) -> Hardware:
    """In units of data sheets: TFLOP/s; share; GB and GB/s; devices per node, GB/s and Gbit/s one way."""
    bf16, fp8 = peaks
    size, bandwidth = memory
    node, fast, slow = network
    return Hardware(
        name=name,
        bf16=bf16 * 1e12,
        fp8=fp8 * 1e12 if fp8 else None,
        reached=reached,
        memory=size * GIB,
        memory_bandwidth=bandwidth * _GB,
        node=node,
        fast=fast * _GB,
        slow=slow / 8 * _GB,
    )


# Peaks, memory and links from data sheets (those of sparsity halved, links in one direction). ``reached`` is the
# fastest matrix product measured over the peak: the "maximum achievable matmul FLOPS" of Bekman's Machine Learning
# Engineering (chapter on accelerators, tables of bf16) for the A100, H100, MI300X and MI325X; other Hoppers take the
# H100's. For Blackwell none is published there: it is taken to be the Hopper's.
_ENTRIES = (
    _entry("a100", (312, None), 0.87, (80, 2039), (8, 300, 200)),
    _entry("h100", (989, 1979), 0.80, (80, 3350), (8, 450, 400)),
    _entry("h800", (989, 1979), 0.80, (80, 3350), (8, 200, 400)),
    _entry("h200", (989, 1979), 0.80, (141, 4800), (8, 450, 400)),
    _entry("b200", (2250, 4500), 0.80, (180, 8000), (8, 900, 400)),
    _entry("gb200", (2500, 5000), 0.80, (186, 8000), (72, 900, 400)),
    _entry("mi300x", (1307, 2615), 0.51, (192, 5300), (8, 448, 400)),
    _entry("mi325x", (1307, 2615), 0.60, (256, 6000), (8, 448, 400)),
)
HARDWARE: Mapping[str, Hardware] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""By name."""


def find_hardware(name: str) -> Hardware:
    """The accelerator of a name.

    Raises:
        ConfigError: There is none; the message names the nearest.
    """
    found = HARDWARE.get(name.lower())
    if found is None:
        raise ConfigError(f"unknown hardware '{name}'; {nearest(name.lower(), HARDWARE)}")
    return found
