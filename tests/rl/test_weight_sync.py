"""Buckets, what an engine must get, and the comparison of probes; the whole way is in test_rollout_worker."""

import pytest

from tatara.errors import EngineError
from tatara.rl.protocol import Probe
from tatara.rl.weight_sync import compare_probes

TRAINER = [[-1.0, -2.0], [-0.5]]


def test_probes_within_the_tolerance_are_measured():
    engines = {"a": Probe(((-1.0, -2.0), (-0.5,))), "b": Probe(((-1.00001, -2.0), (-0.50005,)))}
    found = compare_probes(TRAINER, engines, 1e-4, 7)
    assert found.largest == pytest.approx(5e-5)
    assert found.mean == pytest.approx(6e-5 / 6)
    assert (found.worker, found.version, found.tokens) == ("b", 7, 6)


@pytest.mark.parametrize(
    ("logprobs", "message"),
    [
        (
            ((-1.0, -2.5), (-0.5,)),
            r"worker bad does not compute .* version 7: .* up to 0.5 nats \(.* 2 workers 0.0833\)",
        ),
        (((-1.0, float("nan")), (-0.5,)), "worker bad and the trainer disagree on version 7: a log-probability is nan"),
        (((-1.0, float("-inf")), (-0.5,)), "a log-probability is -inf in the engine, -2 in the trainer"),
        (((-1.0,), (-0.5,)), "worker bad answered another probe of version 7"),
        ((), "worker bad answered another probe"),
    ],
    ids=["far", "nan", "infinite", "short", "empty"],
)
def test_a_worker_that_computes_something_else_is_named(logprobs, message):
    with pytest.raises(EngineError, match=message):
        compare_probes(TRAINER, {"good": Probe(((-1.0, -2.0), (-0.5,))), "bad": Probe(logprobs)}, 1e-4, 7)


def test_no_worker_is_nothing_to_compare():
    assert compare_probes(TRAINER, {}, 1e-4, 0).tokens == 0
