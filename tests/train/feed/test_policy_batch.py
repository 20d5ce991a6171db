"""Batches of rollouts: cut into micro-batches, and given what the trainer found."""

import numpy as np
import pytest

from tatara.errors import DataError
from tatara.train.feed.batches import empty_batch
from tatara.train.feed.policy_batch import PolicyBatch


def make_batch():
    plain = empty_batch(5, 4)
    plain.loss_weights[:, 2] = 1.0
    numbers = np.arange(20, dtype=np.float32).reshape(5, 4)
    return PolicyBatch(
        **vars(plain), behaviour_logprobs=-numbers, advantages=numbers, policy_version=numbers.astype(np.int64)
    )


def test_micro_batches_are_the_rows_in_order():
    batch = make_batch().with_logprobs(proximal=np.ones((5, 4)))
    parts = batch.split(2)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert all(isinstance(part, PolicyBatch) and part.reference_logprobs is None for part in parts)
    for name in ("tokens", "advantages", "behaviour_logprobs", "policy_version", "proximal_logprobs"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(batch, name))


def test_log_probabilities_join_without_replacing_the_others():
    first = make_batch().with_logprobs(proximal=np.full((5, 4), -1.0))
    both = first.with_logprobs(reference=np.full((5, 4), -2.0))
    assert first.reference_logprobs is None
    assert (both.proximal_logprobs == -1.0).all()
    assert (both.reference_logprobs == -2.0).all()
    assert both.reference_logprobs.dtype == np.float32


def test_log_probabilities_of_a_broken_model_are_refused():
    logprobs = np.zeros((5, 4))
    logprobs[1, 0] = np.nan
    make_batch().with_logprobs(proximal=logprobs)
    logprobs[3, 2] = -np.inf
    with pytest.raises(DataError, match="proximal_logprobs hold a value that is not a finite number"):
        make_batch().with_logprobs(proximal=logprobs)
    with pytest.raises(DataError, match=r"reference_logprobs have the shape \(4, 4\), but the batch has \(5, 4\)"):
        make_batch().with_logprobs(reference=logprobs[:4])
