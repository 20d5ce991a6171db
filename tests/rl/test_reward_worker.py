"""The reward worker as a real actor at the real buffer, through kills of both; and how rollouts become completions."""

import os
import signal
import time
from pathlib import Path

import pytest

from chat.chat_cases import write_tokenizer
from rl.ledger_world import make_rollout, make_stage
from tatara.errors import TrainingError
from tatara.rl.ledger.book import BufferConfig
from tatara.rl.prompts import write_prompts
from tatara.rl.record import Prompt, Rollout, RolloutKey, Sampling
from tatara.rl.reward_worker import RewardWorker, read_completion, sampled_turns, start_reward_worker
from tatara.rl.rewards.config import ScoringConfig, read_rewards

ILL = Path(__file__).parent / "rewards" / "ill_rewards.py"
GROUPS, SIZE = 8, 2
SCORING = ScoringConfig(buffer_seconds=60.0, max_error_share=1.0)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    from tatara.chat import ChatTemplate, Renderer

    directory = write_tokenizer(tmp_path_factory.mktemp("policy") / "tokenizer")
    ChatTemplate.built_in("chatml").save(directory)
    return Renderer(directory)


@pytest.fixture(scope="module")
def ray():
    import ray

    from tatara import cluster

    cluster.connect(address="local", num_cpus=2)
    yield ray
    cluster.disconnect()


@pytest.fixture
def start(ray, renderer, tmp_path):
    """Starts a buffer that holds a whole batch of finished rollouts, and reward workers at it."""
    from tatara.rl.buffer import start_buffer

    started = []

    def begin(answers):
        messages = [({"role": "user", "content": f"{number} + 1?"},) for number in range(GROUPS)]
        prompts = [
            Prompt(f"sum-{number}", "sums", each, tuple(renderer.prompt_ids(each)), {"answer": number + 1})
            for number, each in enumerate(messages)
        ]
        write_prompts(tmp_path / "prompts.jsonl", prompts)
        stage = make_stage(groups_per_batch=GROUPS, group_size=SIZE, max_response_tokens=64)
        config = BufferConfig(stages=(stage,), batches=1, staleness=0)
        arguments = (tmp_path.name, config, tmp_path / "prompts.jsonl", tmp_path / "state", "first")
        started.append(start_buffer(*arguments))
        lease = ray.get(started[0].lease.remote("rollouts", 0, 100, 30.0), timeout=60)
        made = [
            roll(renderer, group.prompt, group.key(index), answers(group.prompt, index))
            for group in lease.groups
            for index in group.indices
        ]
        assert len(made) == GROUPS * SIZE
        ray.get(started[0].deliver.remote("rollouts", made), timeout=60)
        return started[0]

    def work(name, buffer, rewards, scoring=SCORING):
        started.append(start_reward_worker(name, buffer, rewards, scoring, renderer.directory))
        return started[-1], started[-1].run.remote()

    yield begin, work
    for each in started:
        ray.kill(each)


def roll(renderer, prompt, key, text) -> Rollout:
    ids = (*renderer._plain.encode(text, add_special_tokens=False).ids, renderer.stop_token_ids[0])
    sizes = {"loss_mask": (1,) * len(ids), "logprobs": (-0.5,) * len(ids)}
    sampling = Sampling(64, stop_token_ids=renderer.stop_token_ids)
    return make_rollout(key, prompt, 0, "rollouts", response_ids=ids, sampling=sampling, **sizes)


def batch_of(ray, buffer, runs=()):
    """The finished batch; an error of a worker ends the wait."""
    for _ in range(240):
        reply = ray.get(buffer.batch.remote(0, 1.0), timeout=60)
        if reply.groups is not None:
            return reply.groups
        for done in ray.wait(list(runs), timeout=0)[0] if runs else ():
            ray.get(done)
    raise AssertionError(ray.get(buffer.status.remote(), timeout=60)["waiting_for"])


