"""The same rollouts through Tatara's learner and through TRL's GRPO loss, each in a process of its own."""

import importlib
import os
import types
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tatara.rl.algorithm import AlgorithmConfig
from tatara.rl.record import Prompt, Rollout, RolloutKey, Sampling, Score, ScoredGroup

VOCABULARY, LONGEST, SEQUENCE, TEMPERATURE = 64, 10, 24, 0.8
BOUNDS = {"correction_min": 0.8, "correction_max": 1.25}
SPEC = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_layers": 2,
    "num_attention_heads": 4,
    "init_std": 0.2,
}


@dataclass(frozen=True)
class Variant:
    """An algorithm by Tatara's settings and by TRL's."""

    ours: dict[str, Any]
    trl: dict[str, Any]
    equal_group: bool = False


def _correction(mode: str, **trl: Any) -> Variant:
    return Variant({"correction": mode, **BOUNDS}, {"mode": mode, **trl})


VARIANTS = {
    "grpo": Variant({}, {}),
    "grpo with a group all equal": Variant({}, {}, equal_group=True),
    "grpo without deviation": Variant({"scale_by_deviation": False}, {"scale": False}),
    "grpo with truncated responses masked": Variant({"mask_truncated": True}, {"mask_truncated": True}),
    "mean over tokens": Variant({"normalisation": "token"}, {"loss_type": "bnpo"}),
    "dr_grpo": Variant({"preset": "dr_grpo"}, {"loss_type": "dr_grpo", "scale": False}),
    "dapo": Variant(
        {"preset": "dapo", "overlong_penalty": 0.0, "dynamic_sampling": False},
        {"loss_type": "dapo", "epsilon_high": 0.28},
    ),
    "gspo": Variant(
        {"preset": "gspo", "clip_low": 0.02, "clip_high": 0.03},
        {"importance_sampling_level": "sequence", "epsilon_low": 0.02, "epsilon_high": 0.03},
    ),
    "kl in the loss": Variant({"kl_coefficient": 0.3}, {"beta": 0.3}),
    "kl in the loss, weighted": Variant(
        {"kl_coefficient": 0.3, "kl_weighted": True}, {"beta": 0.3, "use_bias_correction_kl": True}
    ),
    "delta": Variant({"delta": 1.3}, {"delta": 1.3}),
    "token_truncate": _correction("token_truncate"),
    "token_mask": _correction("token_mask"),
    "sequence_truncate": _correction("sequence_truncate"),
    "sequence_mask": _correction("sequence_mask"),
    "gspo and token_truncate": Variant(
        {"correction": "token_truncate", **BOUNDS, "ratio_level": "sequence", "clip_low": 0.02, "clip_high": 0.03},
        {"mode": "token_truncate", "importance_sampling_level": "sequence", "epsilon_low": 0.02, "epsilon_high": 0.03},
    ),
}
LOOP = Variant({"preset": "rloo"}, {})
"""Compared with a loop in float64: TRL's own RLOO has another loss."""


def algorithm(variant: Variant) -> AlgorithmConfig:
    return AlgorithmConfig(**{"correction": "none", "kl_coefficient": 0.0} | variant.ours)


def groups(equal_group: bool = False) -> tuple[ScoredGroup, ...]:
    """Three groups of four, with tokens of an environment and responses that were cut off."""
    random = np.random.default_rng(5)
    found = []
    for position in range(3):
        ids = tuple(random.integers(0, VOCABULARY, 2 + 2 * position).tolist())
        prompt = Prompt(f"p{position}", "test", (), ids)
        rollouts, scores = [], []
        for index in range(4):
            length = int(random.integers(3, LONGEST + 1)) if index else LONGEST
            mask = [1] * length
            if index % 2:
                mask[1] = 0
            key = RolloutKey("train", 0, position, index)
            response = tuple(random.integers(0, VOCABULARY, length).tolist())
            rollouts.append(
                Rollout(
                    key,
                    ids,
                    response,
                    tuple(mask),
                    (0.0,) * length,
                    3,
                    3,
                    "length" if length == LONGEST else "stop",
                    Sampling(LONGEST, TEMPERATURE),
                )
            )
            reward = float(random.normal())
            scores.append(Score(key, {}, 1.0 if equal_group and position == 1 else reward, ""))
        found.append(ScoredGroup(position, prompt, tuple(rollouts), tuple(scores)))
    return tuple(found)


