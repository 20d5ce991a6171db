"""Packed rows hold every trained token once, beside what belongs to it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.errors import DataError
from tatara.rl.algorithm import AlgorithmConfig
from tatara.rl.batching import pack_groups
from tatara.rl.record import Prompt, Rollout, RolloutKey, Sampling, Score, ScoredGroup
from tatara.rl.signal import has_signal

PLAIN = AlgorithmConfig(kl_coefficient=0.0)
LONGEST = 20


def make_group(position, rewards, lengths, *, prompt=3, errors=(), finish="stop", seed=0):
    random = np.random.default_rng([seed, position])
    ids = tuple(random.integers(1, 99, prompt).tolist())
    rollouts, scores = [], []
    for index, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        key = RolloutKey("train", 0, position, index)
        mask = tuple(int(place % 4 != 2) for place in range(length))
        logprobs = tuple(float(-value) for value in random.random(length))
        response = tuple(random.integers(1, 99, length).tolist())
        sampling = Sampling(LONGEST)
        rollouts.append(Rollout(key, ids, response, mask, logprobs, position, position + 1, finish, sampling))
        scores.append(Score(key, {}, reward, "", {"r": "failed"} if index in errors else {}))
    return ScoredGroup(position, Prompt(f"p{position}", "s", (), ids), tuple(rollouts), tuple(scores))


@given(
    st.lists(st.lists(st.integers(0, LONGEST), min_size=2, max_size=5), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 1000),
)
def test_every_trained_token_is_there_once_with_its_prompt(lengths, multiple, seed):
    groups = [
        make_group(number, list(range(len(of_group))), of_group, prompt=1 + number, seed=seed)
        for number, of_group in enumerate(lengths)
    ]
    packed = pack_groups(groups, PLAIN, 32, rows_multiple=multiple)
    batch = packed.batch
    assert len(batch) % multiple == 0
    found = set()
    for row in range(len(batch)):
        for number in range(batch.document_ids[row].max() + 1):
            place = np.flatnonzero(batch.document_ids[row] == number)
            assert (np.diff(place) == 1).all()
            assert batch.position_ids[row, place].tolist() == list(range(len(place)))
            np.testing.assert_array_equal(batch.tokens[row, place][1:], batch.targets[row, place][:-1])
            each = next(each for each in packed.placed if (each.row, each.start) == (row, place[0]))
            group, found_key = groups[each.group], (each.group, each.index)
            rollout, signal = group.rollouts[each.index], np.array(group.rewards, float)
            found.add(found_key)
            ids = [batch.tokens[row, place[0]], *batch.targets[row, place]]
            assert ids == list(rollout.prompt_ids + rollout.response_ids)[: len(ids)]
            trained = [0] * (len(rollout.prompt_ids) - 1) + list(rollout.loss_mask)
            assert not any(trained[len(place) :])
            mask = np.array(trained[: len(place)], bool)
            np.testing.assert_array_equal(batch.loss_weights[row, place] != 0, mask)
            np.testing.assert_array_equal(
                batch.advantages[row, place] != 0, mask & (signal[each.index] != signal.mean())
            )
            said = np.array((0.0,) * (len(rollout.prompt_ids) - 1) + rollout.logprobs)[: len(place)]
            np.testing.assert_allclose(batch.behaviour_logprobs[row, place], np.where(mask, said, 0), rtol=1e-6)
            assert (batch.policy_version[row, place] == rollout.first_version).all()
    outside = batch.document_ids < 0
    assert not batch.loss_weights[outside].any()
    assert not batch.tokens[outside].any()
    expected = {(n, i) for n, group in enumerate(lengths) for i, length in enumerate(group) if length}
    assert found == expected
    assert packed.targets == sum(sum(groups[n].rollouts[i].loss_mask) for n, i in expected)


def test_rows_are_as_full_as_best_fit_makes_them():
    # Pairs: prompt of 1 and response of n are n pairs; 20+12, 18+14, 10+10+6+6 fill three rows.
    lengths = [20, 18, 14, 12, 10, 10, 6, 6]
    groups = [make_group(n, [0.0, 1.0], lengths[2 * n : 2 * n + 2], prompt=1) for n in range(4)]
    # The last token of 18 and so on is the model's, except where the fourth one ends a response.
    batch = pack_groups(groups, PLAIN, 32).batch
    assert len(batch) == 3
    assert (batch.document_ids >= 0).sum() == sum(length - (length % 4 == 3) for length in lengths)


def test_a_group_without_signal_is_left_out_but_counts_in_the_mean():
    good, equal = make_group(0, [0.0, 1.0], [4, 8]), make_group(1, [1.0, 1.0], [5, 5])
    alone, both = pack_groups([good], PLAIN, 32), pack_groups([good, equal], PLAIN, 32)
    assert both.figures["groups_equal"] == 1
    assert {each.group for each in both.placed} == {0}
    # Half the mean, over the same tokens.
    np.testing.assert_allclose(both.batch.loss_weights, alone.batch.loss_weights / 2, rtol=1e-6)
    dropped = pack_groups([good, equal], AlgorithmConfig(kl_coefficient=0.0, dynamic_sampling=True), 32)
    np.testing.assert_array_equal(dropped.batch.loss_weights, alone.batch.loss_weights)
    assert not has_signal(equal, PLAIN)
    assert has_signal(good, PLAIN)
    with_divergence = pack_groups([good, equal], AlgorithmConfig(kl_coefficient=0.1), 32)
    assert {each.group for each in with_divergence.placed} == {0, 1}


def test_nothing_but_equal_groups_gives_padding_and_no_targets():
    packed = pack_groups([make_group(0, [1.0, 1.0], [4, 4])], PLAIN, 32, rows_multiple=2)
    assert (len(packed.batch), packed.targets) == (2, 0)


def test_a_rollout_that_was_not_scored_counts_for_nothing():
    whole, less = make_group(0, [0.0, 9.0, 1.0], [4, 5, 8], errors=[1]), make_group(0, [0.0, 9.0, 1.0], [4, 5, 8])
    packed = pack_groups([whole], PLAIN, 32)
    assert [each.index for each in packed.placed] == [0, 2]
    keep = replace(less, rollouts=less.rollouts[::2], scores=less.scores[::2])
    np.testing.assert_array_equal(packed.batch.advantages, pack_groups([keep], PLAIN, 32).batch.advantages)
    assert packed.figures["unscored"] == 1
    assert pack_groups([make_group(0, [0.0, 1.0], [4, 4], errors=[0])], PLAIN, 32).targets == 0


def test_truncated_responses_can_be_left_out_and_keep_their_place_in_the_mean():
    group = make_group(0, [0.0, 1.0, 2.0], [4, 8, 6])
    cut = replace(group, rollouts=(replace(group.rollouts[0], finish="length"), *group.rollouts[1:]))
    masked = pack_groups([cut], AlgorithmConfig(kl_coefficient=0.0, mask_truncated=True), 32)
    assert [each.index for each in masked.placed] == [1, 2]
    # Each of two sequences has a third of the weight; the trainer divides by their tokens.
    totals = [masked.batch.loss_weights[each.row, each.response].sum() for each in masked.placed]
    np.testing.assert_allclose(totals, [masked.targets / 3] * 2, rtol=1e-6)


def test_an_overlong_response_costs_reward():
    settings = AlgorithmConfig(kl_coefficient=0.0, overlong_penalty=1.0, overlong_window=4)
    group = make_group(0, [1.0, 1.0], [LONGEST, 8])
    assert has_signal(group, settings)
    packed = pack_groups([group], settings, 32)
    expected = 0.5 / (np.sqrt(0.5) + 1e-4)
    values = {each.index: packed.batch.advantages[each.row, each.response].min() for each in packed.placed}
    assert values[0] == pytest.approx(-expected)


def test_divergence_in_the_reward_adds_up_over_the_ranks_rows():
    settings = AlgorithmConfig(kl_coefficient=0.5, kl_in="reward", scale_by_deviation=False)
    groups = [make_group(n, [0.0, 1.0, 3.0], [18, 14, 12]) for n in range(2)]
    packed = pack_groups(groups, settings, 32, rows_multiple=2)
    random = np.random.default_rng(1)
    own, reference = (random.normal(size=packed.batch.tokens.shape) for _ in range(2))
    parts = [packed.divergences(own[at : at + 2], reference[at : at + 2], at) for at in range(0, len(own), 2)]
    shifted = packed.with_kl_in_reward(sum(parts))
    for number, group in enumerate(groups):
        rewards = []
        for index, rollout in enumerate(group.rollouts):
            each = next(each for each in packed.placed if (each.group, each.index) == (number, index))
            first = each.start + len(rollout.prompt_ids) - 1
            places = [first + at for at, sampled in enumerate(rollout.loss_mask) if sampled]
            off = sum(own[each.row, at] - reference[each.row, at] for at in places)
            rewards.append((group.rewards[index] - 0.5 * off, each.row, places))
        mean = sum(reward for reward, _, _ in rewards) / 3
        for reward, row, places in rewards:
            np.testing.assert_allclose(shifted.batch.advantages[row, places], reward - mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (make_group(7, [0.0, 1.0], [4, 20], prompt=15), "response 1 to prompt p7 needs 34 positions with its prompt"),
        (make_group(7, [0.0, float("nan")], [4, 4]), "reward of response 1 to prompt p7 is nan, not a number"),
        (make_group(7, [0.0], [4]), "prompt p7 has 1 response, but a group needs at least 2"),
        (make_group(7, [0.0, 1.0], [4, 4], prompt=0), "prompt p7 has no tokens"),
    ],
    ids=["too long", "nan", "alone", "no prompt"],
)
def test_what_cannot_be_trained_is_refused(group, message):
    with pytest.raises(DataError, match=message):
        pack_groups([group], PLAIN, 32)


def test_a_log_probability_that_is_no_number_is_refused():
    group = make_group(0, [0.0, 1.0], [2, 2])
    broken = replace(group.rollouts[1], logprobs=(-1.0, float("nan")))
    with pytest.raises(DataError, match="response 1 to prompt p0 has a log-probability that is not a finite number"):
        pack_groups([replace(group, rollouts=(group.rollouts[0], broken))], PLAIN, 32)


def test_the_same_groups_give_the_same_rows():
    groups = [make_group(n, [0.0, 1.0], [n + 3, n + 6]) for n in range(6)]
    first, second = pack_groups(groups, PLAIN, 32).batch, pack_groups(groups, PLAIN, 32).batch
    for name, array in vars(first).items():
        np.testing.assert_array_equal(array, vars(second)[name])
    assert len(list(itertools.chain(*[part.tokens for part in first.split(2)]))) == len(first)
