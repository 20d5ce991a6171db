"""A sweep as a recipe: a pretraining run for each budget and size, and a scaling stage over all of them."""

import contextlib
import math
from typing import Any

from pydantic import Field, model_validator

from tatara.config import Config
from tatara.errors import ConfigError
from tatara.model.sizing import model_of_size, parse_count
from tatara.scaling.stage import ScalingConfig
from tatara.scaling.table import PER_PARAMETER


class SweepConfig(Config):
    """Budgets, sizes, and what all runs share.

    Such as, for ``tatara scaling run --config sweep.yaml``::

        name: sweep
        tokens: tokens/web@1
        vocab_size: 32000
        sequence_length: 2048
        budgets: [6e17, 1e18, 3e18, 6e18]
        ratios: [5, 10, 20, 40, 80]
        pretrain: {global_batch_size: 64, num_workers: 8}
        scaling: {budgets: [1e21]}
    """

    name: str = "sweep"
    """Of the recipe and its artifacts."""
    root: str = ".tatara"
    """Artifact root, a path or URL."""
    tokens: str
    """The tokens artifact that all runs train on, such as tokens/web@1."""
    vocab_size: int = Field(ge=1)
    """Of its tokenizer; the sizes count embeddings."""
    sequence_length: int = Field(ge=1)
    """Of the tokens."""
    budgets: tuple[float, ...] = Field(min_length=1)
    """FLOPs of the runs of each IsoFLOP curve, 6 x parameters x tokens."""
    sizes: tuple[str, ...] = Field(())
    """Parameters of the models of every budget, such as 1M; empty derives them from ``ratios``."""
    ratios: tuple[float, ...] = Field((5.0, 10.0, 20.0, 40.0, 80.0))
    """Tokens per parameter of the models of every budget, where no ``sizes`` are given."""
    fewest_steps: int = Field(20, ge=1)
    """A run of fewer optimizer steps is left out: its loss says nothing of its size."""
    pretrain: dict[str, Any] = Field({})
    """Configuration of the pretrain stage that all runs share, ``global_batch_size`` among it."""
    scaling: ScalingConfig = ScalingConfig()
    """What to predict."""

    @model_validator(mode="after")
    def _separate(self) -> "SweepConfig":
        for name in ("steps", "model.params", "model.preset"):
            outer, _, inner = name.partition(".")
            given = self.pretrain.get(outer)
            if given is not None and (not inner or (isinstance(given, dict) and inner in given)):
                raise ValueError(f"pretrain.{name} is what the sweep decides: leave it out")
        if not isinstance(self.pretrain.get("global_batch_size"), int) or self.pretrain["global_batch_size"] < 1:
            raise ValueError("pretrain.global_batch_size is needed: steps follow from it")
        if any(budget <= 0 for budget in self.budgets) or any(ratio <= 0 for ratio in self.ratios):
            raise ValueError("budgets and ratios must be positive")
        return self


def sizes_of(config: SweepConfig, budget: float) -> list[int]:
    """Parameters of a budget's models as they come out, without repetitions."""
    found: dict[int, int] = {}
    for size in map(parse_count, config.sizes):
        found.setdefault(parameters_of(config, size), size)
    if not config.sizes:
        for ratio in config.ratios:
            size = round(math.sqrt(budget / (PER_PARAMETER * ratio)))
            # Not every size has a shape, least of all a small one beside its vocabulary; the others do as well.
            with contextlib.suppress(ConfigError):
                found.setdefault(parameters_of(config, size), size)
    return [found[count] for count in sorted(found)]


def parameters_of(config: SweepConfig, size: int) -> int:
    """Parameters of the model that a size stands for.

    Raises:
        ConfigError: No shape has about so many.
    """
    fixed = config.pretrain.get("model") or {}
    return model_of_size(size, **{"vocab_size": config.vocab_size, **fixed}).parameter_count()


def steps_of(config: SweepConfig, budget: float, size: int) -> int:
    """Optimizer steps that spend a budget on a model, to the nearest."""
    per_step = config.sequence_length * config.pretrain["global_batch_size"]
    return round(budget / (PER_PARAMETER * parameters_of(config, size)) / per_step)


def sweep_recipe(config: SweepConfig) -> dict[str, Any]:
    """The recipe's page.

    Raises:
        ConfigError: Some budget has fewer than three runs that are worth it, so that it gives no curve.
    """
    stages: dict[str, Any] = {}
    for budget in sorted(config.budgets):
        sizes = sizes_of(config, budget)
        kept = [size for size in sizes if steps_of(config, budget, size) >= config.fewest_steps]
        if len(kept) < 3:
            raise ConfigError(
                f"budget {budget:.3g} has {len(kept)} sizes of {config.fewest_steps} steps or more, a curve needs 3: "
                "raise it, choose smaller sizes, or lower pretrain.global_batch_size"
            )
        for size in kept:
            key = f"c{budget:.2g}-n{size}".replace("+", "")
            model = {**(config.pretrain.get("model") or {}), "params": size}
            stages[key] = {
                "run": "pretrain",
                "name": f"{config.name}-{key}",
                "inputs": {"tokens": config.tokens},
                "config": {**config.pretrain, "model": model, "steps": steps_of(config, budget, size)},
            }
    runs = {key: key for key in stages}
    stages["scaling"] = {"inputs": runs, "config": config.scaling.dump()}
    described = f"Runs of {len(config.budgets)} budgets, and the scaling laws that they give."
    return {"name": config.name, "description": described, "root": config.root, "stages": stages}
