"""The weights that an engine must get at every update: all of them, each once, in the shapes it was started with."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tatara.errors import EngineError

if TYPE_CHECKING:
    import torch

FP8 = "F8_E4M3"
FP8_MAX = 448.0
"""Largest number of float8_e4m3fn (Micikevicius et al. 2022, arXiv:2209.05433, table 1)."""


class ExpectedWeights:
    """What the checkpoint that an engine was started from holds."""

    def __init__(self, model: Path) -> None:
        """Read the headers of a checkpoint.

        Args:
            model: Directory in the Hugging Face layout.

        Raises:
            ArtifactError: Its weights cannot be read.
        """
        from tatara.model.safetensors_files import TensorDirectory

        directory = TensorDirectory(model)
        self._shapes = directory.shapes()
        codes = directory.dtypes()
        self._scales = {
            name: _scale_of(name) for name, code in codes.items() if code == FP8 and _scale_of(name) in self._shapes
        }

    def names(self) -> set[str]:
        """The tensors that a trainer must send: the scales of quantised ones are made here."""
        return set(self._shapes) - set(self._scales.values())

    def check(self, given: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse an update before anything of it is loaded.

        Args:
            given: Name and shape of each tensor that will come.

        Raises:
            EngineError: A tensor is missing, unknown or of another shape.
        """
        for name, shape in given.items():
            self._check(name, shape)
        self._check_complete(given)

    def checked(self, stream: "Iterable[tuple[str, torch.Tensor]]") -> "Iterator[tuple[str, torch.Tensor]]":
        """A stream as the engine's checkpoint would hold it, every tensor accounted for.

        Weights that the checkpoint holds in FP8 are quantised: a scale for each row.

        Raises:
            EngineError: A tensor is missing, unknown, of another shape, or comes twice.
        """
        seen: set[str] = set()
        for name, tensor in stream:
            self._check(name, tuple(tensor.shape))
            if name in seen:
                raise EngineError(f"the weights of an update hold {name} twice")
            seen.add(name)
            scale = self._scales.get(name)
            if scale is None or tensor.dtype.itemsize == 1:
                yield name, tensor
            else:
                quantised, scales = quantise_rows(tensor)
                yield name, quantised
                yield scale, scales.view(self._shapes[scale])
                seen.add(scale)
        self._check_complete(seen)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        expected = self._shapes.get(name)
        if expected is None:
            raise EngineError(f"the weights of an update hold {name}, which the engine's model does not have")
        if expected != shape:
            raise EngineError(f"{name} has shape {list(shape)} in an update, {list(expected)} in the engine's model")

    def _check_complete(self, given: Iterable[str]) -> None:
        missing = sorted(self.names() - set(given))
        if missing:
            raise EngineError(
                f"the weights of an update lack {len(missing)} of {len(self.names())}, first {missing[0]}"
            )


def quantise_rows(weight: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Quantise a matrix to FP8 with one scale for each row.

    Args:
        weight: ``[outputs, inputs]``, floating point.

    Returns:
        ``float8_e4m3fn [outputs, inputs]`` and ``float32 [outputs, 1]``; their product is about ``weight``.
    """
    import torch

    wide = weight.float()
    # A row of zeros has any scale.
    scales = wide.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny * FP8_MAX) / FP8_MAX
    return (wide / scales).to(torch.float8_e4m3fn), scales


def _scale_of(name: str) -> str:
    return f"{name}_scale"
