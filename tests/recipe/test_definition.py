"""Recipes as pages: the DAG check, overrides, and what a mistake is told."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tatara.errors import ConfigError, RecipeError
from tatara.recipe.definition import load_recipe, order

QUICKSTART = Path(__file__).resolve().parents[2] / "jobs" / "recipes" / "quickstart.yaml"


def page(tmp_path: Path, **stages: object) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "r", "stages": stages}, sort_keys=False))
    return path


def test_the_quickstart_is_a_recipe() -> None:
    recipe = load_recipe(QUICKSTART)
    assert [item.key for item in recipe.stages] == [
        *("curate", "tokenize", "pretrain", "dialogues", "render", "sft", "grpo", "export", "serve")
    ]
    assert recipe.downstream("pretrain") == {"pretrain", "sft", "grpo", "export", "serve"}


def test_overrides_go_to_the_stage_that_has_the_key() -> None:
    recipe = load_recipe(QUICKSTART, {"corpus": "x.jsonl", "pretrain.layout.tp": "2", "serve.port": "9000"})
    by_key = {item.key: item.config for item in recipe.stages}
    assert by_key["curate"].corpus == "x.jsonl"
    assert by_key["pretrain"].layout.tp == 2
    assert by_key["serve"].port == 9000


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("corpuss", "--corpuss: unknown key; did you mean 'corpus'?"),
        ("pretrain.layout.tpp", "layout.tpp: unknown key; did you mean 'layout.tp'?"),
        ("seed", "more than one stage has this key"),
    ],
)
def test_a_wrong_override_is_told_the_right_one(key: str, expected: str) -> None:
    overrides = {key: "1"}
    if key == "seed":
        owners = [item for item in load_recipe(QUICKSTART).stages if "seed" in type(item.config).model_fields]
        if len(owners) < 2:
            pytest.skip("fewer than two stages have a seed")
    with pytest.raises(ConfigError) as caught:
        load_recipe(QUICKSTART, overrides)
    assert expected in str(caught.value)


def test_order_follows_inputs_not_the_page(tmp_path: Path) -> None:
    path = page(tmp_path, tokenize={"inputs": {"documents": "curate"}}, curate={})
    assert [item.key for item in load_recipe(path).stages] == ["curate", "tokenize"]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ({"curat": {}}, "stages.curat: unknown stage 'curat'; did you mean 'curate'?"),
        ({"clean": {}}, "(or say which to run: clean: {run: ...})"),
        ({"tokenize": {}, "curate": {}}, "documents (documents) is not given, such as documents: curate"),
        (
            {"curate": {}, "tokenize": {"inputs": {"documents": "curat"}}},
            "stages.tokenize.inputs.documents: no stage 'curat' in this recipe; did you mean 'curate'?",
        ),
        (
            {"curate": {}, "tokenize": {"inputs": {"document": "curate"}}},
            "unknown input 'document'; did you mean 'documents'?",
        ),
        (
            {"curate": {}, "pretrain": {"inputs": {"tokens": "curate"}}},
            "'curate' makes documents, but tokens is needed",
        ),
        (
            {"curate": {}, "again": {"run": "curate"}},
            "stages curate and again would both write documents/r: give one of them another name, such as name: r-aga",
        ),
        ({}, "stages: there are none"),
    ],
)
def test_what_is_not_a_recipe_is_told_why(tmp_path: Path, stages: dict[str, object], expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(page(tmp_path, **stages))
    assert expected in str(caught.value)


def test_wrong_keys_name_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    path = page(tmp_path, curate={"config": {"corpuss": "x"}})
    with pytest.raises(ConfigError, match=r"stages\.curate\.config: corpuss: unknown key; did you mean 'corpus'"):
        load_recipe(path)
    path.write_text("name: r\nstage: {}\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: stage"):
        load_recipe(path)


def test_a_circle_is_named() -> None:
    with pytest.raises(RecipeError, match="in a circle: a -> b -> c -> a"):
        order({"a": ["b"], "b": ["c"], "c": ["a"]})


@given(st.dictionaries(st.integers(0, 30), st.lists(st.integers(0, 30), max_size=4), max_size=12))
def test_every_stage_comes_after_what_it_needs(graph: dict[int, list[int]]) -> None:
    # Edges only to smaller numbers: a DAG.
    needs = {
        str(key): [str(other) for other in others if other < key and other in graph] for key, others in graph.items()
    }
    ordered = order(needs)
    assert sorted(ordered) == sorted(needs)
    for key, others in needs.items():
        for other in others:
            assert ordered.index(other) < ordered.index(key)
