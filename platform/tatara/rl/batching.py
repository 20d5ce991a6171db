"""From scored groups to packed rows that the trainer learns from."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.rl.algorithm import AlgorithmConfig
from tatara.rl.record import Rollout, ScoredGroup
from tatara.rl.signal import Float64, Signal, group_signal, longest_response
from tatara.rl.token_weights import token_weights
from tatara.train.feed.batches import Float32, Int64, empty_batch
from tatara.train.feed.policy_batch import PolicyBatch


@dataclass(frozen=True)
class Placed:
    """Where a rollout lies in the rows."""

    group: int
    index: int
    """Number within the group."""
    row: int
    start: int
    """First position in the row."""
    prompt: int
    """Position of the first target of the response, counted from ``start``."""
    mask: npt.NDArray[np.bool_]
    """Which targets of the response are trained, up to the last that is."""

    @property
    def response(self) -> slice:
        """Positions of the response's targets in the row."""
        return slice(self.start + self.prompt, self.start + self.prompt + len(self.mask))


@dataclass(frozen=True)
class PackedGroups:
    """One optimizer step's global batch, and which rollout lies where."""

    batch: PolicyBatch
    """Of a number of rows that the caller's multiple divides; all ranks together train on them."""
    groups: tuple[ScoredGroup, ...]
    placed: tuple[Placed, ...]
    """The rollouts that are trained on."""
    algorithm: AlgorithmConfig
    figures: Mapping[str, float]
    """What the batch consists of; see `pack_groups`."""

    @property
    def targets(self) -> int:
        """Trained tokens; with none there is no step to take."""
        return int((self.batch.loss_weights != 0).sum())

    def divergences(self, logprobs: Float32, reference: Float32, first_row: int) -> Float64:
        """Divergence of each response from the reference: the sum of the differences of its tokens' log-probabilities.

        Args:
            logprobs: ``[rows, sequence]``, under the policy, of some of the rows.
            reference: The same under the reference.
            first_row: Number of the first of these rows.

        Returns:
            ``[groups, n]`` of the largest group, 0 for rollouts in other rows: ranks add theirs up.
        """
        found = np.zeros((len(self.groups), max((len(group.rollouts) for group in self.groups), default=0)))
        difference = np.asarray(logprobs, np.float64) - reference
        for each in self.placed:
            if first_row <= each.row < first_row + len(difference):
                found[each.group, each.index] = difference[each.row - first_row, each.response][each.mask].sum()
        return found

    def with_kl_in_reward(self, divergences: Float64) -> "PackedGroups":
        """The same with advantages of rewards less the divergence times its coefficient.

        Args:
            divergences: ``[groups, n]``, the sum of what all ranks found.
        """
        off = self.algorithm.kl_coefficient * divergences
        signals = [
            group_signal(group, self.algorithm, off[number, : len(group.rollouts)])
            for number, group in enumerate(self.groups)
        ]
        return replace(self, batch=replace(self.batch, advantages=_advantages(self.batch, self.placed, signals)))


def policy_batch(
    groups: Sequence[ScoredGroup], algorithm: AlgorithmConfig, sequence_length: int, *, rows_multiple: int = 1
) -> PolicyBatch:
    """The rows of `pack_groups` alone."""
    return pack_groups(groups, algorithm, sequence_length, rows_multiple=rows_multiple).batch


