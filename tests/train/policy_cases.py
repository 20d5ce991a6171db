"""What the ranks of the policy tests do."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tatara.model.megatron import global_parameters
from tatara.model.spec import ModelSpec
from tatara.train.engine import Engine
from tatara.train.feed.policy_batch import PolicyBatch
from tatara.train.layout import ParallelLayout
from tatara.train.optimizer import AdamSettings
from tatara.train.policy import PolicyLoss
from tatara.train.policy_reference import Reference

ROWS, SEQUENCE, VOCABULARY = 4, 32, 250
MICRO_BATCH = 2
ADAM = AdamSettings(learning_rate=1e-3, clip_norm=0.0, weight_decay=0.0)
SETTINGS = {
    "token": PolicyLoss(clip_high=0.28, kl_coefficient=0.1, correction="token_truncate", correction_max=1.1, delta=1.5),
    "sequence": PolicyLoss(
        ratio_level="sequence", correction="sequence_mask", correction_max=1.2, clip_low=0.01, clip_high=0.01
    ),
}


def spec(**changes: Any) -> ModelSpec:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_hidden_size": 48, "num_layers": 2, "init_std": 0.1}
    return ModelSpec(
        **{**sizes, "num_attention_heads": 4, "num_query_groups": 2, "max_position_embeddings": 64} | changes
    )


def engine(layout: dict[str, Any], **changes: Any) -> Engine:
    return Engine(spec(**changes), ParallelLayout(**layout), ADAM, micro_batch_size=MICRO_BATCH, seed=4)


def batch(seed: int = 0) -> PolicyBatch:
    """Rows of rollouts of different lengths, the first tokens of each a prompt; the last row ends in padding."""
    random = np.random.default_rng(seed)
    shape = (ROWS, SEQUENCE)
    documents, positions = np.full(shape, -1), np.zeros(shape, np.int64)
    weights, advantages = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for row, lengths in enumerate([(12, 20), (32,), (5, 9, 18), (7, 13)]):
        start = 0
        for number, length in enumerate(lengths):
            place = (row, slice(start, start + length))
            documents[place], positions[place] = number, np.arange(length)
            prompt = length // 3
            weights[row, start + prompt : start + length] = 1.0 / (length - prompt)
            advantages[row, start + prompt : start + length] = random.normal()
            # A token of an environment.
            weights[row, start + prompt + 2] = advantages[row, start + prompt + 2] = 0.0
            start += length
    weights *= (weights != 0).sum() / 8
    behaviour = (-np.log(VOCABULARY) + 0.3 * random.normal(size=shape)).astype(np.float32)
    return PolicyBatch(
        tokens=random.integers(0, VOCABULARY, shape),
        targets=random.integers(0, VOCABULARY, shape),
        loss_weights=weights,
        position_ids=positions,
        document_ids=documents,
        behaviour_logprobs=np.where(weights != 0, behaviour, 0).astype(np.float32),
        advantages=advantages,
        policy_version=np.where(documents >= 0, 3, -1),
    )


def step(layout: dict[str, Any], names: list[str], changes: dict[str, Any] | None = None) -> Any:
    """For each settings: loss, gradient norm and figures; then log-probabilities of this rank's rows, and their number.

    Behaviour, proximal and reference log-probabilities are the trainer's own, moved a little.
    """
    run = engine(layout, **changes or {})
    whole, share = batch(), ROWS // (run.layout.dp or 1)
    first = run.data_rank * share
    noise = np.random.default_rng(1).normal(size=(3, ROWS, SEQUENCE)).astype(np.float32)[:, first : first + share]
    mine = whole.rows(first, first + share)
    logprobs = np.concatenate(run.token_logprobs(mine.split(MICRO_BATCH), 0.7))
    mine = replace(mine, behaviour_logprobs=logprobs + 0.2 * noise[2])
    mine = mine.with_logprobs(proximal=logprobs + 0.25 * noise[0], reference=logprobs + 0.5 * noise[1])
    results = []
    for name in names:
        settings = SETTINGS[name].model_copy(update={"temperature": 0.7})
        result = run.train_step(mine.split(MICRO_BATCH), 0.0, policy=settings)
        results.append((result.loss, result.tokens, result.gradient_norm, dict(result.figures)))
    return results, first, logprobs


def beside_a_loop() -> Any:
    """Log-probabilities, their entropy, at three temperatures by the engine and from the logits in float64."""
    run = engine({})
    rows = batch().split(MICRO_BATCH)
    model = run.chunks[0].eval()
    found = []
    for temperature in (0.5, 1.0, 1.7):
        got = run.token_logprobs(rows, temperature)
        settings = PolicyLoss(temperature=temperature)
        entropy = run.train_step(rows, 0.0, policy=settings).figures["entropy"]
        expected, entropies, count = [], 0.0, 0
        for each in rows:
            mask = _mask(each)
            with torch.no_grad():
                logits = model(torch.from_numpy(each.tokens), torch.from_numpy(each.position_ids), mask).double()
            all_logprobs = (logits[..., :VOCABULARY] / temperature).log_softmax(-1)
            expected.append(all_logprobs.gather(-1, torch.from_numpy(each.targets)[..., None])[..., 0].numpy())
            trained = torch.from_numpy(each.loss_weights != 0)
            entropies += float(-(all_logprobs.exp() * all_logprobs).sum(-1)[trained].sum())
            count += int(trained.sum())
        found.append((got, expected, entropy, entropies / count))
    return found


def _mask(rows: PolicyBatch) -> Any:
    from tatara.model.attention import document_mask

    return document_mask(torch.from_numpy(rows.document_ids))


def swap_a_reference(layout: dict[str, Any]) -> Any:
    """Log-probabilities before training, after it, of the reference, and after it was swapped out; and two digests."""
    run = engine(layout)
    rows = batch().split(MICRO_BATCH)
    share = len(rows) // (run.layout.dp or 1)
    rows = rows[run.data_rank * share : (run.data_rank + 1) * share]
    reference = Reference(run)
    before = run.token_logprobs(rows)
    run.train_step(rows, 1e-2, policy=PolicyLoss())
    weights = [parameter.detach().clone() for _, parameter in global_parameters(run.chunks)]
    after = run.token_logprobs(rows)
    with reference.in_place():
        swapped = run.token_logprobs(rows)
    same = all(torch.equal(a, b) for a, (_, b) in zip(weights, global_parameters(run.chunks), strict=True))
    return before, after, swapped, run.token_logprobs(rows), same
