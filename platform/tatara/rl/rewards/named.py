"""What users name in a configuration: things of a known kind, and code of their own."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tatara import config as configs
from tatara.config import Config
from tatara.errors import ConfigError

C = TypeVar("C", bound=Config)


def read_named(value: Any, kinds: Mapping[str, type[C]], base: type[C], what: str, example: str) -> dict[str, C]:
    """Build a mapping of names to configurations from a mapping of names to ``{kind: ..., ...}``.

    Args:
        value: As read from YAML; an item may already be built, or be the name of its kind alone.
        kinds: Configuration class of each kind.
        base: The class that all of them derive from.
        what: "reward" or "environment", for messages.
        example: A right value, for messages.

    Raises:
        ValueError: One line that names the item, the key and the nearest right one.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"a mapping of names to {what}s is needed, such as {example}")
    return {str(name): _read(str(name), item, kinds, base, what) for name, item in value.items()}


def _read(name: str, item: Any, kinds: Mapping[str, type[C]], base: type[C], what: str) -> C:
    if isinstance(item, base):
        return item
    if isinstance(item, str):
        item = {"kind": item}
    if not isinstance(item, Mapping) or "kind" not in item:
        raise ValueError(f"{name}: the {what} needs a kind; known: {', '.join(sorted(kinds))}")
    kind = item["kind"]
    if kind not in kinds:
        raise ValueError(f"{name}: unknown kind '{kind}'; {configs.nearest(str(kind), kinds)}")
    try:
        return configs.load(kinds[kind], item, where=name)
    except ConfigError as error:
        message = str(error)
        raise ValueError(message if message.startswith(f"{name}: ") else f"{name}: {message}") from None


def load_target(target: str) -> Any:
    """Import what ``module:attribute`` or ``path/file.py:attribute`` names.

    Raises:
        ConfigError: There is no such module, file or attribute, or its code raises while it is imported.
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute.isidentifier():
        raise ConfigError(f"'{target}' is not module:name or path/file.py:name")
    module = _load_file(Path(place), target) if place.endswith(".py") else _load_module(place, target)
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{target}: {place} has no '{attribute}'; {configs.nearest(attribute, public)}")
    return getattr(module, attribute)


def _load_module(name: str, target: str) -> Any:
    try:
        return importlib.import_module(name)
    # A user's module may raise anything at all while it runs.
    except Exception as error:
        raise ConfigError(f"{target}: cannot import {name}: {_said(error)}") from error


def _load_file(path: Path, target: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"{target}: no file at {path.resolve()}")
    name = f"tatara_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{target}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Data classes look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{target}: cannot import {path}: {_said(error)}") from error
    return module


def check_call(found: Any, target: str, arguments: tuple[str, ...], keywords: Mapping[str, Any]) -> None:
    """Refuse what cannot be called with these arguments.

    Raises:
        ConfigError: It is not callable, is a coroutine function, or takes other arguments.
    """
    if not callable(found):
        raise ConfigError(f"{target} is a {type(found).__name__}, not a function")
    if inspect.iscoroutinefunction(found):
        raise ConfigError(f"{target} is an async function; a plain one is needed")
    try:
        inspect.signature(found).bind(*arguments, **keywords)
    except TypeError as error:
        named = ", ".join([*arguments, *(f"{name}=..." for name in keywords)])
        raise ConfigError(f"{target} cannot be called as ({named}): {error}") from None
    except ValueError:
        # A function of a C extension may not say what it takes; its first call will.
        return


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
