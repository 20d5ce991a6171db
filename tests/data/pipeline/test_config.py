import subprocess
import sys

import pytest

from tatara import config as configs
from tatara.data.pipeline.config import DEFAULT_STEPS, CurateConfig, step_config
from tatara.data.steps import STEPS
from tatara.errors import ConfigError


def steps(config: CurateConfig) -> list[str]:
    return [step.step for step in config.pipeline]


def test_steps_are_names_or_names_with_parameters() -> None:
    listed = ["repair", {"length": {"min_characters": 7}}, {"exact_dedup": None}]
    config = configs.load(CurateConfig, {"pipeline": listed})
    assert steps(config) == ["repair", "length", "exact_dedup"]
    assert config.pipeline[1].min_characters == 7  # type: ignore[attr-defined]


def test_parameters_alone_change_the_default_steps() -> None:
    config = configs.load(CurateConfig, {}, {"pipeline.length.min_characters": "7"})
    assert steps(config) == list(DEFAULT_STEPS)
    assert config.pipeline[list(DEFAULT_STEPS).index("length")].min_characters == 7  # type: ignore[attr-defined]


def test_the_command_line_changes_steps_of_a_file() -> None:
    values = {"pipeline": ["repair", "length", {"fuzzy_dedup": {"threshold": 0.7}}]}
    given = {"length.min_characters": "7", "fuzzy_dedup.seed": "3", "exact_dedup.keep": "first"}
    overrides = {f"pipeline.{key}": value for key, value in given.items()}
    config = configs.load(CurateConfig, values, overrides)
    assert steps(config) == ["repair", "length", "fuzzy_dedup", "exact_dedup"]
    _, length, fuzzy, exact = config.pipeline
    assert (length.min_characters, fuzzy.threshold, fuzzy.seed, exact.keep) == (7, 0.7, 3, "first")  # type: ignore[attr-defined]
    assert values == {"pipeline": ["repair", "length", {"fuzzy_dedup": {"threshold": 0.7}}]}


def test_what_is_dumped_can_be_loaded_and_is_the_same() -> None:
    config = configs.load(CurateConfig, {"pipeline": ["repair", {"length": {"min_characters": 7}}]})
    again = configs.load(CurateConfig, config.dump())
    assert again == config
    assert again.identity() == config.identity()


def test_order_and_parameters_of_steps_are_identity_but_shards_are_not() -> None:
    first = CurateConfig(pipeline=["repair", "length"])
    assert CurateConfig(pipeline=["length", "repair"]).identity() != first.identity()
    assert CurateConfig(pipeline=["repair", {"length": {"min_characters": 7}}]).identity() != first.identity()
    assert CurateConfig(pipeline=["repair", "length"], shard_bytes=7).identity() == first.identity()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["repare"], "unknown step 'repare'; did you mean 'repair'?"),
        (
            [{"length": {"min_charakters": 1}}],
            "step length: min_charakters: unknown key; did you mean 'min_characters'",
        ),
        ([{"length": {"min_characters": -1}}], "step length: min_characters: "),
        ([{"length": 3}], "length: a mapping of parameters is needed, not 3"),
        ([{"length": {}, "repair": {}}], "a step is a name, or a mapping of one name"),
        ("repair", "a list of steps is needed"),
    ],
)
def test_wrong_steps_are_named(given: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        configs.load(CurateConfig, {"pipeline": given}, where="curate.yaml: config")
    assert message in str(error.value)
    assert str(error.value).startswith("curate.yaml: config: pipeline: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_documented_and_can_be_made(name: str) -> None:
    found = step_config(name)
    assert found.step == name
    assert found.__doc__
    for key, field in configs.leaf_fields(found):
        assert field.description, f"{name}.{key}"
    module, _, kind = found.implementation.partition(":")
    assert hasattr(__import__(module, fromlist=[kind]), kind)


def test_configurations_import_nothing_heavy() -> None:
    code = (
        "import sys; from tatara.data.pipeline.config import CurateConfig; list(CurateConfig.more_fields());"
        "print([name for name in ('numpy', 'pyarrow', 'ray', 'torch', 'numba', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
