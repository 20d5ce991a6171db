"""Rollouts and scores as plain data for the journal: token ids and log-probabilities as arrays of bytes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tatara.rl.record import Rollout, RolloutKey, Sampling, Score

Record = dict[str, Any]


def pack_rollout(rollout: Rollout) -> Record:
    """Everything but the prompt, which the order of the run knows."""
    wide = np.asarray(rollout.logprobs, np.float64)
    narrow = wide.astype(np.float32)
    # Engines compute in float32; whatever else comes must not be rounded.
    exact = narrow if np.array_equal(narrow, wide, equal_nan=True) else wide
    sampling = rollout.sampling
    return {
        "key": list(key_of(rollout.key)),
        "response_ids": np.asarray(rollout.response_ids, np.int32).tobytes(),
        "loss_mask": np.asarray(rollout.loss_mask, np.uint8).tobytes(),
        "logprobs": exact.tobytes(),
        "versions": [rollout.first_version, rollout.last_version],
        "finish": rollout.finish,
        "sampling": [
            sampling.max_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            list(sampling.stop_token_ids),
        ],
        "worker": rollout.worker,
        "seconds": rollout.seconds,
    }


def unpack_rollout(record: Record, prompt_ids: tuple[int, ...]) -> Rollout:
    """The inverse of `pack_rollout`."""
    response = np.frombuffer(record["response_ids"], np.int32)
    first, last = record["versions"]
    max_tokens, temperature, top_p, top_k, stops = record["sampling"]
    return Rollout(
        RolloutKey(*record["key"]),
        prompt_ids,
        tuple(response.tolist()),
        tuple(np.frombuffer(record["loss_mask"], np.uint8).tolist()),
        tuple(logprobs_of(record).tolist()),
        first,
        last,
        record["finish"],
        Sampling(max_tokens, temperature, top_p, top_k, tuple(stops)),
        record["worker"],
        record["seconds"],
    )


def length_of(record: Record) -> int:
    """Tokens of a packed rollout's response."""
    return len(record["loss_mask"])


def logprobs_of(record: Record) -> npt.NDArray[np.floating[Any]]:
    """Log-probabilities of a packed rollout."""
    wide = len(record["logprobs"]) == 8 * length_of(record)
    return np.frombuffer(record["logprobs"], np.float64 if wide else np.float32)


def pack_score(score: Score) -> Record:
    """A score; one that is not a finite number is an error of the reward."""
    parts = {name: float(value) for name, value in score.parts.items()}
    errors = dict(score.errors)
    bad = [name for name, value in parts.items() if not math.isfinite(value) and name not in errors]
    if bad or (not errors and not math.isfinite(score.reward)):
        name = bad[0] if bad else "sum"
        errors[name] = f"{parts.get(name, score.reward)} is not a finite number"
    finite = {name: value for name, value in parts.items() if math.isfinite(value)}
    reward = float(score.reward) if math.isfinite(score.reward) else 0.0
    return {
        "key": list(key_of(score.key)),
        "parts": finite,
        "reward": reward,
        "response": score.response,
        "errors": errors,
    }


def unpack_score(record: Record) -> Score:
    """The inverse of `pack_score`."""
    key = RolloutKey(*record["key"])
    return Score(key, dict(record["parts"]), record["reward"], record["response"], dict(record["errors"]))


def key_of(key: RolloutKey) -> tuple[str, int, int, int]:
    """A key as plain data."""
    return key.purpose, key.round, key.position, key.index


def spans(indices: Sequence[int]) -> str:
    """Indices as a reader likes them: ``0-3, 6``."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