def pack_groups(
    groups: Sequence[ScoredGroup], algorithm: AlgorithmConfig, sequence_length: int, *, rows_multiple: int = 1
) -> PackedGroups:
    """Pack the rollouts of one optimizer step; the same on every rank that is given the same.

    A rollout becomes a document: its prompt, then its response up to the last token that the model sampled. Left out
    are rollouts that could not be scored, those without a trained token, and, as long as no divergence is asked for,
    whole groups without signal: their loss would be zero. Except for the first, they still count where the loss is a
    mean over sequences or tokens, unless dynamic sampling drops them.

    The figures are ``groups``, ``groups_equal`` (no signal), ``rollouts``, ``unscored``, ``truncated``, ``empty``
    (without a token of the model), ``targets`` (trained tokens), ``rows``, ``fill`` (share of positions in use),
    ``reward_mean``, ``reward_deviation``, ``response_mean`` and ``response_max`` (tokens).

    Args:
        groups: The batch, in order.
        algorithm: Says how rewards become advantages and weights.
        sequence_length: Tokens of a row.
        rows_multiple: The number of rows is a multiple of this; what is missing is padding.

    Raises:
        DataError: A rollout does not fit into a row, or a reward or log-probability is not a finite number.
    """
    groups = tuple(groups)
    signals = [group_signal(group, algorithm) for group in groups]
    masks = [[_trained(rollout, algorithm) for rollout in group.rollouts] for group in groups]
    skip_equal = algorithm.dynamic_sampling or not algorithm.kl_coefficient
    counted, trained = [], []
    for number, signal in enumerate(signals):
        if signal.equal and algorithm.dynamic_sampling:
            continue
        for index in np.flatnonzero(signal.scored).tolist():
            counted.append((number, index))
            trained.append(bool(masks[number][index].any()) and not (signal.equal and skip_equal))
    lengths = [int(masks[number][index].sum()) for number, index in counted]
    weights = token_weights(lengths, algorithm.normalisation, longest=longest_response(groups), trained=trained)
    chosen = [(place, weight) for place, weight, use in zip(counted, weights, trained, strict=True) if use]
    sizes = [_size(groups[number].rollouts[index], masks[number][index]) for (number, index), _ in chosen]
    rows, placed = _place(groups, masks, [place for place, _ in chosen], sizes, sequence_length)
    rows = max(1, -(-rows // rows_multiple)) * rows_multiple
    batch = _fill(groups, placed, [float(weight) for _, weight in chosen], rows, sequence_length)
    batch = replace(batch, advantages=_advantages(batch, placed, signals))
    return PackedGroups(batch, groups, placed, algorithm, _figures(groups, signals, masks, batch, sum(sizes)))


def _trained(rollout: Rollout, algorithm: AlgorithmConfig) -> npt.NDArray[np.bool_]:
    """Which tokens of a response to train, up to the last of them."""
    mask = np.array(rollout.loss_mask, bool)
    if algorithm.mask_truncated and rollout.finish == "length":
        mask[:] = False
    ends = np.flatnonzero(mask)
    return mask[: ends[-1] + 1 if len(ends) else 0]


def _size(rollout: Rollout, mask: npt.NDArray[np.bool_]) -> int:
    """Pairs of input and target."""
    return len(rollout.prompt_ids) + len(mask) - 1


def _place(
    groups: Sequence[ScoredGroup],
    masks: Sequence[Sequence[npt.NDArray[np.bool_]]],
    chosen: Sequence[tuple[int, int]],
    sizes: Sequence[int],
    capacity: int,
) -> tuple[int, tuple[Placed, ...]]:
    """Best fit, longest first: each into the row with the least room that is enough. Placed in the order chosen."""
    room: list[tuple[int, int]] = []
    placed: dict[int, Placed] = {}
    for which in sorted(range(len(chosen)), key=lambda each: -sizes[each]):
        (number, index), size = chosen[which], sizes[which]
        rollout = groups[number].rollouts[index]
        if not rollout.prompt_ids:
            raise DataError(f"prompt {groups[number].prompt.id} has no tokens: nothing predicts the first that follows")
        if size > capacity:
            raise DataError(
                f"response {index} to prompt {groups[number].prompt.id} needs {size} positions with its prompt, but "
                f"sequence_length={capacity}: raise it, or lower max_response_tokens"
            )
        at = bisect.bisect_left(room, (size, -1))
        left, row = room.pop(at) if at < len(room) else (capacity, len(room))
        bisect.insort(room, (left - size, row))
        start, prompt = capacity - left, len(rollout.prompt_ids) - 1
        placed[which] = Placed(number, index, row, start, prompt, masks[number][index])
    return len(room), tuple(placed[which] for which in range(len(chosen)))


def _fill(
    groups: Sequence[ScoredGroup], placed: Sequence[Placed], weights: Sequence[float], rows: int, length: int
) -> PolicyBatch:
    plain = empty_batch(rows, length)
    behaviour = np.zeros((rows, length), np.float32)
    versions: Int64 = np.full((rows, length), -1, np.int64)
    documents = [0] * rows
    # By place in the row: documents of a row are numbered from left to right.
    for each, weight in sorted(zip(placed, weights, strict=True), key=lambda pair: (pair[0].row, pair[0].start)):
        rollout = groups[each.group].rollouts[each.index]
        ids = np.array(rollout.prompt_ids + rollout.response_ids[: len(each.mask)], np.int64)
        logprobs = np.where(each.mask, np.array(rollout.logprobs[: len(each.mask)]), 0.0)
        if not np.isfinite(logprobs).all():
            prompt = groups[each.group].prompt.id
            raise DataError(
                f"response {each.index} to prompt {prompt} has a log-probability that is not a finite number"
            )
        here = (each.row, slice(each.start, each.start + len(ids) - 1))
        plain.tokens[here], plain.targets[here] = ids[:-1], ids[1:]
        plain.position_ids[here] = np.arange(len(ids) - 1)
        plain.document_ids[here], versions[here] = documents[each.row], rollout.first_version
        plain.loss_weights[each.row, each.response] = weight * each.mask
        behaviour[each.row, each.response] = logprobs
        documents[each.row] += 1
    return PolicyBatch(
        **vars(plain), behaviour_logprobs=behaviour, advantages=np.zeros_like(behaviour), policy_version=versions
    )


def _advantages(batch: PolicyBatch, placed: Sequence[Placed], signals: Sequence[Signal]) -> Float32:
    result = np.zeros_like(batch.behaviour_logprobs)
    for each in placed:
        result[each.row, each.response] = signals[each.group].advantages[each.index] * each.mask
    return result


def _figures(
    groups: Sequence[ScoredGroup],
    signals: Sequence[Signal],
    masks: Sequence[Sequence[npt.NDArray[np.bool_]]],
    batch: PolicyBatch,
    used: int,
) -> dict[str, float]:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [score.reward for group in groups for score in group.scores if not score.errors]
    lengths = [len(rollout.response_ids) for rollout in rollouts]
    return {
        "groups": len(groups),
        "groups_equal": sum(signal.equal for signal in signals),
        "rollouts": len(rollouts),
        "unscored": sum(int((~signal.scored).sum()) for signal in signals),
        "truncated": sum(rollout.finish == "length" for rollout in rollouts),
        "empty": sum(not any(rollout.loss_mask) for rollout in rollouts),
        "targets": int((batch.loss_weights != 0).sum()),
        "rows": len(batch),
        "fill": used / batch.tokens.size,
        "reward_mean": float(np.mean(rewards)) if rewards else 0.0,
        "reward_deviation": float(np.std(rewards)) if rewards else 0.0,
        "response_mean": float(np.mean(lengths)) if lengths else 0.0,
        "response_max": max(lengths, default=0),
    }