def ours() -> Any:
    """(weights, log-probabilities by kind and rollout, by variant: loss, gradient norm, figures and gradients)."""
    from tatara.model.hf import stream_to_hf
    from tatara.model.spec import ModelSpec
    from tatara.rl.batching import pack_groups
    from tatara.train.engine import Engine
    from tatara.train.layout import ParallelLayout
    from tatara.train.optimizer import AdamSettings

    spec = ModelSpec(**SPEC)
    adam = AdamSettings(learning_rate=1.0, clip_norm=0.0, weight_decay=0.0)
    engine = Engine(spec, ParallelLayout(), adam, micro_batch_size=2, seed=3)
    weights = {name: tensor.clone() for name, tensor in stream_to_hf(engine.chunks, spec)}

    def packed(chosen: Any, settings: AlgorithmConfig) -> Any:
        return pack_groups(chosen, settings, SEQUENCE, rows_multiple=2)

    plain = packed(groups(), AlgorithmConfig(kl_coefficient=0.0, correction="none"))
    own = np.concatenate(engine.token_logprobs(plain.batch.split(2), TEMPERATURE))
    random = np.random.default_rng(9)
    known: dict[str, dict[tuple[int, int], Any]] = {"behaviour": {}, "proximal": {}, "reference": {}}
    for each in plain.placed:
        for kind, spread in zip(known, (0.3, 0.2, 0.5), strict=True):
            noise = random.normal(size=len(each.mask)) * spread
            known[kind][each.group, each.index] = (own[each.row, each.response] + noise) * each.mask

    def rows_of(made: Any, kind: str) -> Any:
        array = np.zeros_like(own[:1].repeat(len(made.batch), 0))
        for each in made.placed:
            array[each.row, each.response] = known[kind][each.group, each.index][: len(each.mask)]
        return array

    results = {}
    for name, variant in {**VARIANTS, "rloo": LOOP}.items():
        settings = algorithm(variant)
        made = packed(_with_behaviour(groups(variant.equal_group), known["behaviour"]), settings)
        batch = made.batch
        if name != "rloo":
            reference = rows_of(made, "reference") if settings.needs_reference else None
            batch = batch.with_logprobs(proximal=rows_of(made, "proximal"), reference=reference)
        result = engine.train_step(batch.split(2), 0.0, policy=settings.policy_loss(TEMPERATURE))
        measured = (result.loss, result.gradient_norm, dict(result.figures))
        results[name] = (*measured, _gradients(engine, spec), made.figures["targets"])
    return weights, known, results


def _with_behaviour(chosen: tuple[ScoredGroup, ...], logprobs: Any) -> tuple[ScoredGroup, ...]:
    return tuple(
        replace(
            group,
            rollouts=tuple(
                replace(rollout, logprobs=tuple(logprobs[number, index].tolist()))
                for index, rollout in enumerate(group.rollouts)
            ),
        )
        for number, group in enumerate(chosen)
    )


