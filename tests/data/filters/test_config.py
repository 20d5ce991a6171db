import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tatara.config import load
from tatara.data.filters import config
from tatara.data.filters.config import BadWordsConfig, FineWebConfig, GopherQualityConfig, GopherRepetitionConfig
from tatara.data.steps import STEPS, RowStep, StepConfig
from tatara.errors import ConfigError

LISTED = {"url_filter": {"domains": ["x"]}, "bad_words": {"lists": "x"}}
OURS = sorted(name for name, place in STEPS.items() if place.startswith("tatara.data.filters."))


@pytest.mark.parametrize("name", OURS)
def test_every_step_of_the_table_can_be_made(name: str, tmp_path: Path) -> None:
    module, _, class_name = STEPS[name].partition(":")
    kind: type[StepConfig] = getattr(importlib.import_module(module), class_name)
    made = load(kind, LISTED.get(name, {}))
    assert kind.step == name
    module, _, class_name = kind.implementation.partition(":")
    assert isinstance(getattr(importlib.import_module(module), class_name)(made, tmp_path), RowStep)
    # The resolved configuration, read back, is the same: also where keys became strings.
    assert load(kind, json.loads(json.dumps(made.dump()))).dump() == made.dump()


@pytest.mark.parametrize("name", OURS)
def test_every_parameter_is_described(name: str) -> None:
    kind: type[StepConfig] = getattr(config, STEPS[name].partition(":")[2])
    assert all(field.description for field in kind.model_fields.values())
    rules = getattr(kind, "rules", None)
    assert rules is None or all(field.description for field in rules.model_fields.values())


def test_the_configuration_imports_nothing_heavy() -> None:
    heavy = {"numpy", "numba", "pyarrow", "ray", "xxhash"}
    code = f"import sys, tatara.data.filters.config; print(sorted({heavy} & set(sys.modules)))"
    path = str(Path(config.__file__).parents[3])
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert found.stdout.strip() == "[]", found.stderr


def test_a_language_overrides_only_what_it_names() -> None:
    made = load(GopherQualityConfig, {"min_words": 7, "by_language": {"ja": {"min_words": 9}, "sw": {"max_words": 70}}})
    assert made.parameters("ja").min_words == 9
    assert made.parameters("ja").min_mean_word_length == 0
    assert made.parameters("sw").max_words == 70
    assert made.parameters("sw").min_words == made.parameters(None).min_words == made.parameters("xx").min_words == 7


def test_a_language_can_lose_its_built_in_parameters() -> None:
    made = load(FineWebConfig, {"by_language": {"ja": None}})
    assert made.parameters("ja") == made.parameters(None)
    assert made.parameters("zh") != made.parameters(None)
    # So too when it is read back.
    assert load(FineWebConfig, made.dump()) == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_wrods": 3}, "did you mean 'min_words'?"),
        ({"min_words": -1}, "by_language.de.min_words: Input should be greater than or equal to 0, got -1"),
        ({"min_words": "many"}, "by_language.de.min_words"),
        ("few", "by_language.de"),
    ],
)
def test_mistakes_in_a_language_are_named(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GopherQualityConfig, {"by_language": {"de": values}})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="url_filter needs lists"):
        load(config.UrlFilterConfig, {})
    with pytest.raises(ConfigError, match="bad_words needs word lists"):
        load(BadWordsConfig, {})
    with pytest.raises(ConfigError, match="from 1 to 1000 words"):
        load(GopherRepetitionConfig, {"max_top_ngram": {0: 0.1}})


def test_files_are_those_that_are_read() -> None:
    made = load(
        config.UrlFilterConfig,
        {"domains": ["a"], "urls": ["b"], "categories": ["c"], "strict_words": ["d"], "allow": ["e"]},
    )
    assert set(made.files()) == {"a", "b", "c", "d", "e"}
    assert set(load(BadWordsConfig, {"lists": "w", "language_lists": {"*": ["x"], "ja": ["y", "z"]}}).files()) == set(
        "wxyz"
    )
    assert load(config.JapaneseConfig, {"boilerplate": ["p"]}).files() == ("p",)
