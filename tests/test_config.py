"""Typed configuration: what is accepted, and what a mistake is told."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tatara import config
from tatara.config import Config, operational
from tatara.errors import ConfigError


class Layout(Config):
    tp: int = Field(1, ge=1)
    """Tensor-parallel size."""
    workers: int = operational(2)
    """Processes."""


class Example(Config):
    lr: float = 1e-3
    """Learning rate."""
    kind: Literal["cosine", "wsd"] = "cosine"
    """Schedule."""
    layout: Layout = Layout()
    """Layout."""
    maybe: Layout | None = None
    """An optional part."""
    tags: tuple[str, ...] = ()
    """Labels."""


def test_overrides_reach_nested_fields() -> None:
    loaded = config.load(Example, {"layout": {"tp": 2}}, {"layout.workers": "4", "lr": "3e-4", "kind": "wsd"})
    assert loaded.layout.tp == 2
    assert loaded.layout.workers == 4
    assert loaded.lr == 3e-4
    assert loaded.kind == "wsd"


@pytest.mark.parametrize(
    ("values", "overrides", "expected"),
    [
        ({"learning_rat": 1}, {}, "f.yaml: learning_rat: unknown key; known: kind, layout, lr, maybe, tags"),
        ({"layout": {"tpp": 2}}, {}, "f.yaml: layout.tpp: unknown key; did you mean 'layout.tp'?"),
        ({"layot": {}}, {}, "f.yaml: layot: unknown key; did you mean 'layout'?"),
        ({"layout": {"tp": "two"}}, {}, "f.yaml: layout.tp: input should be a valid integer"),
        ({}, {"layout.tp": "0"}, "--layout.tp: input should be greater than or equal to 1, got 0"),
        ({"kind": "linear"}, {}, "input should be 'cosine' or 'wsd', got 'linear'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    values: dict[str, object], overrides: dict[str, str], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(Example, values, overrides, "f.yaml")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_identity_leaves_operational_fields_out() -> None:
    first = Example(layout=Layout(tp=2, workers=2))
    second = Example(layout=Layout(tp=2, workers=64))
    assert first.identity() == second.identity()
    assert first.identity() != Example(layout=Layout(tp=4)).identity()
    assert "workers" not in first.identity()["layout"]


def test_a_configuration_is_frozen_and_round_trips() -> None:
    example = Example(lr=0.5, tags=("a",))
    with pytest.raises(Exception, match="frozen"):
        example.lr = 1.0  # type: ignore[misc]
    assert config.load(Example, example.dump()) == example


def test_files_that_cannot_be_read_are_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no configuration file at"):
        config.load_file(Example, tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not valid YAML"):
        config.load_file(Example, broken)
    broken.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        config.load_file(Example, broken)
    broken.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="cannot read"):
        config.load_file(Example, broken)


def test_every_leaf_is_listed_with_its_description() -> None:
    leaves = {key: field.description for key, field in config.leaf_fields(Example)}
    assert leaves["layout.tp"] == "Tensor-parallel size."
    assert set(leaves) == {"lr", "kind", "layout.tp", "layout.workers", "maybe.tp", "maybe.workers", "tags"}


def test_a_type_is_told_as_its_user_writes_it() -> None:
    assert config.type_name(tuple[Literal["add", "subtract"], ...]) == "tuple[one of add, subtract, ...]"
    assert config.type_name(dict[str, Config] | None) == "dict[str, Config] or null"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_the_command_line(value: float) -> None:
    assert config.load(Example, {}, {"lr": repr(value)}).lr == value


@given(st.integers(min_value=1, max_value=10**12))
def test_every_integer_survives_the_command_line(value: int) -> None:
    assert config.load(Example, {}, {"layout.tp": str(value)}).layout.tp == value