def _gradients(engine: Any, spec: Any) -> dict[str, Any]:
    """Of every Hugging Face tensor: the weight stream only cuts and joins, so it does so with gradients."""
    from tatara.model.hf import stream_to_hf

    parameters = [parameter for chunk in engine.chunks for parameter in chunk.parameters()]
    kept = [parameter.data.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.data.copy_(parameter.main_grad)
    gradients = {name: tensor.clone().numpy() for name, tensor in stream_to_hf(engine.chunks, spec)}
    for parameter, weight in zip(parameters, kept, strict=True):
        parameter.data.copy_(weight)
    return gradients


def theirs(directory: str, known: Any) -> Any:
    """By variant: TRL's loss, metrics and gradients; RLOO's from a loop in float64."""
    # Neither an engine nor a tracker is needed for a loss, and importing them takes longer than all the rest.
    os.environ["WANDB_DISABLED"] = "true"
    import torch

    # By name: the package hides it from an import statement.
    importlib.import_module("trl.import_utils").is_vllm_available = lambda *_, **__: False
    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").train()
    results = {"rloo": _loop(AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").double())}
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    accelerator = Accelerator(cpu=True)
    for name, variant in VARIANTS.items():
        trainer = _trainer(model, accelerator, variant.trl)
        trainer._get_per_token_logps_and_entropies = types.MethodType(
            GRPOTrainer._get_per_token_logps_and_entropies, trainer
        )
        inputs = _inputs(groups(variant.equal_group), known, variant.trl)
        model.zero_grad()
        loss = GRPOTrainer._compute_loss(trainer, model, inputs)
        loss.backward()
        gradients = {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}
        metrics = {key: values[0] for key, values in trainer._metrics["train"].items()}
        results[name] = (loss.item(), metrics, gradients)
    return results


def _trainer(model: Any, accelerator: Any, settings: dict[str, Any]) -> Any:
    """What TRL's loss reads of its trainer."""
    args = types.SimpleNamespace(
        delta=settings.get("delta"),
        use_bias_correction_kl=settings.get("use_bias_correction_kl", False),
        steps_per_generation=1,
        report_to=[],
    )
    return types.SimpleNamespace(
        model=model,
        accelerator=accelerator,
        args=args,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=settings.get("importance_sampling_level", "token"),
        beta=settings.get("beta", 0.0),
        loss_type=settings.get("loss_type", "grpo"),
        epsilon_low=settings.get("epsilon_low", 0.2),
        epsilon_high=settings.get("epsilon_high", 0.2),
        use_vllm="mode" in settings,
        vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        state=types.SimpleNamespace(global_step=0),
    )


def _inputs(chosen: tuple[ScoredGroup, ...], known: Any, settings: dict[str, Any]) -> Any:
    """The batch in TRL's layout: prompts padded on the left, responses on the right."""
    import torch

    rollouts = [(n, i, each) for n, group in enumerate(chosen) for i, each in enumerate(group.rollouts)]
    widest = max(len(each.prompt_ids) for _, _, each in rollouts)
    shape = (len(rollouts), LONGEST)
    prompts, prompt_mask = np.zeros((len(rollouts), widest), np.int64), np.zeros((len(rollouts), widest), np.int64)
    ids, mask, tools = (np.zeros(shape, np.int64) for _ in range(3))
    logprobs = {kind: np.zeros(shape, np.float32) for kind in known}
    for row, (number, index, each) in enumerate(rollouts):
        prompts[row, widest - len(each.prompt_ids) :] = each.prompt_ids
        prompt_mask[row, widest - len(each.prompt_ids) :] = 1
        length = len(each.response_ids)
        ids[row, :length], tools[row, :length] = each.response_ids, each.loss_mask
        mask[row, :length] = not (settings.get("mask_truncated") and each.finish == "length")
        for kind, array in logprobs.items():
            array[row, :length] = known[kind][number, index]
    arrays = {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": ids,
        "completion_mask": mask,
        "tool_mask": tools,
        "advantages": np.array(_advantages(chosen, settings.get("scale", True)), np.float32),
        "old_per_token_logps": logprobs["proximal"],
        "sampling_per_token_logps": logprobs["behaviour"],
        "ref_per_token_logps": logprobs["reference"],
        "num_items_in_batch": np.array((mask * tools).sum()),
    }
    if "mode" in settings:
        difference = (logprobs["proximal"] - logprobs["behaviour"]) * mask * tools
        arrays["importance_sampling_ratio"] = _correction_ratio(difference, settings["mode"])
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _advantages(chosen: tuple[ScoredGroup, ...], scale: bool) -> list[float]:
    found = []
    for group in chosen:
        mean = sum(group.rewards) / len(group.rewards)
        variance = sum((reward - mean) ** 2 for reward in group.rewards) / (len(group.rewards) - 1)
        found += [(reward - mean) / (variance**0.5 + 1e-4 if scale else 1.0) for reward in group.rewards]
    return found


def _correction_ratio(difference: Any, mode: str) -> Any:
    """TRL computes it while it generates: see ``vllm_importance_sampling_mode`` in its ``GRPOConfig``."""
    level, treatment = mode.split("_")
    ratio = np.exp(difference if level == "token" else difference.sum(-1, keepdims=True))
    low, high = BOUNDS["correction_min"], BOUNDS["correction_max"]
    if treatment == "truncate":
        return np.clip(ratio, low, high)
    return np.where((ratio < low) | (ratio > high), 0.0, ratio).astype(np.float32)


def _loop(model: Any) -> Any:
    """REINFORCE with the mean of the others as the baseline, response by response."""
    import torch

    chosen, total = groups(), 0.0
    count = sum(len(group.rollouts) for group in chosen)
    for group in chosen:
        for index, rollout in enumerate(group.rollouts):
            others = [reward for number, reward in enumerate(group.rewards) if number != index]
            advantage = group.rewards[index] - sum(others) / len(others)
            ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
            logprobs = (model(ids).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
            for place, (token, sampled) in enumerate(zip(rollout.response_ids, rollout.loss_mask, strict=True)):
                if sampled:
                    logprob = logprobs[len(rollout.prompt_ids) - 1 + place, token]
                    total = total - advantage * (logprob - logprob.detach() + 1.0) / (count * LONGEST)
    total.backward()
    gradients = {name: parameter.grad.float().numpy().copy() for name, parameter in model.named_parameters()}
    return total.item(), {}, gradients
