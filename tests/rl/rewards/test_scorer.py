"""Several rewards as one number, and what becomes of those that fail."""

from pathlib import Path

import pytest

from tatara.errors import ConfigError, EngineError, TrainingError
from tatara.rl.record import Prompt
from tatara.rl.rewards.completion import Completion, Failure, Verdict
from tatara.rl.rewards.config import ScoringConfig, read_rewards
from tatara.rl.rewards.scorer import ErrorPolicy, Scorer, check_rewards

ILL = Path(__file__).parent / "ill_rewards.py"
REWARDS = read_rewards(
    {
        "right": {"kind": "exact", "weight": 2.0},
        "long": {"kind": "python", "function": f"{ILL}:length", "scale": 0.5, "clip": [0, 2], "weight": -1.0},
        "shape": {"kind": "format", "pattern": "5+", "weight": 0.0},
        "ill": {"kind": "python", "function": f"{ILL}:raises", "scale": 3.0},
    }
)


def completion(response, number=7):
    return Completion(Prompt(f"prompt-{number}", "s", (), (), {"answer": "55"}), response)


@pytest.fixture(scope="module")
def verdicts():
    """The same completions under both policies that go on."""
    found = {}
    for on_error in ("skip", "zero"):
        scorer = Scorer(REWARDS, ScoringConfig(on_error=on_error, max_error_share=1.0))
        found[on_error] = scorer.score([completion("55"), completion("5555555")])
        assert scorer.status()["failures"]["ill"] == 2
        assert set(scorer.status()["seconds"]) == set(REWARDS)
        scorer.close()
    return found


def test_parts_are_transformed_and_weighted(verdicts):
    parts = {"right": 1.0, "long": 1.0, "shape": 1.0}
    assert verdicts["skip"][0] == Verdict(parts, 2 * 1.0 - 1.0, {"ill": "ValueError: several lines"})
    assert verdicts["skip"][1].parts == {"right": 0.0, "long": 2.0, "shape": 1.0}
    assert verdicts["skip"][1].reward == -2.0


def test_a_failure_can_count_as_zero(verdicts):
    assert verdicts["zero"][0] == Verdict({"right": 1.0, "long": 1.0, "shape": 1.0, "ill": 0.0}, 1.0, {})


def decide(policy, outcomes, name="ill"):
    return [policy.decide(name, outcome, f"prompt-{n}") for n, outcome in enumerate(outcomes)]


def test_the_run_ends_at_once_when_told_so():
    with pytest.raises(TrainingError, match=r"on prompt 'prompt-1': why \(scoring.on_error is fail"):
        decide(ErrorPolicy(ScoringConfig(on_error="fail")), [1.0, Failure("why")])


@pytest.mark.parametrize("on_error", ["skip", "zero"])
def test_the_run_ends_when_too_many_fail(on_error):
    policy = ErrorPolicy(ScoringConfig(on_error=on_error, max_error_share=0.2, error_window=10))
    failed, good = Failure("why"), 1.0
    decide(policy, ([failed] + [good] * 4) * 20)
    decide(policy, [good] * 10, name="another")
    with pytest.raises(TrainingError) as caught:
        decide(policy, [failed] * 2)
    message = str(caught.value)
    assert message.startswith("reward 'ill' failed on 3 of its last 10 values, last on prompt 'prompt-1': why; ")
    assert "scoring.max_error_share" in message


def test_the_first_failures_of_a_run_are_not_too_many():
    policy = ErrorPolicy(ScoringConfig(max_error_share=0.2, error_window=10))
    assert decide(policy, [Failure("why")] * 2) == [None, None]
    with pytest.raises(TrainingError, match="3 of its last 3 values"):
        decide(policy, [Failure("why")])


def test_a_run_that_must_end_says_so_through_the_promise():
    ill = {"ill": REWARDS["ill"]}
    scorer = Scorer(ill, ScoringConfig(on_error="fail"))
    with pytest.raises(TrainingError, match="reward 'ill' failed on prompt 'prompt-3': ValueError: several lines"):
        scorer.submit(completion("5", 3)).result()
    scorer.close()


@pytest.mark.parametrize(
    ("reward", "kind", "message"),
    [
        ({"kind": "python", "function": f"{ILL}:lenght"}, ConfigError, "reward it: .*did you mean 'length'"),
        (
            {"kind": "judge", "url": "judge", "model": "m", "template": "{response}"},
            ConfigError,
            "reward it: 'judge' is",
        ),
        (
            {"kind": "judge", "url": "http://x/v1", "model": "m", "template": "{response}", "api_key_env": "NO_KEY"},
            ConfigError,
            "reward it: the environment variable NO_KEY for the judge's key is not set",
        ),
        ({"kind": "reward_model", "model": "/no/model"}, EngineError, "no model directory at /no/model"),
    ],
    ids=["function", "address", "key", "model"],
)
def test_what_cannot_work_is_refused_before_a_run(reward, kind, message, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(kind, match=message):
        check_rewards(read_rewards({"it": reward}), ScoringConfig())


def test_what_can_work_is_accepted_before_a_run():
    check_rewards(REWARDS, ScoringConfig())
