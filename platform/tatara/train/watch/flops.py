"""How much arithmetic a step is, and what share of the hardware's peak that makes (model FLOP utilisation).

The count is `ModelSpec.flops_per_token`: matrix products of the model only (two operations per weight and token
forward, four backward), attention scores and values within documents and causal only, active experts only. What
recomputation repeats, padding, and what the masked half of a score matrix costs are not in it: they take time, but are
no progress (arXiv:2204.02311 appendix B calls the quotient model FLOPs utilisation, MFU).
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tatara.model.spec import ModelSpec

_MEASURED_SIZE = 1024

# Dense peaks in FLOP/s from the makers' data sheets (which print twice that, for structured sparsity), as the device
# names itself: bfloat16 and FP8 (None: the device has none). The first name that a device's name contains counts.
_PEAKS: tuple[tuple[str, float, float | None], ...] = (
    ("GB300", 2500e12, 5000e12),
    ("B300", 2250e12, 4500e12),
    ("GB200", 2500e12, 5000e12),
    ("B200", 2250e12, 4500e12),
    ("GH200", 989e12, 1979e12),
    ("H200 NVL", 835e12, 1671e12),
    ("H200", 989e12, 1979e12),
    ("H100 NVL", 835e12, 1671e12),
    ("H100 PCIe", 756e12, 1513e12),
    ("H100", 989e12, 1979e12),
    ("H800", 989e12, 1979e12),
    ("H20", 148e12, 296e12),
    ("A100", 312e12, None),
    ("A800", 312e12, None),
    ("L40S", 362e12, 733e12),
    ("L40", 181e12, 362e12),
    ("L4", 121e12, 242e12),
    ("MI355X", 2500e12, 5000e12),
    ("MI350X", 2300e12, 4600e12),
    ("MI325X", 1307e12, 2615e12),
    ("MI300X", 1307e12, 2615e12),
    # One device is one of the two dies of a card.
    ("MI250X", 191.5e12, None),
)


@dataclass(frozen=True)
class DocumentLoad:
    """What the arithmetic of a batch depends on; loads add up."""

    tokens: int = 0
    """Positions that are no padding."""
    squares: int = 0
    """Sum of the squared lengths of the documents, tokens squared."""

    def __add__(self, other: "DocumentLoad") -> "DocumentLoad":
        return DocumentLoad(self.tokens + other.tokens, self.squares + other.squares)

    def __mul__(self, times: int) -> "DocumentLoad":
        return DocumentLoad(self.tokens * times, self.squares * times)

    @property
    def mean_length(self) -> float:
        """Mean over tokens of the length of their document, in tokens."""
        return self.squares / self.tokens if self.tokens else 0.0

    def flops(self, spec: ModelSpec) -> float:
        """Floating-point operations of one forward and backward pass over the batch."""
        return spec.flops_per_token(self.mean_length) * self.tokens


def document_load(document_ids: npt.NDArray[np.int64]) -> DocumentLoad:
    """Count a batch.

    Args:
        document_ids: ``[rows, sequence]``, as in `Batch.document_ids`: a number per segment of a row, segments in one
            piece, -1 on padding.
    """
    if not document_ids.size:
        return DocumentLoad()
    starts = np.ones(document_ids.shape, dtype=bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    places = np.flatnonzero(starts)
    lengths = np.diff(np.append(places, document_ids.size))
    lengths = lengths[document_ids.reshape(-1)[places] >= 0].astype(np.int64)
    return DocumentLoad(int(lengths.sum()), int((lengths**2).sum()))


@dataclass(frozen=True)
class Peak:
    """What one device can do at most."""

    flops_per_second: float
    source: Literal["published", "measured"]


@dataclass(frozen=True)
class Speed:
    """What one device did."""

    flops_per_second: float
    """Of the model, per device."""
    utilisation: float
    """Share of the peak (MFU), 0 to 1 for a published peak."""

    def figures(self) -> dict[str, float]:
        """As the fields of a ``step`` event: TFLOP/s per device, and MFU as a fraction."""
        return {"tflops_per_device": self.flops_per_second / 1e12, "mfu": self.utilisation}


def speed(spec: ModelSpec, load: DocumentLoad, seconds: float, devices: int, peak: Peak) -> Speed:
    """Speed of a step.

    Args:
        spec: The architecture.
        load: Of the global batch, over all data-parallel ranks.
        seconds: That the step took.
        devices: That worked on it: the world size.
        peak: Of one device.
    """
    each = load.flops(spec) / (seconds * devices) if seconds > 0 else 0.0
    return Speed(each, each / peak.flops_per_second)


def published_peak(device_name: str, precision: Literal["bfloat16", "fp8"] = "bfloat16") -> float | None:
    """Dense peak of a device in FLOP/s, by the name that it gives itself; None when it is not known.

    A part of a device (NVIDIA's MIG) has no published peak.
    """
    if " MIG " in device_name:
        return None
    for name, bfloat16, fp8 in _PEAKS:
        if name.lower() in device_name.lower():
            return bfloat16 if precision == "bfloat16" else fp8
    return None


def measured_peak(device: Any, dtype: Any, seconds: float = 0.3) -> float:
    """The best speed of a square matrix product within a short time, in FLOP/s.

    Args:
        device: A ``torch.device``. On a CPU the product runs on as many threads as torch is set to use.
        dtype: A ``torch.dtype``.
        seconds: How long to try, at least three times.
    """
    import torch

    size = _MEASURED_SIZE if device.type == "cpu" else 8 * _MEASURED_SIZE
    one = torch.ones(size, size, device=device, dtype=dtype)
    best, tries, begun = float("inf"), 0, time.perf_counter()
    while tries < 3 or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        torch.mm(one, one)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best, tries = min(best, time.perf_counter() - started), tries + 1
    return 2.0 * size**3 / best


def device_peak(device: Any, dtype: Any, fp8: bool = False) -> Peak:
    """The peak to compare with: the published one where there is one for this precision, else a measured one.

    Args:
        device: A ``torch.device``.
        dtype: ``torch.dtype`` of the matrix products; only bfloat16 and float16 have published peaks here.
        fp8: Whether the matrix products run in FP8.
    """
    import torch

    if device.type == "cuda" and (fp8 or dtype in (torch.bfloat16, torch.float16)):
        published = published_peak(torch.cuda.get_device_name(device), "fp8" if fp8 else "bfloat16")
        if published is not None:
            return Peak(published, "published")
    return Peak(measured_peak(device, dtype), "measured")