@pytest.mark.ray
def test_rollouts_are_scored_through_kills_of_the_buffer_and_of_a_worker(ray, start, tmp_path):
    begin, work = start
    right = {"right": {"kind": "math", "weight": 2.0}, "short": {"kind": "length", "unit": "characters", "maximum": 5}}
    slow = {
        "kind": "python",
        "function": f"{ILL}:slow_at_first",
        "weight": 0.0,
        "arguments": {"mark": str(tmp_path / "m")},
    }
    buffer = begin(lambda prompt, index: f"So {prompt.metadata['answer'] + index}")
    first, _ = work("first", buffer, read_rewards(right | {"slow": slow}), SCORING.model_copy(update={"batch": 3}))
    deadline = time.monotonic() + 120
    while not (tmp_path / "m").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The first worker holds rollouts; it and the buffer die, and another worker comes.
    os.kill(ray.get(buffer.status.remote(), timeout=60)["pid"], signal.SIGKILL)
    ray.kill(first)
    second, run = work("second", buffer, read_rewards(right | {"slow": slow}))
    ray.get(buffer.release.remote("first"), timeout=60)
    groups = batch_of(ray, buffer, [run])
    assert [group.rewards for group in groups] == [(2.0, 0.0)] * GROUPS
    assert groups[0].scores[0].parts == {"right": 1.0, "short": 0.0, "slow": 1.0}
    assert groups[0].scores[0].response == f"So {groups[0].prompt.metadata['answer']}"
    assert {score.key.index for group in groups for score in group.scores} == {0, 1}
    status = ray.get(second.status.remote(), timeout=60)
    assert (status["state"], status["pending"]) == ("running", 0)
    assert 0 < status["scored"] <= GROUPS * SIZE
    assert {"wait", "score", "deliver"} <= set(status["seconds"])
    assert set(status["rewards"]["seconds"]) == {"right", "short", "slow"}
    ray.get(second.stop.remote(), timeout=60)
    assert ray.get(run, timeout=60) is None
    assert ray.get(second.status.remote(), timeout=60)["state"] == "stopped"


@pytest.mark.ray
def test_a_run_that_must_end_ends_with_the_line(ray, start):
    begin, work = start
    ill = read_rewards({"ill": {"kind": "python", "function": f"{ILL}:raises"}})
    buffer = begin(lambda prompt, index: "x")
    _, run = work("worker", buffer, ill, ScoringConfig(on_error="fail"))
    from tatara.errors import own_error

    with pytest.raises(Exception, match="ValueError: several lines") as caught:
        ray.get(run, timeout=120)
    error = own_error(caught.value)
    assert isinstance(error, TrainingError)
    assert str(error).startswith("reward 'ill' failed on prompt 'sum-")


@pytest.mark.ray
def test_a_buffer_that_is_dead_for_good_ends_the_worker(ray, start):
    from tatara.errors import EngineError, own_error

    begin, work = start
    buffer = begin(lambda prompt, index: "x")
    ray.kill(buffer)
    _, run = work("worker", buffer, read_rewards({"short": "length"}))
    with pytest.raises(Exception, match="the buffer is dead for good, so `lease_scoring` gets no answer") as caught:
        ray.get(run, timeout=120)
    assert isinstance(own_error(caught.value), EngineError)


@pytest.mark.ray
def test_a_worker_stops_although_the_buffer_does_not_answer(ray, start):
    begin, work = start
    buffer = begin(lambda prompt, index: "x")
    short = read_rewards({"short": {"kind": "length", "unit": "characters", "maximum": 5}})
    worker, run = work("worker", buffer, short, SCORING.model_copy(update={"buffer_seconds": 1000.0}))
    batch_of(ray, buffer, [run])
    pid = ray.get(buffer.status.remote(), timeout=60)["pid"]
    # A stopped process keeps its connections: nobody is told that it is away.
    os.kill(pid, signal.SIGSTOP)
    try:
        ray.get(worker.stop.remote(), timeout=60)
        assert ray.get(run, timeout=120) is None
    finally:
        os.kill(pid, signal.SIGCONT)


def test_turns_of_the_model_are_told_from_those_of_the_environment(renderer):
    stop = renderer.stop_token_ids[0]
    said = [renderer._plain.encode(text, add_special_tokens=False).ids for text in ("use it", "68", "it is 68")]
    ids = (*said[0], stop, *said[1], *said[2], stop)
    mask = (*[1] * (len(said[0]) + 1), *[0] * len(said[1]), *[1] * (len(said[2]) + 1))
    key, sampling = RolloutKey("train", 0, 0, 0), Sampling(64, stop_token_ids=(stop,))
    rollout = Rollout(key, (1,), ids, mask, (0.0,) * len(ids), 0, 0, "stop", sampling)
    completion = read_completion(Prompt("p", "s", (), ()), rollout, lambda each: renderer.decode(each, special=False))
    assert completion.turns == ("use it", "it is 68")
    assert completion.answer == "it is 68"
    assert completion.response == "use it68it is 68"
    assert completion.sampled_tokens == len(said[0]) + len(said[2]) + 2


@pytest.mark.parametrize(
    ("mask", "turns"),
    [((), []), ((0, 0), []), ((1, 1), [(0, 1)]), ((0, 1, 0, 0, 1, 1, 0), [(1,), (4, 5)])],
    ids=["empty", "none", "one", "two"],
)
def test_runs_of_sampled_tokens(mask, turns):
    sampling = Sampling(64)
    zeros = (0.0,) * len(mask)
    rollout = Rollout(RolloutKey("train", 0, 0, 0), (1,), tuple(range(len(mask))), mask, zeros, 0, 0, "stop", sampling)
    assert sampled_turns(rollout) == turns


def test_a_worker_that_has_not_begun_says_so(renderer):
    worker = RewardWorker("w", None, read_rewards({"short": "length"}), SCORING, renderer.directory)
    assert worker.status()["state"] == "starting"
