"""Rollout workers with a real buffer, a real learner and vLLM; kills in between."""

import itertools
import json
import os
import signal
import time
from pathlib import Path

import pytest

from engine.tiny_llama import write_tiny_llama
from rl.ledger_world import make_score, make_stage
from tatara.engine.stepped import Finished
from tatara.rl.conversation_turns import Conversation
from tatara.rl.record import Prompt, RolloutKey, Sampling
from tatara.rl.worker_clock import WorkerClock

TOLERANCE = 1e-4
BATCHES = 5
STOPS = tuple(range(3, 500, 12))
PROBES = ((5, 6, 7, 8, 9), tuple(range(20, 180)))
ECHO = {"kind": "custom", "target": f"{Path(__file__).with_name('echo_environment.py')}:Echo", "max_turns": 4}
KEY = RolloutKey("train", 0, 3, 1)
PROMPT = Prompt("p", "sums", (), (1, 2, 3))


def conversation(max_tokens: int, context: int = 100) -> Conversation:
    return Conversation(KEY, PROMPT, Sampling(max_tokens), "echo", context, started=10.0)


def test_turns_become_one_row_with_a_mask_of_the_models_tokens():
    made = conversation(20)
    made.add_turn(Finished("r", (7, 8), (-0.5, -0.25), "stop", 3, 3))
    assert made.add_reply([40, 41, 42])
    assert made.token_ids == [1, 2, 3, 7, 8, 40, 41, 42]
    assert made.drawing() == Sampling(15)
    made.add_turn(Finished("r", (9,), (-1.0,), "stop", 4, 5))
    rollout = made.rollout("environment", "w", 12.5)
    assert rollout.response_ids == (7, 8, 40, 41, 42, 9)
    assert rollout.loss_mask == (1, 1, 0, 0, 0, 1)
    assert rollout.logprobs == (-0.5, -0.25, 0.0, 0.0, 0.0, -1.0)
    assert (rollout.first_version, rollout.last_version) == (3, 5)
    assert (rollout.finish, rollout.worker, rollout.seconds) == ("environment", "w", 2.5)
    assert rollout.sampling == Sampling(20)


@pytest.mark.parametrize(
    ("max_tokens", "context", "fits"), [(6, 100, True), (5, 100, False), (99, 9, True), (99, 8, False)]
)
def test_a_reply_is_left_out_when_the_model_could_not_say_a_word_on_it(max_tokens, context, fits):
    made = conversation(max_tokens, context)
    made.add_turn(Finished("r", (7, 8), (-0.5, -0.25), "stop", 0, 0))
    assert made.add_reply([40, 41, 42]) is fits
    assert len(made.response_ids) == (5 if fits else 2)


def test_every_second_has_one_cause():
    started = time.time()
    clock = WorkerClock()
    for cause in ("wait", "wait", "generate", "sync", "generate"):
        clock.switch(cause)
        time.sleep(0.01)
    seconds, spans = clock.seconds(), clock.spans()
    assert [span.what for span in spans] == ["start", "wait", "generate", "sync", "generate"]
    assert all(one.end == other.start for one, other in itertools.pairwise(spans))
    assert sum(seconds.values()) == pytest.approx(time.time() - started, abs=0.02)
    assert seconds["wait"] == pytest.approx(spans[1].end - spans[1].start)
    assert [span.what for span in clock.spans(spans[2].end)] == ["sync", "generate"]


