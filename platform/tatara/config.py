"""Typed configuration: a YAML file plus command-line overrides becomes a frozen pydantic model."""

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from tatara.errors import ConfigError

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused, each field documented by the string below it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_stated(cls, given: Any) -> Any:
        """What is said of a nested configuration changes the field's own default, not that of the nested class."""
        if not isinstance(given, Mapping):
            return given
        found = dict(given)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Config) and isinstance(found.get(name), Mapping):
                found[name] = _merged(_stated(field.default), found[name])
        return found

    def identity(self) -> dict[str, Any]:
        """The part that decides what a stage computes: every field but the operational ones, JSON-able."""
        return _identity(self)

    def dump(self) -> dict[str, Any]:
        """The resolved configuration as JSON-able literals."""
        return self.model_dump(mode="json")

    @classmethod
    def more_fields(cls) -> Iterator[tuple[str, FieldInfo]]:
        """Dotted keys that may be set besides those of the declared fields."""
        yield from ()


def _stated(value: Config) -> dict[str, Any]:
    """What a configuration says besides the defaults of its class."""
    try:
        usual = type(value)()
    except pydantic.ValidationError:
        return value.model_dump(exclude_unset=True)
    return {
        name: _stated(item) if isinstance(item, Config) and type(item) is type(getattr(usual, name)) else item
        for name, item in value
        if item != getattr(usual, name)
    }


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for name, item in above.items():
        inner = found.get(name)
        found[name] = _merged(inner, item) if isinstance(inner, Mapping) and isinstance(item, Mapping) else item
    return found


def operational(default: Any = ..., **field: Any) -> Any:
    """A field that changes where or how fast a stage runs, not what it makes (paths, ports, worker counts).

    It is left out of the fingerprint, so changing it does not make a finished stage run again.
    """
    return Field(default, json_schema_extra={"operational": True}, **field)


def short_name(field: FieldInfo) -> str | None:
    """The name by which a field can be set besides its dotted key, if it was declared with one."""
    extra = field.json_schema_extra
    return str(extra["short"]) if isinstance(extra, Mapping) and "short" in extra else None


def is_operational(field: FieldInfo) -> bool:
    """Whether a field was declared with `operational`."""
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and bool(extra.get("operational"))


def _identity(value: Any) -> Any:
    if isinstance(value, Config):
        fields = type(value).model_fields
        return {name: _identity(getattr(value, name)) for name, field in fields.items() if not is_operational(field)}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: The file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no configuration file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, not a {type(loaded).__name__}")
    return loaded


def load(
    model: type[C], values: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None, where: str = ""
) -> C:
    """Build a configuration from literals and overrides.

    Args:
        model: The configuration class.
        values: Nested mapping, as read from YAML.
        overrides: Dotted key to value; a string value is read as a YAML scalar (``--train.lr 3e-4``).
        where: The file (and place in it) that ``values`` came from, for error messages.

    Raises:
        ConfigError: One line that names the key, the place, and the nearest right key or the expected type.
    """
    merged: dict[str, Any] = _copy(values or {})
    for key, value in (overrides or {}).items():
        _set(merged, key, parse_scalar(value) if isinstance(value, str) else value)
    try:
        return model.model_validate(merged)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(model, error, where, set(overrides or ()))) from None


def load_file(model: type[C], path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> C:
    """Build a configuration from a YAML file (optional) and overrides; see `load`."""
    return load(model, read_yaml(path) if path else {}, overrides, where=str(path) if path else "")


def parse_scalar(text: str) -> Any:
    """Read a command-line value the way YAML would, with ``3e-4`` as a number (YAML 1.1 takes it for a string)."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value if value is not None or text.strip().lower() in {"null", "~"} else text


def leaf_fields(
    model: type[BaseModel], prefix: str = "", default: BaseModel | None = None
) -> Iterator[tuple[str, FieldInfo]]:
    """Every settable field of a configuration as (dotted key, field), nested configurations flattened.

    Args:
        model: The configuration class.
        prefix: Of the keys.
        default: Where the defaults come from, if not from the class.
    """
    for name, field in model.model_fields.items():
        usual = field.default if default is None else getattr(default, name)
        nested = nested_model(field.annotation)
        if nested is not None:
            yield from leaf_fields(nested, f"{prefix}{name}.", usual if isinstance(usual, nested) else None)
            continue
        if default is not None and usual != field.default:
            field = copy.copy(field)
            field.default, field.default_factory = usual, None
        yield f"{prefix}{name}", field
    if issubclass(model, Config):
        yield from ((f"{prefix}{key}", field) for key, field in model.more_fields())


def nested_model(annotation: Any) -> type[BaseModel] | None:
    """The configuration class inside an annotation such as ``Layout`` or ``Layout | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        found = [nested_model(item) for item in get_args(annotation)]
        models = [item for item in found if item is not None]
        return models[0] if len(models) == 1 else None
    return None


def type_name(annotation: Any) -> str:
    """A type as a user reads it: ``int``, ``float or null``, ``one of fp8, bf16``."""
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(item) for item in get_args(annotation))
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(type_name(item) for item in get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        return type_name(get_args(annotation)[0])
    if (origin := get_origin(annotation)) is not None:
        inside = ", ".join("..." if item is ... else type_name(item) for item in get_args(annotation))
        return f"{getattr(origin, '__name__', origin)}[{inside}]"
    return getattr(annotation, "__name__", str(annotation))


def nearest(key: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error: the nearest known key, or the list of those there are."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(sorted(known))


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _set(target: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for place, parent in enumerate(parents):
        inner = target.get(parent)
        if isinstance(inner, list) and place + 1 < len(parents):
            # A list of named things: strings, or mappings with one key. The rest of the path goes to the one named.
            inner = target = _named(inner, parents[place + 1])
            continue
        if not isinstance(inner, dict):
            inner = target[parent] = {}
        target = inner
    target[last] = value


def _named(items: list[Any], name: str) -> dict[str, Any]:
    """A mapping under which an override may set ``name``: the item of that name, or a new one at the end."""
    for index, item in enumerate(items):
        if item == name:
            items[index] = item = {name: {}}
        if isinstance(item, dict) and list(item) == [name]:
            item[name] = item[name] if isinstance(item[name], dict) else {}
            return item
    items.append({name: {}})
    added: dict[str, Any] = items[-1]
    return added


def _explain(model: type[BaseModel], error: pydantic.ValidationError, where: str, overrides: set[str]) -> str:
    """One line for the first problem; how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    given = f"--{key}" if key in overrides else (f"{where}: {key}" if where else key)
    if first["type"] == "extra_forbidden":
        owner: type[BaseModel] | None = model
        for part in location[:-1]:
            field = owner.model_fields.get(part) if owner else None
            owner = nested_model(field.annotation) if field else None
        siblings = list(owner.model_fields) if owner else []
        prefix = "".join(f"{part}." for part in location[:-1])
        line = f"{given}: unknown key; {nearest(location[-1], siblings)}"
        if prefix and "did you mean" in line:
            line = line.replace("did you mean '", f"did you mean '{prefix}", 1)
    elif first["type"] == "missing":
        line = f"{given}: required, but not given"
    elif first["type"] == "value_error":
        line = f"{given}: {first['ctx']['error']}" if key else str(first["ctx"]["error"])
    else:
        expected = first["msg"][0].lower() + first["msg"][1:]
        line = f"{given}: {expected}, got {first['input']!r}"
    if len(problems) > 1:
        line += f" (and {len(problems) - 1} more)"
    return line
