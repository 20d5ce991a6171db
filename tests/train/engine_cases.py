"""What the ranks of the engine and checkpoint tests do."""

import hashlib
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state
from safetensors.torch import save_file

from tatara.model.compute import ComputeSettings
from tatara.model.megatron import global_parameters
from tatara.model.spec import ModelSpec
from tatara.train.checkpoint import directories
from tatara.train.checkpoint import writer as checkpoint_writer
from tatara.train.checkpoint.writer import CheckpointWriter
from tatara.train.engine import Engine
from tatara.train.feed.batches import Batch, PackedTokens
from tatara.train.feed.positions import bins_at, rank_slice, step_positions
from tatara.train.layout import ParallelLayout
from tatara.train.optimizer import AdamSettings
from train.tokens_cases import SEQUENCE, VOCABULARY

GLOBAL_BATCH = 4
MICRO_BATCH = 2
ADAM = AdamSettings(learning_rate=3e-3, clip_norm=0.7)


def rate(step: int) -> float:
    return 1e-3 * min(step + 1, 5)


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec(**{"vocab_size": VOCABULARY, "hidden_size": 64, "ffn_hidden_size": 96, "init_std": 0.1} | changes)


class Run:
    """An engine and the data it trains on."""

    def __init__(
        self,
        tokens: str,
        layout: dict[str, Any],
        compute: ComputeSettings = ComputeSettings(),  # noqa: B008 - frozen
        adam: AdamSettings = ADAM,
        micro_batch: int = MICRO_BATCH,
        **changes: Any,
    ) -> None:
        self.engine = Engine(
            spec(**changes), ParallelLayout(**layout), adam, micro_batch_size=micro_batch, seed=4, compute=compute
        )
        self.micro_batch = micro_batch
        self.data = PackedTokens(Path(tokens), "train", SEQUENCE)
        self.held_out = PackedTokens(Path(tokens), "validation", SEQUENCE)

    def step(self, step: int) -> tuple[float, int, float]:
        engine = self.engine
        mine = rank_slice(step_positions(step, GLOBAL_BATCH), engine.data_rank, engine.layout.dp)
        batch = self.data.batch(bins_at(mine, self.data.num_bins, seed=4))
        result = engine.train_step(batch.split(self.micro_batch), learning_rate=rate(step))
        return result.loss, result.tokens, result.gradient_norm

    def global_batch(self, step: int) -> Batch:
        return self.data.batch(bins_at(step_positions(step, GLOBAL_BATCH), self.data.num_bins, seed=4))

    def digest(self) -> str:
        """Of every parameter and buffer, and of the optimizer's state."""
        state = hashlib.sha256()
        for chunk in self.engine.chunks:
            for tensor in chunk.state_dict().values():
                if torch.is_tensor(tensor):
                    state.update(tensor.detach().numpy().tobytes())
        for part in self.engine.optimizer.chained_optimizers:
            for values in part.optimizer.state.values():
                for tensor in values.values():
                    state.update(tensor.detach().numpy().tobytes())
        return state.hexdigest()

    def validate(self) -> tuple[float, int]:
        engine = self.engine
        # Seven rows and one of padding.
        lists = np.array([0, 1, 2, 3, 4, 5, 6, -1]).reshape(-1, self.micro_batch).tolist()
        result = engine.evaluate([self.held_out.batch(bins) for bins in lists[engine.data_rank :: engine.layout.dp]])
        return result.mean, result.tokens


def train(
    tokens: str,
    layout: dict[str, Any],
    steps: int,
    changes: dict[str, Any] | None = None,
    compute: ComputeSettings = ComputeSettings(),  # noqa: B008 - frozen
) -> Any:
    """Losses, token counts and gradient norms of the first steps, then the validation loss."""
    run = Run(tokens, layout, compute, **changes or {})
    return [run.step(step) for step in range(steps)], run.validate()


def train_in(tokens: str, runs: dict[str, tuple[dict[str, Any], int, dict[str, Any]]]) -> dict[str, Any]:
    """The same for several layouts, one after the other: name to (layout, steps, keywords of `Run`)."""
    found = {}
    for name, (layout, steps, keywords) in runs.items():
        if parallel_state.model_parallel_is_initialized():
            parallel_state.destroy_model_parallel()
        run = Run(tokens, layout, **keywords)
        found[name] = [run.step(step) for step in range(steps)], run.validate()
    return found


