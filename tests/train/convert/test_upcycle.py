import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from model.megatron_cases import layout, small_spec
from model.ranks import run_ranks
from tatara.config import load
from tatara.errors import ConfigError, TataraError
from tatara.model.presets import preset
from tatara.train.convert.upcycle import TANUKI_8X8B, UpcycleConfig
from tatara.train.convert.upcycle_run import upcycle_directory
from train.convert import export_cases
from train.convert import upcycle_cases as cases
from train.tokens_cases import write_tokens

FOUR = {"num_experts": 4, "top_k": 2}
SHARED = {"score": "sigmoid", "balancing": "bias", "shared_expert_ffn_hidden_size": 48}


def described(directory, **changes):
    (directory / "training.json").write_text(json.dumps({"step": 30, "tokens": 4000, "loss": 2.5, "seed": 1} | changes))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Written by two tensor-parallel ranks."""
    directory = tmp_path_factory.mktemp("checkpoint") / "payload"
    run_ranks(2, export_cases.save_checkpoint, directory, layout(tp=2))
    described(directory)
    return directory


@pytest.mark.parametrize(
    "config",
    [
        {"method": "drop", "ratio": 0.3, "moe": FOUR, "seed": 3},
        {"method": "granular", "granularity": 2, "moe": {"num_experts": 8, "top_k": 4}},
        {"method": "copy", "moe": FOUR | SHARED},
    ],
    ids=str,
)
def test_the_checkpoint_holds_the_mixture_and_the_proof_says_what_it_computes(config, checkpoint, tmp_path):
    (proof,) = run_ranks(1, cases.upcycle, checkpoint, tmp_path / "made", config)
    assert isinstance(proof, dict), proof
    spec, found, expected = run_ranks(1, cases.stored_and_expected, checkpoint, tmp_path / "made", config)[0]
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert spec.moe.num_experts == config["moe"]["num_experts"]
    assert spec.model_copy(update={"moe": None}) == small_spec()
    assert proof["parameters"] == sum(tensor.numel() for name, tensor in found.items() if "correction_bias" not in name)
    assert json.loads((tmp_path / "made" / "proof.json").read_text()) == proof
    # All of 512 but the first of each sequence of 64.
    assert proof["tokens_compared"] == 504
    difference = abs(proof["dense_loss"] - proof["sparse_loss"])
    assert difference <= proof["largest_token_difference"]
    similarity = proof["mean_expert_similarity"]
    if config["method"] == "drop":
        assert not proof["equal_by_theory"]
        assert difference > 1e-3
        assert abs(similarity - 0.49) < 0.05
    else:
        assert proof["equal_by_theory"]
        assert difference < 1e-5
        assert abs(similarity - (3 / 7 if config["method"] == "granular" else 1)) < 0.02
    training = json.loads((tmp_path / "made" / "training.json").read_text())
    assert (training["step"], training["tokens"]) == (0, 0)
    assert training["dense"] == {"step": 30, "tokens": 4000, "loss": 2.5}
    assert training["upcycled"]["method"] == config["method"]
    assert (tmp_path / "made" / "tokenizer" / "tokenizer.json").is_file()


def test_bfloat16_is_compared_in_float32_and_exported(tmp_path):
    run_ranks(1, export_cases.save_checkpoint, tmp_path / "dense", layout(), dtype="bfloat16")
    described(tmp_path / "dense")
    config = {"method": "granular", "granularity": 2, "moe": {"num_experts": 4, "top_k": 2}}
    (proof,) = run_ranks(1, cases.upcycle, tmp_path / "dense", tmp_path / "made", config)
    assert proof["equal_by_theory"]
    assert abs(proof["dense_loss"] - proof["sparse_loss"]) < 1e-5
    (exported,) = run_ranks(1, export_cases.export, tmp_path / "made", tmp_path / "exported")
    assert exported["max_abs_logit_diff"] < 1e-4
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["architectures"] == ["MixtralForCausalLM"]


def test_training_starts_from_it_in_another_layout(checkpoint, tmp_path):
    (proof,) = run_ranks(1, cases.upcycle, checkpoint, tmp_path / "made", {"moe": FOUR})
    tokens = str(write_tokens(tmp_path / "tokens"))
    results = run_ranks(2, cases.train_from, tmp_path / "made", tokens, {"ep": 2})
    for training, before, losses, after in results:
        assert training["step"] == 0
        similarity = proof["expert_similarity"]
        assert all(abs(value - similarity[str(layer)]) < 1e-6 for layer, value in before.items())
        assert losses[1] < losses[0]
        assert after != before
    assert results[0] == results[1]


def test_each_method_specialises_while_it_trains(tmp_path):
    (found,) = run_ranks(1, cases.specialise, str(write_tokens(tmp_path / "tokens")), 8)
    (before,) = found.pop("dense")["losses"]
    for name in ("copy", "zero router", "every expert, zero router", "granular"):
        assert abs(found[name]["losses"][0] - before) < 1e-5
    for name in ("noise", "drop"):
        assert found[name]["losses"][0] > before + 0.01
    assert all(result["losses"][1] < before for result in found.values())
    # Each expert of a random router sees other tokens.
    falling = found["copy"]["similarity"]
    assert abs(falling[0] - 1) < 1e-6
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))
    assert falling[-1] < 0.99
    # Without one, the same experts are always visited. They stay equal to each other, and the router learns nothing.
    assert found["zero router"]["similarity"][-1] < 0.999
    assert found["zero router"]["router"] == 0
    # Experts that see the same tokens with the same weight never part.
    assert all(abs(value - 1) < 1e-6 for value in found["every expert, zero router"]["similarity"])
    assert abs(found["drop"]["similarity"][0] - 0.25) < 0.02
    granular = found["granular"]["similarity"]
    assert abs(granular[0] - 3 / 7) < 0.02
    assert granular[-1] < granular[0]


def already_sparse(directory):
    spec = json.loads((directory / "model.json").read_text())
    moe = {"num_experts": 2, "top_k": 1, "normalize_top_k": False}
    (directory / "model.json").write_text(json.dumps(spec | {"moe": moe}))


def without_tokenizer(directory):
    shutil.rmtree(directory / "tokenizer")


def with_a_larger_tokenizer(directory):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer")
    tokenizer.add_tokens([f"<{number}>" for number in range(501 - len(tokenizer))])
    tokenizer.save_pretrained(directory / "tokenizer")


def without_training(directory):
    (directory / "training.json").unlink()


@pytest.mark.parametrize(
    ("damage", "config", "said"),
    [
        (already_sparse, {}, "the model is a mixture of 2 experts already"),
        (
            None,
            {"moe": FOUR | {"expert_ffn_hidden_size": 40}},
            "moe.expert_ffn_hidden_size=40 is not the 96",
        ),
        (
            None,
            {"method": "granular", "granularity": 5, "moe": {"num_experts": 10, "top_k": 5}},
            "granularity=5 does not divide the 96 neurons",
        ),
        (without_training, {}, "training.json is missing: this is not a checkpoint of the pretrain stage"),
        (without_tokenizer, {}, "holds no tokenizer.json: a checkpoint goes with its tokenizer"),
        (with_a_larger_tokenizer, {}, "the tokenizer has 501 tokens, but the model only 500"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_cannot_be_upcycled_is_refused_in_one_line(damage, config, said, checkpoint, tmp_path):
    payload = Path(shutil.copytree(checkpoint, tmp_path / "payload"))
    if damage is not None:
        damage(payload)
    made = tmp_path / "made"
    made.mkdir()
    with pytest.raises(TataraError) as raised:
        upcycle_directory(UpcycleConfig.model_validate(config), payload, made)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(made.iterdir()) == []


def test_a_first_loss_that_is_not_the_dense_one_is_refused(checkpoint, tmp_path):
    config = {"method": "copy", "tolerance": 1e-12}
    (answer,) = run_ranks(1, cases.upcycle, checkpoint, tmp_path / "made", config)
    assert answer.startswith(
        "ArtifactError: the mixture does not start where the dense model is: a token's loss differs"
    )
    assert "\n" not in answer
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"moe": {"num_experts": 4, "top_k": 5}}, "top_k 5 is more than num_experts 4"),
        ({"method": "copy", "ratio": 0.5}, "ratio has no meaning with method: copy"),
        (
            {"method": "granular", "granularity": 4, "moe": {"num_experts": 8, "top_k": 2}},
            "divide moe.top_k 2",
        ),
        (
            {"method": "copy", "router_std": 0, "moe": {"balancing": "none"}},
            "zero router need balancing",
        ),
        ({"metod": "copy"}, "method"),
    ],
    ids=str,
)
def test_a_configuration_that_has_no_meaning_is_refused_in_one_line(config, said):
    with pytest.raises(ConfigError) as raised:
        load(UpcycleConfig, config)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tanuki_is_upcycled_as_it_was_published():
    published = preset("tanuki-8x8b")
    dense = preset("tanuki-8b").model_copy(update={"max_position_embeddings": published.max_position_embeddings})
    assert TANUKI_8X8B.sparse(dense) == published
    # 47 billion, of which a token uses 13: the model card.
    assert round(published.parameter_count() / 1e9) == 47
    assert round(published.parameter_count(active=True) / 1e9) == 13
