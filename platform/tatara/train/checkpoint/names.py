"""Names of tensors in a distributed checkpoint. A weight's own name is Megatron's."""

from collections.abc import Iterable

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of Adam."""
MASTER = "optimizer.state.fp32_param."
"""Prefix of the float32 copy of a weight; weights that are float32 have none."""
EMA = "ema."
"""Prefix of an exponential moving average of a weight."""
_LAST = "last."


def moment_key(moment: str, key: str) -> str:
    """Name of an Adam moment of a weight."""
    return f"optimizer.state.{moment}.{key}"


def last_prefix(place: int) -> str:
    """Prefix of a snapshot of a weight, the oldest being number 0."""
    return f"{_LAST}{place}."


def snapshots(keys: Iterable[str]) -> int:
    """How many snapshots there are."""
    return len({key.split(".")[1] for key in keys if key.startswith(_LAST)})


def is_weight(key: str) -> bool:
    """Whether a name is a weight's own."""
    return not key.startswith(("optimizer.", EMA, _LAST, "rng"))