@pytest.fixture(scope="module")
def ray():
    import ray

    from tatara import cluster

    cluster.connect(address="local", num_cpus=4)
    yield ray
    cluster.disconnect()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the tokenizer and the template of a chat."""
    from chat.chat_cases import write_tokenizer
    from tatara.chat import ChatTemplate, Renderer

    directory = write_tiny_llama(tmp_path_factory.mktemp("policy") / "tiny", vocabulary=512)
    write_tokenizer(directory)
    ChatTemplate.built_in("chatml").save(directory)
    stop = Renderer(directory).stop_token_ids[0]
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
    return directory


def prompts(model: Path, count: int) -> list[Prompt]:
    from tatara.chat import Renderer

    renderer = Renderer(model)
    made = []
    for number in range(count):
        messages = ({"role": "user", "content": f"{number} + 1?"},)
        ids = tuple(renderer.prompt_ids(messages))
        made.append(Prompt(f"sums-{number}", "sums", messages, ids, {"answer": number + 1}))
    return made


class Run:
    """A buffer, a learner and workers."""

    def __init__(self, ray, model: Path, directory: Path) -> None:
        from rl.sync_learner import ENVIRONMENT, SyncLearner
        from tatara.rl.buffer import start_buffer
        from tatara.rl.ledger.book import BufferConfig
        from tatara.rl.prompts import write_prompts

        self.ray, self.model = ray, model
        write_prompts(directory / "prompts.jsonl", prompts(model, 20))
        stage = make_stage(environment="echo", group_size=3, max_response_tokens=30)
        config = BufferConfig(stages=(stage,), batches=BATCHES, staleness=1, stop_token_ids=STOPS)
        self.buffer = start_buffer("buffer", config, directory / "prompts.jsonl", directory / "state", "first")
        options = {"num_cpus": 0, "runtime_env": {"env_vars": ENVIRONMENT}}
        self.learner = ray.remote(SyncLearner).options(**options).remote(str(model))
        self.workers: dict = {}

    def start_worker(self, name: str, **settings) -> None:
        from tatara.rl.rollout_worker import RolloutTask, start_rollout_worker

        engine = {"kv_cache_bytes": 16 << 20, "max_model_len": 256}
        task = RolloutTask(
            name, "buffer", str(self.model), engine, concurrent=8, environments={"echo": ECHO}, **settings
        )
        worker = start_rollout_worker(task, num_cpus=0)
        self.workers[name] = (worker, worker.run.remote())

    def ask(self, method: str, *arguments):
        return self.ray.get(getattr(self.buffer, method).remote(*arguments), timeout=120)

    def status(self, name: str) -> dict:
        return self.ray.get(self.workers[name][0].status.remote(), timeout=120)

    def publish(self, version: int, move: float = 0.05):
        done = self.learner.publish.remote("buffer", version, PROBES, 200_000, move)
        return self.ray.get(done, timeout=400)

    def check_alive(self) -> None:
        """What a worker raised is raised here."""
        done, _ = self.ray.wait([reference for _, reference in self.workers.values()], timeout=0)
        self.ray.get(done)

    def compare(self, version: int):
        """Wait until every worker has proved a version, and compare with the trainer."""
        from tatara.rl.weight_sync import compare_probes

        deadline = time.monotonic() + 400
        while set(found := self.ask("probes", version)) != set(self.workers):
            self.check_alive()
            assert time.monotonic() < deadline, (found.keys(), [self.status(name) for name in self.workers])
            time.sleep(0.05)
        trainer = self.ray.get(self.learner.logprobs.remote(PROBES), timeout=120)
        return compare_probes(trainer, found, TOLERANCE, version)

    def batch(self, number: int):
        """Score what comes until a batch is whole."""
        deadline = time.monotonic() + 400
        while True:
            found = self.ask("lease_scoring", "rewards", 100, 0.0)
            if found:
                self.ask("scored", "rewards", [make_score(each.key, float(each.key.index)) for _, each in found])
            reply = self.ask("batch", number, 0.1)
            if reply.republish or reply.groups is not None:
                return reply
            self.check_alive()
            assert time.monotonic() < deadline, (self.ask("status")["waiting_for"], self.status(min(self.workers)))


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_in_which_buffer_and_worker_are_killed_trains_on_tokens_of_the_policy(ray, model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from tatara.chat import Renderer
    from tatara.engine.buckets import unpacked
    from tatara.rl.weight_sync import fetch

    run = Run(ray, model, tmp_path)
    run.start_worker("a")
    run.start_worker("b", in_flight="recompute")
    policies, groups = {}, []
    for version in range(BATCHES):
        published = run.publish(version)
        assert published.names == 39
        told = run.ask("weights")
        assert len(told.refs) > 3
        policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        sent = {name: tensor.clone() for bucket in fetch(told, 60) for name, tensor in unpacked(bucket)}
        policy.load_state_dict(sent)
        policies[version] = policy
        compared = run.compare(version)
        assert 0 < compared.largest <= TOLERANCE
        assert compared.tokens == 163 * len(run.workers)
        if version == 1:
            # Ray starts it again; the weights that only it knew of are asked for.
            os.kill(run.ask("status")["pid"], signal.SIGKILL)
            assert run.batch(version).republish
            run.publish(version, move=0.0)
        if version == 2:
            os.kill(run.status("a")["pid"], signal.SIGKILL)
            del run.workers["a"]
            run.ask("release", "a")
        if version == 3:
            # It joins late: the current version is what it begins with.
            run.start_worker("c", in_flight="drain", sleep=True, seed=7)
        groups += run.batch(version).groups
    status = {name: run.status(name) for name in run.workers}
    run.ask("stop")
    finished = {name: ray.get(reference, timeout=120) for name, (_, reference) in run.workers.items()}
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert len(rollouts) == BATCHES * 2 * 3
    assert len({rollout.key for rollout in rollouts}) == len(rollouts)
    renderer = Renderer(model)
    for number, rollout in enumerate(rollouts):
        assert rollout.first_version <= rollout.last_version <= number // 6
        assert rollout.first_version + 1 >= number // 6
        check_row(rollout, renderer)
        if rollout.first_version == rollout.last_version:
            check_logprobs(rollout, policies[rollout.first_version])
    assert {"stop", "turns", "length", "environment"} >= {rollout.finish for rollout in rollouts}
    assert any(0 in rollout.loss_mask for rollout in rollouts)
    assert {"b"} <= {rollout.worker for rollout in rollouts} <= {"a", "b", "c"}
    assert finished.keys() == {"b", "c"}
    check_status(status, finished)


def check_row(rollout, renderer) -> None:
    """The environment's tokens are masked and those that the template gives; the model's end where a turn ends."""
    size = len(rollout.response_ids)
    assert 0 < size <= 30
    assert len(rollout.loss_mask) == len(rollout.logprobs) == size
    turn, place = 0, 0
    while place < size:
        end = next((index for index in range(place, size) if rollout.response_ids[index] in STOPS), size - 1) + 1
        assert rollout.loss_mask[place:end] == (1,) * (end - place)
        assert all(value < 0 for value in rollout.logprobs[place:end])
        if end == size:
            break
        reply = tuple(renderer.reply_ids([{"role": "user", "content": f"{turn} more"}]))
        assert rollout.response_ids[end : end + len(reply)] == reply
        assert set(rollout.loss_mask[end : end + len(reply)]) == {0}
        assert set(rollout.logprobs[end : end + len(reply)]) == {0.0}
        place, turn = end + len(reply), turn + 1
    assert rollout.loss_mask[-1] == 1


def check_logprobs(rollout, policy) -> None:
    """What the worker recorded is what Hugging Face computes with the weights of that version."""
    import torch

    ids = torch.tensor([[*rollout.prompt_ids, *rollout.response_ids]])
    with torch.no_grad():
        scores = policy(ids).logits[0, :-1].log_softmax(-1)
    all_of_them = scores.gather(-1, ids[0, 1:, None])[:, 0].tolist()[len(rollout.prompt_ids) - 1 :]
    for mask, recorded, computed in zip(rollout.loss_mask, rollout.logprobs, all_of_them, strict=True):
        assert not mask or abs(recorded - computed) < TOLERANCE


def check_status(status: dict, finished: dict) -> None:
    assert sum(told["tokens"] for told in status.values()) > 0
    for name, told in status.items():
        assert told["version"] == BATCHES - 1
        assert {"start", "wait", "sync"} <= told["seconds"].keys()
        spans = told["spans"]
        assert sum(end - start for start, end, _ in spans) == pytest.approx(sum(told["seconds"].values()), abs=1.0)
        assert told["rollouts"] <= finished[name]
        assert all(0 < sync.pause < sync.seconds for sync in told["syncs"])
        assert [sync.version for sync in told["syncs"]][-1] == BATCHES - 1
