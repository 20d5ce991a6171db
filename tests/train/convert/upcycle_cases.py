"""What the ranks of the upcycling stage's tests do."""

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tatara.model.experts import expert_similarity
from tatara.model.hf import stream_to_hf
from tatara.model.hf_loading import load_from_hf
from tatara.model.spec import MixtureOfExperts, ModelSpec
from tatara.model.upcycle import upcycle_stream
from tatara.model.upcycle_settings import UpcycleSettings
from tatara.train.checkpoint import directories, loading
from tatara.train.convert.one_rank import load_megatron, read_spec, single_rank
from tatara.train.convert.upcycle import UpcycleConfig
from tatara.train.convert.upcycle_run import upcycle_directory
from train.engine_cases import Run


def upcycle(checkpoint: Path, directory: Path, config: dict[str, Any]) -> dict[str, Any] | str:
    """Upcycle in a process of its own: the proof, or the error's type and message where it fails."""
    dist.destroy_process_group()
    directory.mkdir(exist_ok=True)
    try:
        return upcycle_directory(UpcycleConfig.model_validate(config), checkpoint, directory)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        dist.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)


def stored_and_expected(checkpoint: Path, made: Path, config: dict[str, Any]) -> Any:
    """The specification and tensors of an upcycled checkpoint, and the tensors that it should hold."""
    dist.destroy_process_group()
    settings = UpcycleConfig.model_validate(config)
    dense, sparse = read_spec(checkpoint), read_spec(made)
    with single_rank():
        source = load_megatron(checkpoint / "model", dense)
        expected = dict(upcycle_stream(stream_to_hf([source], dense), dense, sparse, settings, settings.seed))
        found = dict(stream_to_hf([load_megatron(made / "model", sparse)], sparse))
    dist.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)
    return sparse, found, expected


def train_from(made: Path, tokens: str, layout: dict[str, Any]) -> Any:
    """Start training from an upcycled checkpoint: what was recorded, similarity, two losses, similarity after."""
    sparse = read_spec(made)
    run = Run(tokens, layout, **{name: getattr(sparse, name) for name in ModelSpec.model_fields})
    training = loading.load(run.engine, directories.opened(made), optimizer=False)
    before = expert_similarity(run.engine.chunks)
    return training, before, [run.step(step)[0] for step in range(2)], expert_similarity(run.engine.chunks)


METHODS: dict[str, dict[str, Any]] = {
    "copy": {"method": "copy"},
    "zero router": {"method": "copy", "router_std": 0.0},
    "every expert, zero router": {"method": "copy", "router_std": 0.0, "top_k": 4},
    "noise": {"method": "noise"},
    "drop": {"method": "drop"},
    "granular": {"method": "granular", "granularity": 2},
}


def specialise(tokens: str, steps: int) -> dict[str, dict[str, Any]]:
    """Train a dense model, then mixtures made of it by each method, all on the same batches.

    Returns:
        Method to: validation losses before and after, mean similarity after each step (the start first), and the
        largest weight of any router at the end.
    """
    plain = Run(tokens, {}, num_layers=2)
    for step in range(steps):
        plain.step(step)
    dense = plain.engine.spec
    weights = {name: tensor.clone() for name, tensor in stream_to_hf(plain.engine.chunks, dense)}
    found: dict[str, dict[str, Any]] = {"dense": {"losses": [plain.validate()[0]]}}
    for name, method in METHODS.items():
        settings = UpcycleSettings(**{key: value for key, value in method.items() if key != "top_k"})
        moe = MixtureOfExperts(
            num_experts=4 * settings.shards,
            top_k=method.get("top_k", 2) * settings.shards,
            expert_ffn_hidden_size=dense.ffn_hidden_size // settings.shards,
            balancing="none",
        )
        run = Run(tokens, {}, num_layers=2, moe=moe)
        stream = upcycle_stream(weights.items(), dense, run.engine.spec, settings)
        load_from_hf(run.engine.chunks, run.engine.spec, stream)
        losses, similarity = [run.validate()[0]], [_mean(run)]
        for step in range(steps):
            run.step(steps + step)
            similarity.append(_mean(run))
        routers = [
            tensor.detach().abs().max()
            for chunk in run.engine.chunks
            for key, tensor in chunk.named_parameters()
            if key.endswith("router.weight")
        ]
        losses.append(run.validate()[0])
        found[name] = {"losses": losses, "similarity": similarity, "router": float(torch.stack(routers).max())}
    return found


def _mean(run: Run) -> float:
    layers = expert_similarity(run.engine.chunks)
    return sum(layers.values()) / len(layers)
