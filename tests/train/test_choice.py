"""Which architecture a run trains, from a preset, a size or figures."""

import json
import subprocess
import sys

import pytest

from tatara import config
from tatara.errors import ConfigError
from tatara.model.presets import preset
from tatara.model.spec import MixtureOfExperts, ModelSpec
from tatara.train.choice import PretrainModel


def load(**values):
    return config.load(PretrainModel, values)


def test_nothing_given_is_a_toy_with_the_tokenizers_vocabulary():
    assert PretrainModel().resolve(5000, 64) == ModelSpec(vocab_size=5000)
    assert PretrainModel(vocab_size=6000).resolve(5000, 64).vocab_size == 6000


def test_what_is_given_wins_over_the_preset():
    spec = load(preset="llama3-8b", num_layers=2, dtype="float32").resolve(128_256, 8192)
    assert spec == preset("llama3-8b").model_copy(update={"num_layers": 2, "dtype": "float32"})


def test_experts_are_given_as_a_whole():
    spec = load(preset="toy-mixtral", moe={"num_experts": 2, "top_k": 1, "normalize_top_k": False}).resolve(100, 64)
    assert spec.moe == MixtureOfExperts(num_experts=2, top_k=1, normalize_top_k=False)


@pytest.mark.parametrize("size", ["2M", "50M", "1.5B"])
def test_a_size_gives_a_model_of_about_that_many_parameters(size):
    spec = load(params=size).resolve(32_000, 2048)
    wanted = float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]
    assert spec.parameter_count() == pytest.approx(wanted, rel=0.05)
    assert spec.vocab_size == 32_000


def test_it_survives_being_written_down():
    for chosen in (load(params="50M", rope_theta=5e5), load(preset="toy-qwen3"), load(hidden_size=64)):
        read = PretrainModel.model_validate(json.loads(json.dumps(chosen.dump())))
        assert read.resolve(256, 64) == chosen.resolve(256, 64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "lama3-8b"}, "unknown preset 'lama3-8b'; did you mean 'llama3-8b'?"),
        ({"preset": "toy-llama", "params": "2M"}, "give a preset or params, not both"),
        ({"vocab_size": 100}, "model.vocab_size=100 is smaller than the tokenizer's 4096: leave it out or raise it"),
        ({"max_position_embeddings": 32}, "max_position_embeddings=32 is smaller than the sequence_length=64"),
        ({"num_query_groups": 3}, "num_query_groups 3 must divide num_attention_heads 4"),
        ({"params": "many"}, "many"),
    ],
)
def test_what_does_not_fit_is_one_line(values, message):
    with pytest.raises(ConfigError) as caught:
        load(**values).resolve(4096, 64)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_size_is_one_dial_on_the_command_line(tmp_path):
    from tatara.recipe.definition import load_recipe

    page = tmp_path / "page.yaml"
    page.write_text("name: p\nstages: {pretrain: {inputs: {tokens: tokens/t@1}}}\n")
    recipe = load_recipe(page, {"params": "10M"})
    assert recipe.stages[0].config.model.params == "10M"
    shown = subprocess.run([sys.executable, "-m", "tatara", "pretrain", "--help"], capture_output=True, text=True)
    assert "--params" in shown.stdout
