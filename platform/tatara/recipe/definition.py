"""Recipes: from a YAML page to resolved stages in an order that can be run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tatara import artifact, config
from tatara.config import Config
from tatara.errors import ConfigError, RecipeError
from tatara.recipe.stages import find_stage
from tatara.stage import Stage


class StageEntry(Config):
    """One stage as the page has it."""

    run: str | None = None
    """Which stage to run; by default the one its key names."""
    name: str | None = None
    """Name of the artifact; by default the recipe's."""
    version: int | None = Field(None, ge=1)
    """Fixed version of the artifact; by default a changed stage writes the next free one."""
    inputs: dict[str, str] = Field({})
    """Input name to the key of another stage, or to an artifact (``kind/name@version`` or its directory)."""
    config: dict[str, Any] = Field({})
    """The stage's configuration."""


class RecipePage(Config):
    """A whole page."""

    name: str
    """Name of the recipe and, by default, of every artifact that it makes."""
    description: str = ""
    """What comes out, in a sentence."""
    root: str = ".tatara"
    """Artifact root, a path or URL; a relative path is taken from the current directory."""
    stages: dict[str, StageEntry]
    """The stages by key."""


@dataclass(frozen=True)
class RecipeStage:
    """A resolved stage.

    Attributes:
        key: Its key on the page.
        stage: What it runs.
        config: Its resolved configuration.
        name: Name of its artifact.
        version: Its fixed version, or None.
        upstream: Input name to the key of the stage that makes it.
        external: Input name to an artifact from outside the recipe.
    """

    key: str
    stage: Stage
    config: Config
    name: str
    version: int | None
    upstream: Mapping[str, str]
    external: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe; ``stages`` stand in an order that can be run."""

    path: str
    name: str
    description: str
    root: str
    stages: tuple[RecipeStage, ...]

    def downstream(self, key: str) -> set[str]:
        """Keys of a stage and of all that depends on it."""
        found = {key}
        for item in self.stages:
            if found & set(item.upstream.values()):
                found.add(item.key)
        return found


def load_recipe(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, root: str | None = None, name: str | None = None
) -> Recipe:
    """Read and resolve a recipe.

    Args:
        path: The YAML page.
        overrides: ``stage.key`` to value; without the stage's key it goes to the one stage that has such a key.
        root: Instead of the page's artifact root.
        name: Instead of the page's name.

    Raises:
        ConfigError: A key or value is wrong.
        RecipeError: The stages are not a DAG, an input is unknown, or two stages would write the same artifact.
    """
    page = config.load_file(RecipePage, path)
    if not page.stages:
        raise RecipeError(f"{path}: stages: there are none")
    recipe_name = artifact.check_name(name or page.name)
    stages = {key: find_stage_of(path, key, entry) for key, entry in page.stages.items()}
    routed = route_overrides(stages, overrides or {})
    resolved = {}
    for key, entry in page.stages.items():
        upstream, external = split_inputs(path, key, stages, entry)
        where = f"{path}: stages.{key}.config"
        resolved[key] = RecipeStage(
            key=key,
            stage=stages[key],
            config=config.load(stages[key].config, entry.config, routed[key], where),
            name=artifact.check_name(entry.name or recipe_name),
            version=entry.version,
            upstream=upstream,
            external=external,
        )
    check_outputs(path, resolved)
    ordered = order({key: list(item.upstream.values()) for key, item in resolved.items()})
    return Recipe(str(path), recipe_name, page.description, root or page.root, tuple(resolved[key] for key in ordered))


def find_stage_of(path: str | Path, key: str, entry: StageEntry) -> Stage:
    """The stage that an entry runs; an error names the entry."""
    try:
        return find_stage(entry.run or key)
    except ConfigError as error:
        hint = "" if entry.run else f" (or say which to run: {key}: {{run: ...}})"
        raise RecipeError(f"{path}: stages.{key}: {error}{hint}") from None


def split_inputs(
    path: str | Path, key: str, stages: Mapping[str, Stage], entry: StageEntry
) -> tuple[dict[str, str], dict[str, str]]:
    """Tell inputs that another stage makes from those outside the recipe.

    Raises:
        RecipeError: An input is missing, unknown, or of the wrong kind.
    """
    where = f"{path}: stages.{key}.inputs"
    stage = stages[key]
    wanted = stage.inputs
    upstream, external = {}, {}
    for name, target in entry.inputs.items():
        kind = stage.kind_of(name)
        if kind is None:
            known = [*wanted, *stage.optional]
            raise RecipeError(f"{where}: unknown input '{name}'; {config.nearest(name, known)}")
        if target in stages:
            if stages[target].kind != kind:
                raise RecipeError(f"{where}.{name}: '{target}' makes {stages[target].kind}, but {kind} is needed")
            upstream[name] = target
        elif "/" in target:
            external[name] = target
        else:
            raise RecipeError(f"{where}.{name}: no stage '{target}' in this recipe; {config.nearest(target, stages)}")
    missing = [name for name in wanted if name not in entry.inputs]
    if missing:
        makers = [other for other, stage in stages.items() if stage.kind == wanted[missing[0]]]
        hint = f", such as {missing[0]}: {makers[0]}" if makers else ""
        raise RecipeError(f"{where}: {missing[0]} ({wanted[missing[0]]}) is not given{hint}")
    return upstream, external


def check_outputs(path: str | Path, stages: Mapping[str, RecipeStage]) -> None:
    """Refuse two stages that would write the same artifact.

    Raises:
        RecipeError: It names both and the fix.
    """
    written: dict[tuple[str, str], str] = {}
    for key, item in stages.items():
        other = written.setdefault((item.stage.kind, item.name), key)
        if other != key:
            raise RecipeError(
                f"{path}: stages {other} and {key} would both write {item.stage.kind}/{item.name}: "
                f"give one of them another name, such as name: {item.name}-{key}"
            )


def order(needs: Mapping[str, list[str]]) -> list[str]:
    """Stage keys so that each comes after what it needs; otherwise in the order given.

    Raises:
        RecipeError: The stages need each other in a circle, which is named.
    """
    done: list[str] = []
    path: list[str] = []

    def visit(key: str) -> None:
        if key in done:
            return
        if key in path:
            circle = [*path[path.index(key) :], key]
            raise RecipeError(f"stages need each other in a circle: {' -> '.join(circle)}")
        path.append(key)
        for needed in needs[key]:
            visit(needed)
        path.pop()
        done.append(key)

    for key in needs:
        visit(key)
    return done


def route_overrides(stages: Mapping[str, Stage], overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give each override to its stage.

    Raises:
        ConfigError: No stage, or more than one, has such a key.
    """
    routed: dict[str, dict[str, Any]] = {key: {} for key in stages}
    fields = {key: [name for name, _ in config.leaf_fields(stage.config)] for key, stage in stages.items()}
    shorts = {
        short: name
        for stage in stages.values()
        for name, field in config.leaf_fields(stage.config)
        if (short := config.short_name(field))
    }
    for given, value in overrides.items():
        dotted = shorts.get(given, given)
        head, _, rest = dotted.partition(".")
        if head in stages and rest:
            routed[head][rest] = value
            continue
        owners = [key for key, names in fields.items() if dotted in names]
        if len(owners) > 1:
            which = " or ".join(f"--{key}.{dotted}" for key in owners)
            raise ConfigError(f"--{dotted}: more than one stage has this key; write {which}")
        if not owners:
            known = [f"{key}.{name}" for key, names in fields.items() for name in names]
            bare = [name for names in fields.values() for name in names]
            raise ConfigError(f"--{dotted}: unknown key; {config.nearest(dotted, [*bare, *known])}")
        routed[owners[0]][dotted] = value
    return routed
