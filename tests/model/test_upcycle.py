"""Upcycled weights in transformers' own models, which know nothing of ours, beside the dense one."""

import math

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from model.megatron_cases import small_spec
from tatara.errors import ArtifactError, ConfigError
from tatara.model.experts import directory_similarity, stream_similarity
from tatara.model.hf_families import hf_config
from tatara.model.hf_names import hf_shapes
from tatara.model.spec import MixtureOfExperts
from tatara.model.upcycle import upcycle_stream
from tatara.model.upcycle_settings import UpcycleSettings

LLAMA, QWEN3, OLMOE = {}, {"qk_norm": "head", "head_dim": 32}, {"qk_norm": "full"}
SIGMOID = {"score": "sigmoid"}


def dense_weights(spec, seed=3):
    """Random ones, of neurons that differ in size."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.1 + (1.0 if len(shape) == 1 else 0.0)
        for name, shape in hf_shapes(spec).items()
    }


def sparse_of(dense, shards=1, shared=0, **moe):
    width = (dense.ffn_hidden_size - shared) // shards
    fields = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": width, "shared_expert_ffn_hidden_size": shared}
    return dense.model_copy(update={"moe": MixtureOfExperts(**fields | moe)})


def upcycled(dense, sparse, seed=0, weights=None, **settings):
    stream = upcycle_stream((weights or dense_weights(dense)).items(), dense, sparse, UpcycleSettings(**settings), seed)
    return {name: tensor.clone() for name, tensor in stream}


def in_transformers(spec, tensors, directory):
    """The losses of some tokens, and the logits, of transformers' model of the weights."""
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    AutoConfig.for_model(**hf_config(spec)).save_pretrained(directory)
    model, loading = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert not any(loading.values()), loading
    tokens = torch.randint(0, spec.vocab_size, (4, 48), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = model.eval()(tokens, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return losses, logits


def granular(shards, **settings):
    return {"method": "granular", "granularity": shards} | settings


@pytest.mark.parametrize(
    ("architecture", "sparse", "settings"),
    [
        (LLAMA, {}, {"method": "copy"}),
        (LLAMA, {"top_k": 4}, {"method": "copy", "router_std": 1.0}),
        (LLAMA, {"shards": 2, "num_experts": 8, "top_k": 4}, granular(2)),
        (LLAMA, {"shards": 3, "num_experts": 9, "top_k": 3}, granular(3, router_std=1.0)),
        (LLAMA, {"shards": 4, "num_experts": 4, "top_k": 4}, granular(4)),
        (QWEN3, {}, {"method": "copy", "router_std": 0.3}),
        (QWEN3, {"shards": 2, "num_experts": 6, "top_k": 2}, granular(2)),
        (QWEN3, {"normalize_top_k": False}, {"method": "copy", "router_std": 0.0}),
        (OLMOE, {"normalize_top_k": False, "top_k": 1}, {"method": "copy", "router_std": 0.0}),
        (QWEN3, {"shared": 48} | SIGMOID, {"method": "copy", "router_std": 0.5}),
        (LLAMA, {"shards": 2, "shared": 64, "num_experts": 8, "top_k": 4} | SIGMOID, granular(2)),
        (LLAMA, {"balancing": "bias"} | SIGMOID, {"method": "copy"}),
    ],
    ids=str,
)
def test_the_first_step_computes_what_the_dense_model_does(architecture, sparse, settings, tmp_path):
    dense = small_spec(**architecture)
    to = sparse_of(dense, **sparse)
    weights = dense_weights(dense)
    before, expected = in_transformers(dense, weights, tmp_path / "dense")
    after, logits = in_transformers(to, upcycled(dense, to, weights=weights, **settings), tmp_path / "sparse")
    assert before.std() > 0.3
    assert (after - before).abs().max() < 1e-5 * before.abs().max()
    assert (logits - expected).abs().max() < 1e-4
    assert abs(float(after.mean() - before.mean())) < 1e-5


@pytest.mark.parametrize("settings", [{"method": "noise"}, {"method": "drop"}], ids=str)
def test_what_changes_experts_changes_what_they_compute(settings, tmp_path):
    dense = small_spec()
    to = sparse_of(dense)
    before, _ = in_transformers(dense, dense_weights(dense), tmp_path / "dense")
    after, _ = in_transformers(to, upcycled(dense, to, **settings), tmp_path / "sparse")
    assert 0.01 < (after - before).abs().mean() < 1.0


def test_a_router_that_is_not_normalised_is_right_on_the_whole(tmp_path):
    dense = small_spec(**QWEN3)
    to = sparse_of(dense, normalize_top_k=False)
    before, _ = in_transformers(dense, dense_weights(dense), tmp_path / "dense")
    after, _ = in_transformers(to, upcycled(dense, to, method="copy", router_std=0.01), tmp_path / "sparse")
    unscaled = upcycled(dense, to, method="copy", router_std=0.01)
    for name in unscaled:
        if name.endswith(("up_proj.weight", "down_proj.weight")):
            unscaled[name] /= math.sqrt(2)
    without, _ = in_transformers(to, unscaled, tmp_path / "unscaled")
    assert (after - before).abs().mean() < 0.2 * (without - before).abs().mean()


def neuron_rows(tensors, layer, expert):
    """`[neurons, 3 hidden]`: what each neuron of an expert reads and writes."""
    prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}."
    return torch.cat([tensors[f"{prefix}w1.weight"], tensors[f"{prefix}w3.weight"], tensors[f"{prefix}w2.weight"].T], 1)


def dense_rows(weights, layer):
    gate, up, down = (weights[f"model.layers.{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
    return torch.cat([gate, up, down.T], 1)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_drop_draws_whole_neurons_anew_with_the_statistics_of_the_old(ratio):
    dense = small_spec(ffn_hidden_size=512, num_layers=2)
    weights = dense_weights(dense)
    for name in weights:
        if "mlp.gate" in name:
            weights[name] = weights[name] * 3 + 0.2
    tensors = upcycled(dense, sparse_of(dense), weights=weights, method="drop", ratio=ratio)
    chosen = []
    for layer in range(2):
        old = dense_rows(weights, layer)
        for expert in range(4):
            new = neuron_rows(tensors, layer, expert)
            touched = (new != old).any(1)
            assert int(touched.sum()) == int(512 * ratio)
            assert bool((new != old)[touched].all())
            for part, before in zip(new[touched].split(64, 1), old[touched].split(64, 1), strict=True):
                assert abs(float(part.mean() - before.mean())) < 4 * float(before.std()) / math.sqrt(part.numel())
                assert abs(float(part.std() / before.std()) - 1) < 4 / math.sqrt(2 * part.numel())
            chosen.append(tuple(touched.tolist()))
    assert len(set(chosen)) == (8 if ratio < 1 else 1)


def test_noise_is_added_to_whole_neurons():
    dense = small_spec(ffn_hidden_size=512, num_layers=1)
    weights = dense_weights(dense)
    tensors = upcycled(dense, sparse_of(dense), weights=weights, method="noise", ratio=0.25, noise=0.3)
    old = dense_rows(weights, 0)
    for expert in range(4):
        new = neuron_rows(tensors, 0, expert)
        touched = (new != old).any(1)
        assert int(touched.sum()) == 128
        for added, whole in zip((new - old)[touched].split(64, 1), old.split(64, 1), strict=True):
            assert abs(float(added.std() / whole.std()) - 0.3) < 0.01
            assert abs(float(added.mean())) < 4 * 0.03 / math.sqrt(added.numel())


def test_everything_else_is_passed_on_as_it_came():
    dense = small_spec()
    weights = dense_weights(dense)
    for settings in ({"method": "copy"}, {"method": "drop"}, {"method": "noise"}):
        tensors = upcycled(dense, sparse_of(dense), weights=weights, **settings)
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == hf_shapes(sparse_of(dense))
        kept = [name for name in weights if ".mlp." not in name]
        assert all(torch.equal(tensors[name], weights[name]) for name in kept)


def test_the_experts_of_a_group_are_the_shards_and_share_their_router_weights():
    dense = small_spec(num_layers=1)
    weights = dense_weights(dense)
    to = sparse_of(dense, shards=4, num_experts=8, top_k=4)
    tensors = upcycled(dense, to, weights=weights, **granular(4))
    old = dense_rows(weights, 0)
    for expert in range(8):
        new = neuron_rows(tensors, 0, expert)
        # Powers of two: not a bit is lost.
        scale = torch.tensor([1.0, 2.0, 2.0]).repeat_interleave(64)
        assert torch.equal(new, old[expert % 4 * 24 : (expert % 4 + 1) * 24] * scale)
    router = tensors["model.layers.0.block_sparse_moe.gate.weight"]
    assert torch.equal(router, router[::4].repeat_interleave(4, 0))
    assert not torch.equal(router[0], router[4])


def test_the_result_depends_on_names_and_seed_only():
    dense = small_spec()
    weights = dense_weights(dense)
    to = sparse_of(dense)
    first = upcycled(dense, to, weights=weights)
    again = upcycled(dense, to, weights=dict(reversed(weights.items())))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = upcycled(dense, to, seed=1, weights=weights)
    router = "model.layers.1.block_sparse_moe.gate.weight"
    assert not torch.equal(first[router], other[router])
    assert abs(float(first[router].std()) - 0.02) < 0.004
    assert not torch.equal(first[router], first[router.replace("1", "2", 1)])


def test_bfloat16_stays_and_power_of_two_gains_are_exact():
    dense = small_spec(dtype="bfloat16")
    weights = {name: tensor.bfloat16() for name, tensor in dense_weights(dense).items()}
    tensors = upcycled(dense, sparse_of(dense, shards=2, num_experts=4), weights=weights, **granular(2))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    new = neuron_rows(tensors, 0, 1).split(64, 1)
    old = dense_rows(weights, 0)[48:].split(64, 1)
    assert torch.equal(torch.cat(new, 1), torch.cat([old[0], old[1], old[2] * 2], 1))


def test_one_layer_is_held_at_a_time():
    dense = small_spec()
    given = iter(dense_weights(dense).items())
    stream = upcycle_stream(given, dense, sparse_of(dense), UpcycleSettings(method="copy"))
    names = []
    for name, _ in stream:
        names.append(name)
        if name.startswith("model.layers.0.block_sparse_moe"):
            break
    remaining = [name for name, _ in given]
    assert any(name.startswith("model.layers.1.") for name in remaining)


@pytest.mark.parametrize(
    ("sparse", "settings", "expected"),
    [
        ({}, {"method": "copy"}, 1.0),
        ({}, {"method": "drop"}, 0.25),
        ({}, {"method": "drop", "ratio": 1.0}, 0.0),
        ({}, {"method": "noise", "ratio": 1.0, "noise": 1.0}, 0.5),
        ({"shards": 4, "num_experts": 8, "top_k": 4}, granular(4), 1 / 7),
    ],
    ids=str,
)
def test_the_similarity_of_experts_is_what_theory_says(sparse, settings, expected):
    dense = small_spec(ffn_hidden_size=512, num_layers=2)
    to = sparse_of(dense, **sparse)
    tensors = upcycled(dense, to, **settings)
    found = stream_similarity(tensors.items(), to)
    assert list(found) == [0, 1]
    for layer, value in found.items():
        assert abs(value - expected) < (1e-6 if expected == 1.0 else 0.04)
        rows = torch.stack([neuron_rows(tensors, layer, expert) for expert in range(to.moe.num_experts)]).double()
        cosines = []
        for part in rows.split(64, 2):
            gram = torch.nn.functional.cosine_similarity(part.flatten(1)[:, None], part.flatten(1)[None], -1)
            pairs = ~torch.eye(len(gram), dtype=torch.bool)
            cosines.append(gram[pairs].mean())
        assert abs(value - float(torch.stack(cosines).mean())) < 1e-6
    assert stream_similarity({}.items(), dense) == {}


def test_the_similarity_of_a_directory_is_that_of_its_tensors(tmp_path):
    dense = small_spec(**QWEN3)
    to = sparse_of(dense)
    tensors = upcycled(dense, to, method="drop", ratio=0.2)
    in_transformers(to, tensors, tmp_path / "model")
    assert directory_similarity(tmp_path / "model") == stream_similarity(tensors.items(), to)
    with pytest.raises(ArtifactError, match=r"config\.json is missing"):
        directory_similarity(tmp_path)


@pytest.mark.parametrize(
    ("sparse", "settings", "said"),
    [
        ({"expert_ffn_hidden_size": 48}, {"method": "copy"}, "moe.expert_ffn_hidden_size=48 is not the 96 that the"),
        ({"num_experts": 10, "top_k": 5}, granular(5), "granularity=5 does not divide the 96 neurons"),
        ({"shards": 4, "num_experts": 6, "top_k": 4}, granular(4), "granularity=4 does not divide moe.num_experts=6"),
        ({"shards": 2, "top_k": 3}, granular(2), "granularity=2 does not divide moe.top_k=3"),
        ({"shared": 95, "shared_expert_ffn_hidden_size": 96} | SIGMOID, {"method": "copy"}, "leaves nothing of"),
    ],
    ids=str,
)
def test_architectures_that_do_not_fit_are_refused_in_one_line(sparse, settings, said):
    dense = small_spec()
    with pytest.raises(ConfigError) as raised:
        upcycled(dense, sparse_of(dense, **sparse), **settings)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_mixture_is_not_upcycled_again():
    dense = small_spec()
    to = sparse_of(dense)
    with pytest.raises(ConfigError, match="a mixture of 4 experts already"):
        upcycled(to, to, weights={"a": torch.zeros(1)})
    with pytest.raises(ConfigError, match="needs a mixture of experts to make"):
        upcycled(dense, dense)
    with pytest.raises(ConfigError, match="only, but rope_theta differs"):
        upcycled(dense, to.model_copy(update={"rope_theta": 5.0}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "copy", "ratio": 0.5}, "ratio has no meaning with method: copy .only with drop or noise"),
        ({"method": "drop", "noise": 0.5}, "noise has no meaning with method: drop .only with noise"),
        ({"method": "noise", "granularity": 2}, "granularity has no meaning with method: noise"),
        ({"method": "granular"}, "method: granular needs granularity"),
        (granular(2, router_std=0), "method: granular needs router_std > 0"),
        ({"ratio": 1.5}, "less than or equal to 1"),
    ],
    ids=str,
)
def test_settings_that_have_no_meaning_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        UpcycleSettings(**settings)


def test_tensors_that_do_not_fit_are_refused_by_name():
    dense = small_spec()
    to = sparse_of(dense)
    good = dense_weights(dense)
    name = "model.layers.2.mlp.up_proj.weight"
    refused = [
        ({key: value for key, value in good.items() if key != name}, f"1 tensors are missing, the first is {name}"),
        (good | {"other": good[name]}, "unexpected tensor other"),
        (good | {name: good[name][:-1]}, rf"tensor {name} has shape \[95, 64\], expected \[96, 64\]"),
    ]
    for weights, said in refused:
        with pytest.raises(ArtifactError, match=said):
            upcycled(dense, to, weights=weights)
    with pytest.raises(ArtifactError, match=f"tensor {name} was given twice"):
        list(upcycle_stream([(name, good[name]), (name, good[name])], dense, to, UpcycleSettings()))
