import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.hf_cases import ARCHITECTURES, EXPERTS, stream
from model.megatron_cases import layout, small_spec
from model.ranks import run_ranks
from tatara.errors import ArtifactError
from tatara.train.convert.export_proof import proof_batches, prove
from train.convert import export_cases as cases


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Written by two tensor-parallel ranks."""
    directory = tmp_path_factory.mktemp("checkpoint") / "payload"
    run_ranks(2, cases.save_checkpoint, directory, layout(tp=2))
    return directory


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """Exports with several settings, and of copies of the checkpoint that are damaged: name to (directory, proof)."""
    root = tmp_path_factory.mktemp("made")
    wanted = {
        "plain": (checkpoint, root / "plain", {}),
        "without a proof": (checkpoint, root / "without a proof", {"proof_tokens": 0}),
        "several files": (checkpoint, root / "several files", {"max_shard_size": 150_000}),
    }
    for number, (damage, config, _) in DAMAGES.items():
        payload = Path(shutil.copytree(checkpoint, root / f"damaged {number}"))
        damage(payload)
        wanted[number] = (payload, root / f"{number} exported", config)
    (proofs,) = run_ranks(1, cases.export_each, wanted)
    return {name: (wanted[name][1], proof) for name, proof in proofs.items()}


@pytest.fixture(scope="module")
def exported(made):
    return made["plain"]


@pytest.fixture
def copied(exported, tmp_path):
    return Path(shutil.copytree(exported[0], tmp_path / "copied"))


def test_the_files_hold_the_trained_weights_bit_for_bit(exported):
    directory, proof = exported
    written = load_file(directory / "model.safetensors")
    (trained,) = run_ranks(1, stream, layout())
    assert written.keys() == trained.keys()
    assert all(torch.equal(written[name], trained[name]) for name in trained)
    assert proof["tensors"] == len(trained)
    assert proof["parameters"] == sum(tensor.numel() for tensor in trained.values())
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    assert proof["sha256"] == {"model.safetensors": digest}


def test_the_optimizer_in_a_checkpoint_is_left_behind(exported, tmp_path):
    payload = tmp_path / "payload"
    payload.mkdir()
    run_ranks(2, cases.save_trained, payload, {"tp": 2})
    (proof,) = run_ranks(1, cases.export, payload, tmp_path / "out")
    assert proof["tensors"] == exported[1]["tensors"]
    trained, initial = (load_file(place / "model.safetensors") for place in (tmp_path / "out", exported[0]))
    assert all((trained[name] - initial[name]).abs().max() > 1e-4 for name in initial)


def test_the_proof_says_what_was_compared(exported):
    directory, proof = exported
    assert json.loads((directory / "proof.json").read_text()) == proof
    assert proof["max_abs_logit_diff"] <= proof["tolerance"] == 1e-4
    assert proof["tokens_compared"] == 512


def test_the_directory_reads_and_writes_text(exported):
    directory, _ = exported
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    prompt = tokenizer("iron sand", return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(output[0]).startswith("iron sand")
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id == 0


TENSOR = {"tp": 2, "sequence_parallel": True}
CHECKPOINTS = {
    "llama": ({"pp": 2, "virtual_stages": 2}, {"dtype": "bfloat16"}),
    "llama tied": ({"pp": 2}, ARCHITECTURES["llama tied"]),
    "qwen3": (TENSOR, ARCHITECTURES["qwen3"]),
    "instella": (TENSOR, ARCHITECTURES["instella"]),
    "mixtral": ({"ep": 2}, ARCHITECTURES["mixtral"]),
    "qwen3 moe": (TENSOR | {"ep": 2}, ARCHITECTURES["qwen3 moe"]),
    "glm4 moe": ({"pp": 2}, ARCHITECTURES["glm4 moe"]),
}


def test_every_architecture_exports_from_a_layout_of_its_own(tmp_path):
    run_ranks(2, cases.save_checkpoints, tmp_path, CHECKPOINTS)
    (proofs,) = run_ranks(1, cases.exports, tmp_path, {name: item[1] for name, item in CHECKPOINTS.items()})
    for name, proof in proofs.items():
        assert not isinstance(proof, str), f"{name}: {proof}"
        assert proof["max_abs_logit_diff"] <= 1e-4, name
        assert proof["same"], name
        spec = small_spec(**CHECKPOINTS[name][1])
        # An Instella is written with routers over its only expert.
        routers = spec.num_layers * spec.hidden_size if name == "instella" else 0
        assert proof["parameters"] == spec.parameter_count() + routers, name


def test_without_a_proof_every_tensor_is_still_accounted_for(made, exported):
    _, proof = made["without a proof"]
    assert proof == {name: exported[1][name] for name in proof}
    assert "max_abs_logit_diff" not in proof


def test_a_few_tensors_are_in_memory_at_a_time(tmp_path):
    moe = EXPERTS | {"num_experts": 64}
    run_ranks(2, cases.save_checkpoint, tmp_path / "payload", layout(ep=2), moe=moe)
    ((most, largest),) = run_ranks(1, cases.memory, tmp_path / "payload", tmp_path)
    assert small_spec(moe=moe).parameter_count() * 4 > 40 * largest
    assert 0 < most <= 4 * largest


def test_a_large_model_becomes_several_files_with_an_index(made, exported):
    directory, proof = made["several files"]
    files = sorted(path.name for path in directory.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2
    assert sorted(proof["sha256"]) == files
    index = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
    whole = load_file(exported[0] / "model.safetensors")
    assert index.keys() == whole.keys()
    assert all(torch.equal(load_file(directory / file)[name], whole[name]) for name, file in index.items())


def swapped(tensors):
    key, value = (f"model.layers.1.self_attn.{name}_proj.weight" for name in "kv")
    return tensors | {key: tensors[value], value: tensors[key]}


def nudged(tensors):
    name = "model.layers.3.mlp.down_proj.weight"
    return tensors | {name: tensors[name] + 0.001}


def poisoned(tensors):
    return tensors | {"model.norm.weight": tensors["model.norm.weight"] * float("nan")}


def lacking(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


def extended(tensors):
    return tensors | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (swapped, "does not compute what Megatron does"),
        (nudged, "does not compute what Megatron does"),
        (poisoned, "a logit differs by nan"),
        (lacking, "1 tensors differ, lm_head.weight"),
        (extended, "1 tensors differ, model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_a_wrong_export_is_not_proven(tamper, message, copied):
    spec = small_spec()
    batches = list(proof_batches(copied, spec, 256))
    file = copied / "model.safetensors"
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(copied)
        expected = [model(batch).logits for batch in batches]
    assert prove(copied, spec, batches, expected, 1e-4)["max_abs_logit_diff"] == 0.0
    save_file({k: v.clone() for k, v in tamper(load_file(file)).items()}, file, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=message):
        prove(copied, spec, batches, expected, 1e-4)


def test_a_config_that_reads_the_weights_otherwise_is_not_proven(copied):
    spec = small_spec()
    batches = list(proof_batches(copied, spec, 256))
    with torch.inference_mode():
        expected = [AutoModelForCausalLM.from_pretrained(copied)(batch).logits for batch in batches]
    config = json.loads((copied / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500_000.0
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="does not compute what Megatron does"):
        prove(copied, spec, batches, expected, 1e-4)


def without_description(payload: Path) -> None:
    (payload / "model.json").unlink()


def described_with(**changes):
    def change(payload: Path) -> None:
        described = json.loads((payload / "model.json").read_text())
        (payload / "model.json").write_text(json.dumps(described | changes))

    return change


def with_a_larger_tokenizer(payload: Path) -> None:
    shutil.rmtree(payload / "tokenizer")
    cases.write_tokenizer(payload / "tokenizer", 300)
    described_with(vocab_size=200)(payload)


def without_tokenizer(payload: Path) -> None:
    shutil.rmtree(payload / "tokenizer")


def cut_short(payload: Path) -> None:
    for file in (payload / "model").glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:-5000])


WRONG = "ArtifactError: "
# Name: what is done to a checkpoint, with which settings it is exported, and what is said then.
DAMAGES = {
    "no description": (
        without_description,
        {},
        f"{WRONG}.*model.json is missing: this is not a checkpoint of the pretrain stage",
    ),
    "no model": (
        described_with(num_query_groups=3),
        {},
        f"{WRONG}.*a model: num_query_groups 3 must divide num_attention_heads 4",
    ),
    "unknown field": (described_with(layers=3), {}, f"{WRONG}.*a model: layers: Extra inputs are not permitted"),
    "more layers": (
        described_with(num_layers=5),
        {},
        rf"{WRONG}.*of shape \[4, 64\], but the model of model.json has \[5, 64\]",
    ),
    "more layers, without a proof": (
        described_with(num_layers=5),
        {"proof_tokens": 0},
        rf"{WRONG}.*of shape \[4, 64\], but the model of model.json has \[5, 64\]",
    ),
    "fewer layers": (
        described_with(num_layers=3),
        {},
        rf"{WRONG}.*of shape \[4, 64\], but the model of model.json has \[3, 64\]",
    ),
    "more tokens": (
        described_with(vocab_size=700),
        {},
        rf"{WRONG}.*embeddings.weight of shape \[512, 64\], but the model of model.json has \[768, 64\]",
    ),
    "narrower": (
        described_with(ffn_hidden_size=64),
        {},
        rf"{WRONG}.*linear_fc2.weight of shape \[4, 64, 96\], but the model of model.json has",
    ),
    "tied": (
        described_with(tie_word_embeddings=True),
        {},
        f"{WRONG}.*also has output_layer.weight, which the model of model.json does not",
    ),
    "larger tokenizer": (with_a_larger_tokenizer, {}, f"{WRONG}.*tokens, but the model only 200"),
    "no tokenizer": (without_tokenizer, {}, f"{WRONG}.*holds no tokenizer.json"),
    "cut short": (cut_short, {}, f"{WRONG}.*does not hold the model of model.json"),
    "no architecture": (
        described_with(qk_norm="full", rms_norm_eps=1e-6),
        {},
        "ConfigError: rms_norm_eps=1e-06 has no place in Hugging Face's OlmoeForCausalLM",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_checkpoint_that_is_not_one_is_refused_in_one_line(name, made):
    directory, said = made[name]
    assert re.match(DAMAGES[name][2], said)
    assert "\n" not in said
    assert not (directory / "proof.json").exists()
