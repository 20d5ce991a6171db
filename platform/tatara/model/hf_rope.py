"""Rotary positions in `config.json`: as transformers 5 writes them (`rope_parameters`) and as transformers 4 did."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tatara.errors import ConfigError
from tatara.model.spec import ModelSpec, RopeScaling

_TYPES = ("default", "linear", "llama3", "yarn")
# What transformers does unless it is told otherwise, which is all that we do.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1.0,),
    "truncate": (True,),
    "mscale": (None,),
    "mscale_all_dim": (None,),
}


def rope_parameters(spec: ModelSpec) -> dict[str, Any]:
    """Rotary positions as transformers 5 writes them."""
    if spec.rope_scaling is None:
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    scaling = {name: value for name, value in spec.rope_scaling.dump().items() if value is not None}
    return {"rope_type": scaling.pop("type"), "rope_theta": spec.rope_theta, **scaling}


def rope_of(config: Mapping[str, Any], default_theta: float) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary positions of a `config.json`.

    Args:
        config: With ``rope_parameters``, or ``rope_theta`` and perhaps ``rope_scaling``, or both if they agree.
        default_theta: The base where none is given.

    Raises:
        ConfigError: The type is unknown, a field is missing or has no meaning, or two places contradict each other.
    """
    found = [name for name in ("rope_parameters", "rope_scaling") if config.get(name)]
    read = {name: _read(name, config[name]) for name in found}
    scalings = {name: scaling for name, (_, scaling) in read.items()}
    if len(set(map(repr, scalings.values()))) > 1:
        raise ConfigError("config.json contradicts itself: rope_scaling is not what rope_parameters says")
    bases = {f"{name}.rope_theta": theta for name, (theta, _) in read.items() if theta is not None}
    if config.get("rope_theta") is not None:
        bases["rope_theta"] = config["rope_theta"]
    if len(set(bases.values())) > 1:
        told = " and ".join(f"{name}={value}" for name, value in bases.items())
        raise ConfigError(f"config.json contradicts itself: {told}")
    theta = next(iter(bases.values()), default_theta)
    if not isinstance(theta, int | float) or isinstance(theta, bool) or not theta > 0:
        raise ConfigError(f"config.json has rope_theta={theta!r}: a positive number is needed")
    scaling = next(iter(scalings.values()), None)
    _check_context(scaling, config)
    return float(theta), scaling


def _read(place: str, given: Any) -> tuple[Any, RopeScaling | None]:
    """The base, if it is there, and the scaling."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"config.json has {place}={given!r}: a mapping is needed")
    fields = dict(given)
    theta = fields.pop("rope_theta", None)
    kinds = [fields.pop(name) for name in ("rope_type", "type") if name in fields]
    kind = kinds[0] if kinds else "default"
    if kind not in _TYPES or kinds[1:] not in ([], [kind]):
        raise ConfigError(
            f"{place}.rope_type={' and '.join(map(str, kinds))} is not supported: {', '.join(_TYPES)} are"
        )
    for name, allowed in _FIXED.items():
        if name in fields and fields.pop(name) not in allowed:
            raise ConfigError(f"{place}.{name}={given[name]} is not supported: {allowed[0]} is")
    fields = {name: value for name, value in fields.items() if value is not None}
    if kind == "default":
        if fields:
            name, value = next(iter(fields.items()))
            raise ConfigError(f"{place}.{name}={value} has no meaning with rope_type=default: is the type missing?")
        return theta, None
    if "factor" not in fields:
        raise ConfigError(f"{place} of type {kind} lacks factor")
    try:
        scaling = RopeScaling(type=kind, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        what = ".".join(map(str, (place, *first["loc"])))
        raise ConfigError(f"{what}: {first['msg'].removeprefix('Value error, ')}") from None
    if scaling.factor < 1:
        raise ConfigError(f"{place}.factor={scaling.factor:g} would shorten the context: it must be at least 1")
    return theta, scaling


def _check_context(scaling: RopeScaling | None, config: Mapping[str, Any]) -> None:
    longest = config.get("max_position_embeddings")
    if scaling is None or scaling.original_max_position_embeddings is None or not isinstance(longest, int):
        return
    if scaling.original_max_position_embeddings > longest:
        raise ConfigError(
            f"config.json contradicts itself: original_max_position_embeddings="
            f"{scaling.original_max_position_embeddings} is more than max_position_embeddings={longest}"
        )
