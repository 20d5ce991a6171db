"""How a dense model becomes a mixture of experts: settings, and what can be said of them without the weights."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from tatara.config import Config
from tatara.errors import ConfigError
from tatara.model.spec import ModelSpec

_TAKES = {"copy": set(), "noise": {"ratio", "noise"}, "drop": {"ratio"}, "granular": {"granularity"}}


class UpcycleSettings(Config):
    """How experts and router are made from a dense feed-forward."""

    method: Literal["copy", "noise", "drop", "granular"] = "drop"
    """``copy``: every expert is the dense feed-forward (arXiv:2212.05055). ``noise``: the same, with Gaussian noise
    added to a part of its neurons (a variant of the same paper, as arXiv:2502.19261 compares it). ``drop``: a part
    of each expert's neurons is drawn anew (Drop-Upcycling, arXiv:2502.19261). ``granular``: the feed-forward is cut
    into shards, each expert is a copy of one, and a token visits all shards of the groups that it is sent to (virtual
    groups, arXiv:2410.07524)."""
    ratio: float | None = Field(None, gt=0, le=1)
    """``noise`` and ``drop``: share of an expert's neurons that changes; null means 0.5, which is what
    arXiv:2502.19261 found best for ``drop``."""
    noise: float | None = Field(None, gt=0)
    """``noise``: standard deviation of what is added, relative to that of the matrix; null means 1, close to the 0.02
    that is published for weights whose own is about 0.02."""
    granularity: int | None = Field(None, ge=2)
    """``granular``: shards of the feed-forward."""
    router_std: float = Field(0.02, ge=0)
    """Standard deviation of the router's weights; 0 leaves them zero."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("ratio", "noise", "granularity"):
            if getattr(self, name) is not None and name not in _TAKES[self.method]:
                meant = " or ".join(sorted(method for method, taken in _TAKES.items() if name in taken))
                raise ValueError(f"{name} has no meaning with method: {self.method} (only with {meant}): leave it out")
        if self.method == "granular" and self.granularity is None:
            raise ValueError("method: granular needs granularity, the shards of the feed-forward")
        if self.method == "granular" and self.router_std == 0:
            raise ValueError("method: granular needs router_std > 0: equal scores do not make a token visit all shards")
        return self

    @property
    def shards(self) -> int:
        """Parts that the routed share of the feed-forward is cut into."""
        return self.granularity or 1


def check(dense: ModelSpec, sparse: ModelSpec, settings: UpcycleSettings) -> None:
    """Check that a dense model can become a sparse one that computes the same where theory says so.

    A shared expert takes the first neurons of the feed-forward, and the routed experts the others, so that together
    they are the dense one.

    Raises:
        ConfigError: One line that names the field and the value that would fit.
    """
    if dense.moe is not None:
        raise ConfigError(
            f"the model is a mixture of {dense.moe.num_experts} experts already: upcycling starts from a dense one"
        )
    moe, shards = sparse.moe, settings.shards
    if moe is None:
        raise ConfigError("upcycling needs a mixture of experts to make: give moe")
    if sparse.model_copy(update={"moe": None}) != dense:
        changed = [name for name, value in dense if name != "moe" and getattr(sparse, name) != value]
        raise ConfigError(f"upcycling changes the feed-forward only, but {changed[0]} differs from the dense model's")
    routed = dense.ffn_hidden_size - moe.shared_expert_ffn_hidden_size
    if routed < 1:
        raise ConfigError(
            f"moe.shared_expert_ffn_hidden_size={moe.shared_expert_ffn_hidden_size} leaves nothing of "
            f"ffn_hidden_size={dense.ffn_hidden_size} for the routed experts: lower it"
        )
    if routed % shards:
        raise ConfigError(
            f"granularity={shards} does not divide the {routed} neurons of the feed-forward that experts share"
        )
    if moe.expert_ffn_hidden_size != routed // shards:
        raise ConfigError(
            f"moe.expert_ffn_hidden_size={moe.expert_ffn_hidden_size} is not the {routed // shards} that the dense "
            f"feed-forward gives an expert: leave it out"
        )
    for name in ("num_experts", "top_k"):
        if getattr(moe, name) % shards:
            raise ConfigError(f"granularity={shards} does not divide moe.{name}={getattr(moe, name)}")


def gain(sparse: ModelSpec, settings: UpcycleSettings) -> float:
    """How much larger the routed experts' output must be for a token's first output to be the dense model's.

    A token visits top_k / shards copies of every shard, each with some weight of the router. Normalised weights sum to
    one whatever the router, so that each copy gets 1 / top_k on the whole, and the gain is exact. Other weights are
    those of a router whose scores are all the same: exact for a zero router, and the expectation for a small one
    (arXiv:2410.07524 and Megatron-core scale all three matrices by its cube root; the activation makes that an
    approximation).
    """
    moe = sparse.moe
    assert moe is not None
    equal = 1 / moe.num_experts if moe.score == "softmax" else 0.5
    weight = 1 / moe.top_k if moe.normalize_top_k else equal
    return settings.shards / (moe.top_k * weight * moe.scaling_factor)


def is_exact(sparse: ModelSpec, settings: UpcycleSettings) -> bool:
    """Whether theory says that the sparse model's first output is the dense model's, up to rounding.

    In bfloat16, a gain that is no power of two rounds the weights themselves.
    """
    assert sparse.moe is not None
    untouched = settings.method in ("copy", "granular")
    right = sparse.moe.normalize_top_k or settings.router_std == 0
    return untouched and right and (sparse.dtype == "float32" or math.log2(gain(sparse, settings)).is_integer())