def beside_hugging_face(tokens: str, steps: int, changes: dict[str, Any]) -> Any:
    """(loss, tokens, gradient norm) of the engine, and (loss, gradient norm) of a plain loop over the same batches.

    The loop trains a transformers model that was given the engine's first weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tatara.model.hf import hf_config, stream_to_hf

    run = Run(tokens, {}, **changes)
    config = AutoConfig.for_model(**hf_config(run.engine.spec))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    weights = {name: tensor.clone() for name, tensor in stream_to_hf(run.engine.chunks, run.engine.spec)}
    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, f"{directory}/model.safetensors")
        model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").train()
    decayed = [each for each in model.parameters() if each.dim() > 1]
    norms = [each for each in model.parameters() if each.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": ADAM.weight_decay}, {"params": norms, "weight_decay": 0.0}],
        betas=(ADAM.beta1, ADAM.beta2),
        eps=ADAM.epsilon,
    )
    reference = []
    for step in range(steps):
        batch = run.global_batch(step)
        ids = torch.from_numpy(batch.document_ids)
        causal = torch.ones(SEQUENCE, SEQUENCE, dtype=torch.bool).tril()
        allowed = (ids[:, :, None] == ids[:, None, :]) & causal
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]
        logits = model(
            torch.from_numpy(batch.tokens), attention_mask=mask, position_ids=torch.from_numpy(batch.position_ids)
        ).logits
        targets = torch.from_numpy(batch.targets)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        weights = torch.from_numpy(batch.loss_weights).flatten()
        loss = (losses * weights).sum() / (weights != 0).sum()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), ADAM.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        reference.append((float(loss.detach()), float(norm)))
    return [run.step(step) for step in range(steps)], reference


def moved(tokens: str) -> dict[str, float]:
    """How far a step moved weights that are frozen, that have a tenth of the rate, and that have all of it."""
    rates = {"decoder.layers.1.mlp.linear_fc2.weight": 0.1}
    adam = AdamSettings(freeze=("decoder.layers.0.*",), learning_rate_multipliers=rates, weight_decay=0.0)
    run = Run(tokens, {}, adam=adam)
    named = dict(global_parameters(run.engine.chunks))
    names = {
        "frozen": "decoder.layers.0.mlp.linear_fc1.weight",
        "slow": "decoder.layers.1.mlp.linear_fc2.weight",
        "fast": "decoder.layers.2.mlp.linear_fc2.weight",
    }
    before = {name: named[name].detach().clone() for name in names.values()}
    run.step(0)
    return {key: float((named[name] - before[name]).abs().mean()) for key, name in names.items()}


def refuse_a_step(tokens: str, changes: dict[str, Any]) -> Any:
    """Digests of the model and optimizer before and after a step that is refused, what was asked, and the answer."""
    run = Run(tokens, {}, **changes)
    run.step(0)
    before = run.digest()
    asked: list[tuple[float, float]] = []

    def refuse(loss: float, gradient_norm: float) -> bool:
        asked.append((loss, gradient_norm))
        return False

    result = run.engine.train_step(run.global_batch(1).split(MICRO_BATCH), 1e-2, approve=refuse)
    return before, run.digest(), asked[0], result.applied


def train_and_save(tokens: str, layout: dict[str, Any], root: str, steps: int, every: int) -> Any:
    """Train with a checkpoint every few steps; returns all losses and what each checkpoint cost."""
    run = Run(tokens, layout)
    writer = CheckpointWriter(run.engine, Path(root), keep=2)
    losses, written = [], []
    for step in range(steps):
        losses.append(run.step(step))
        written.append(writer.poll())
        if (step + 1) % every == 0:
            training = {"step": step + 1, "layout": run.engine.layout.dump()}
            written.append(writer.save(step + 1, training, [{"loss": loss[0]} for loss in losses]))
    written.append(writer.finish())
    return losses, [each for each in written if each is not None]


def load_and_train(tokens: str, layout: dict[str, Any], root: str, until: int) -> Any:
    """Continue from the newest checkpoint; returns its step, its losses so far and the losses after it."""
    run = Run(tokens, layout)
    found = directories.newest(Path(root), print)
    training = checkpoint_writer.load(run.engine, found)
    before = [json.loads(line)["loss"] for line in (found.path / "losses.jsonl").read_text().splitlines()]
    return training["step"], before, [run.step(step) for step in range(training["step"], until)]


def save_to_a_full_disk(tokens: str, root: str) -> str:
    """The message of a checkpoint whose files cannot grow beyond 100 kB."""
    run = Run(tokens, {})
    run.step(0)
    writer = CheckpointWriter(run.engine, Path(root), keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        writer.save(1, {"layout": run.engine.layout.dump()}, [])
        writer.finish()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return "written"


def fail_to_load(tokens: str, layouts: list[dict[str, Any]]) -> list[str]:
    """The messages of building an engine in layouts that do not fit."""
    said = []
    for layout in layouts:
        try:
            Run(tokens, layout)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return said
