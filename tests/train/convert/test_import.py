import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from model.hf_cases import ARCHITECTURES, transformers_model
from model.megatron_cases import small_spec
from model.ranks import run_ranks
from tatara.errors import DataError
from tatara.model.spec import ModelSpec
from tatara.train.convert import import_source
from tatara.train.convert.import_config import ImportConfig
from train.convert import import_cases as cases
from train.convert.export_cases import write_tokenizer


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    cases.write_sources(root)
    (proofs,) = run_ranks(1, cases.imports, root, cases.FAMILIES)
    return root, proofs


def test_every_architecture_computes_what_transformers_computes(imported):
    root, proofs = imported
    for name, proof in proofs.items():
        assert not isinstance(proof, str), f"{name}: {proof}"
        assert proof["max_abs_logit_diff"] <= proof["tolerance"] == 1e-4
        assert proof["tokens_compared"] == 512
        assert json.loads((root / f"{name} imported" / "proof.json").read_text()) == proof


def test_the_checkpoint_is_complete_and_says_where_it_comes_from(imported):
    root, proofs = imported
    for name in cases.FAMILIES:
        directory = root / f"{name} imported"
        spec = ModelSpec.model_validate_json((directory / "model.json").read_text())
        expected = small_spec(**ARCHITECTURES[name])
        assert (spec.num_layers, spec.qk_norm, spec.dtype) == (expected.num_layers, expected.qk_norm, expected.dtype)
        assert proofs[name]["parameters"] == spec.parameter_count() == expected.parameter_count()
        training = json.loads((directory / "training.json").read_text())
        assert (training["step"], training["tokens"]) == (0, 0)
        assert training["imported"]["model_type"] == proofs[name]["model_type"]
        assert len(AutoTokenizer.from_pretrained(directory / "tokenizer")) <= spec.vocab_size
        assert not (directory / "tokenizer" / "config.json").exists()


def test_what_was_imported_is_exported_bit_for_bit(imported):
    root, _ = imported
    (same,) = run_ranks(1, cases.exports, root, cases.FAMILIES)
    assert same == dict.fromkeys(cases.FAMILIES, True)


def config_with(**changes):
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | changes))

    return change


def tensors_with(change):
    return lambda directory: cases.change_tensors(directory, change)


def lacking(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != "model.layers.1.mlp.up_proj.weight"}


def cut_up(tensors):
    return tensors | {"model.norm.weight": tensors["model.norm.weight"][:-1].clone()}


def biased(tensors):
    return tensors | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}


def halved(tensors):
    return {name: tensor.bfloat16() for name, tensor in tensors.items()}


def truncated(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def larger_tokenizer(directory):
    write_tokenizer(directory, 300)
    table = small_spec(vocab_size=200)
    transformers_model(table).save_pretrained(directory)


def without(name):
    return lambda directory: (directory / name).unlink()


def not_json(directory):
    (directory / "config.json").write_text("{")


DAMAGES = {
    "missing": (tensors_with(lacking), "ArtifactError: 1 tensors are missing, the first is model.layers.1.mlp.up_proj"),
    "shape": (tensors_with(cut_up), "ArtifactError: tensor model.norm.weight has shape [63], expected [64]"),
    "extra": (tensors_with(biased), "ArtifactError: unexpected tensor model.layers.0.self_attn.q_proj.bias: the archi"),
    "dtype": (tensors_with(halved), "bfloat16, but config.json says float32: set dtype to have all converted"),
    "truncated": (truncated, "model.safetensors cannot be read as safetensors, is it complete?"),
    "tokenizer": (larger_tokenizer, "tokens, but vocab_size of config.json is 200"),
    "no tokenizer": (without("tokenizer.json"), "holds no tokenizer.json, which holds a tokenizer"),
    "no config": (without("config.json"), "holds no config.json, which describes a model"),
    "no weights": (without("model.safetensors"), "holds no safetensors files: convert the weights"),
    "not json": (not_json, "config.json is not JSON: "),
    "layers": (config_with(num_hidden_layers=5), "ArtifactError: 9 tensors are missing, the first is model.layers.4."),
    "rope": (config_with(rope_parameters={"rope_type": "linear"}), "rope_parameters of type linear lacks factor"),
    "bias": (config_with(attention_bias=True), "ConfigError: "),
    # Nothing of what can be counted or measured is wrong here.
    "untold": (config_with(tie_word_embeddings=True), "lm_head.weight of its own, though config.json says tie_word_em"),
}


def test_what_cannot_be_imported_is_refused_in_one_line(tmp_path):
    good = tmp_path / "good"
    transformers_model(small_spec()).save_pretrained(good)
    write_tokenizer(good)
    for name, (damage, _) in DAMAGES.items():
        damage(Path(shutil.copytree(good, tmp_path / name)))
    (said,) = run_ranks(1, cases.imports, tmp_path, list(DAMAGES))
    for name, (_, message) in DAMAGES.items():
        assert isinstance(said[name], str), name
        assert message in said[name], name
        assert "\n" not in said[name], name
        assert not (tmp_path / f"{name} imported" / "proof.json").exists(), name


def test_weights_are_converted_where_it_is_asked_for(tmp_path):
    transformers_model(small_spec()).save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    (proofs,) = run_ranks(1, cases.imports, tmp_path, ["model"], dtype="bfloat16")
    assert proofs["model"]["dtype"] == "bfloat16"
    assert proofs["model"]["max_abs_logit_diff"] <= 1e-4


def test_the_content_of_the_directory_is_its_identity(tmp_path):
    for name in ("here", "there"):
        directory = tmp_path / name
        directory.mkdir()
        for file, text in {
            "config.json": "{}",
            "tokenizer.json": "{}",
            "model.safetensors": "x",
            "README": name,
        }.items():
            (directory / file).write_text(text)
    found = [import_source.sources(ImportConfig(path=str(tmp_path / name))) for name in ("here", "there")]
    assert [(file.size, file.sha256) for file in found[0]] == [(file.size, file.sha256) for file in found[1]]
    assert len(found[0]) == 3
    with pytest.raises(DataError, match="nowhere does not exist"):
        import_source.sources(ImportConfig(path=str(tmp_path / "nowhere")))
