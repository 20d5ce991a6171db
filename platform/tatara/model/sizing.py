"""One dial: a sensible architecture of so many parameters. Pure arithmetic; imports nothing heavy."""

import math
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from tatara.errors import ConfigError
from tatara.model.spec import ModelSpec

TOLERANCE = 0.05
"""How far the number of parameters may be from what was asked for, as a part of it."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
# Llama 3.2 3B and Qwen3 4B are tied, Llama 3 8B and Qwen3 8B are not.
_TIED_BELOW = 6e9
_WIDE_HEADS_FROM = 2048
_MOST_LAYERS = 160
_VOCABULARY: int = ModelSpec.model_fields["vocab_size"].default


def parse_count(text: str | int) -> int:
    """Read a count such as ``50M``, ``1.5B``, ``125k``, ``1_000_000`` or ``3e9``.

    Raises:
        ConfigError: It is not a positive count.
    """
    written = str(text).strip().replace("_", "").replace(",", "").upper()
    unit = written[-1:] if written[-1:] in _UNITS else ""
    try:
        number = float(written.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        number = math.nan
    if not 1 <= number < math.inf:
        raise ConfigError(f"{text!r} is not a count: write it like 50M, 1.5B or 125000")
    return round(number)


def model_of_size(parameters: int, **fixed: Any) -> ModelSpec:
    """A decoder of about so many parameters, all of them counted, embeddings too.

    The proportions are those of published models (Llama 3, arXiv:2407.21783 table 3; Qwen3, arXiv:2505.09388 table 1;
    Pythia, arXiv:2304.01373 table 1): width over layers grows from about 32 at a million parameters to 128 at ten
    billion; heads are 64 wide, 128 from a width of 2048 on, and share at most 8 groups of keys and values; the gated
    feed-forward is about 8/3 of the width, 7/2 from two billion parameters on; embeddings are tied below six billion.

    Args:
        parameters: How many.
        fixed: Fields of `ModelSpec` that shall be so, such as ``vocab_size``; the rest is chosen around them.

    Raises:
        ConfigError: No shape comes within 5 %: the vocabulary is too large, or what is fixed leaves too little choice.
    """
    best: tuple[float, ModelSpec] | None = None
    nearest: ModelSpec | None = None
    for spec in _shapes(parameters, fixed):
        error = abs(spec.parameter_count() / parameters - 1)
        if nearest is None or error < abs(nearest.parameter_count() / parameters - 1):
            nearest = spec
        cost = _oddness(spec, parameters) + error
        if error <= TOLERANCE and (best is None or cost < best[0]):
            best = cost, spec
    if best is None:
        closest = "" if nearest is None else f", the closest has {nearest.parameter_count():,}"
        raise ConfigError(f"no shape of {parameters:,} parameters{closest}: use another size or vocabulary")
    return best[1]


def aspect_ratio(parameters: float) -> float:
    """Width over layers that published models of this size have, roughly: 32 at 1e6, 64 at 1e8, 128 from 1e10 on."""
    return min(max(32.0 * (parameters / 1e6) ** (math.log(4) / math.log(1e4)), 16.0), 128.0)


def feed_forward_ratio(parameters: float) -> float:
    """Width of the gated feed-forward over that of the residual stream."""
    return 8 / 3 if parameters < 2e9 else 3.5


def _oddness(spec: ModelSpec, parameters: int) -> float:
    """How far the proportions are from the usual ones."""
    aspect = spec.hidden_size / spec.num_layers / aspect_ratio(parameters)
    ratio = spec.ffn_hidden_size / spec.hidden_size / feed_forward_ratio(parameters)
    # Eight groups divide among eight tensor-parallel ranks.
    groups = math.log2(min(8, spec.num_attention_heads) / min(8, spec.num_query_groups))
    return abs(math.log(aspect)) + abs(math.log(ratio)) + 0.05 * max(groups - 1, 0)


def _shapes(parameters: int, fixed: dict[str, Any]) -> Iterator[ModelSpec]:
    """Shapes that are worth a look, around the usual proportions."""
    given = fixed.get("hidden_size")
    widths = [given] if given else [64, *range(128, 2048, 128), *range(2048, 32769, 256)]
    free = not fixed.keys() & {"hidden_size", "num_layers", "ffn_hidden_size", "moe"}
    for width in widths:
        usual = width / aspect_ratio(parameters)
        # Far from any usual shape: not worth the while.
        layers_weigh = 12 * width**2 * usual
        tables_weigh = 2 * width * fixed.get("vocab_size", _VOCABULARY)
        if free and not parameters - tables_weigh < 30 * layers_weigh < 1000 * parameters:
            continue
        depths = range(max(1, int(usual / 3)), min(_MOST_LAYERS, int(usual * 3) + 2))
        for layers in [fixed["num_layers"]] if "num_layers" in fixed else depths:
            spec = _shape(parameters, width, layers, fixed)
            if spec is not None:
                yield spec


def _shape(parameters: int, width: int, layers: int, fixed: dict[str, Any]) -> ModelSpec | None:
    """Of this width and depth, with the feed-forward that comes closest; null where that would be odd."""
    step = 64 if width < 1024 else 128
    fields = {"hidden_size": width, "num_layers": layers, **_heads(width, fixed), "ffn_hidden_size": step}
    fields |= {"tie_word_embeddings": parameters < _TIED_BELOW, **fixed}
    try:
        spec = ModelSpec(**fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{f'{name}: ' if name else ''}{problem['msg'].removeprefix('Value error, ')}") from error
    if "ffn_hidden_size" in fixed or spec.moe is not None:
        return spec
    per_unit = 3 * width * layers
    wanted = step + (parameters - spec.parameter_count()) / per_unit
    usual = feed_forward_ratio(parameters) * width
    # A quarter either way of the usual, in whole steps.
    ffn = round(min(max(wanted, 0.8 * usual), 1.25 * usual) / step) * step
    return spec.model_copy(update={"ffn_hidden_size": max(ffn, step)})


def _heads(width: int, fixed: dict[str, Any]) -> dict[str, Any]:
    """Heads and groups of a width, around what is fixed of them."""
    head = fixed.get("head_dim") or (128 if width >= _WIDE_HEADS_FROM else 64)
    heads = fixed.get("num_attention_heads") or max(1, width // head)
    shared = [groups for groups in (8, 4, 2) if heads % groups == 0 and heads // groups >= 2]
    groups = shared[0] if shared else 1
    return {"head_dim": head, "num_attention_heads": heads, "num_query_groups": groups}
