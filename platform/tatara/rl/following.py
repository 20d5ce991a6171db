"""The driver's view of a ``grpo`` run: what learner, buffer and workers say, as metrics, log lines and report data."""

import os
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tatara.errors import TataraError
from tatara.rl.client import BufferClient
from tatara.rl.crew import Crew
from tatara.rl.grpo import GrpoConfig
from tatara.rl.idle_cores import CoreTime, CoreWatch
from tatara.rl.simulation.recording import LearnedBatch
from tatara.stage import StageRun
from tatara.train.watch.follower import Follower

if TYPE_CHECKING:
    from tatara.rl.simulation.calibration import MeasuredRun

_POLL_SECONDS = 1.0
_SPANS = 4000
"""Spans of a lane that a report gets; the last ones."""
_TRANSCRIPTS = 60
_SERIES = ("reward", "reward_deviation", "passed", "length", "longest", "empty", "errors")


class GrpoFollower(Follower):
    """Follows the learner's events as any training's, and asks the buffer and the workers now and then."""

    def __init__(
        self, stage_run: StageRun, config: GrpoConfig, client: BufferClient, crew: Crew, *, gpus: bool = False
    ) -> None:
        """Follow from now on.

        Args:
            stage_run: Of the stage.
            config: Of the run.
            client: Of its buffer.
            crew: Its workers.
            gpus: Whether engines run on GPUs: then what is idle is told by them, not by this machine's cores.
        """
        super().__init__(stage_run, config)
        self._grpo, self._client, self._crew, self._gpus = config, client, crew, gpus
        self._began = time.time()
        self._asked = 0.0
        self._noted = 0
        self._status: Mapping[str, Any] = {}
        self._learner: list[tuple[float, float, str]] = []
        self._policy: dict[str, float] = {}
        self._transcripts: list[dict[str, Any]] = []
        self._cores = CoreWatch()
        crew.looks.append(self._cores.look)
        self._idle: list[CoreTime] = []
        """What the devices had counted when the first batch, the one before the last, and the last had been learned
        from."""
        self._synced: dict[str, int] = {}
        """Synchronisations of each worker that metrics tell of."""
        self._generated = (0, 0.0)
        """Tokens of all workers that metrics tell of, and the seconds of generating them."""
        self._learned: deque[LearnedBatch] = deque(maxlen=_SPANS)
        self.evaluations: dict[int, dict[str, Any]] = {}
        self.batches: list[dict[str, Any]] = []

    def poll(self) -> None:
        """Handle what is new."""
        super().poll()
        if time.monotonic() - self._asked >= _POLL_SECONDS:
            self.ask()

    def ask(self) -> Mapping[str, Any]:
        """Ask the buffer, and handle what it has noted since; returns its status."""
        self._asked = time.monotonic()
        try:
            self._status = self._client.status(self._noted)
        except TataraError:
            # It has failed or is being started again: the learner hears of it, and says why.
            return self._status
        self._tell_syncs()
        for note in self._status["notes"]:
            self._noted = max(self._noted, note["number"])
            getattr(self, f"_note_{note['kind']}")(note)
        return self._status

    def report(self) -> None:
        """Hand to the run report what it shows; see `tatara.tracking.rl_sections`."""
        super().report()
        run, status = self._run, self._status
        run.report("rl_timeline", self._lanes())
        run.report("rl_shares", self._shares())
        run.report("rl_stages", self._stages())
        run.report("rl_transcripts", self._transcripts[-_TRANSCRIPTS:])
        run.report("rl_evaluations", [self.evaluations[version] for version in sorted(self.evaluations)])
        run.report("rl_incidents", [self._incident(each) for each in self._crew.incidents])
        if status:
            run.report("rl_staleness", {str(key): value for key, value in status["staleness"].items()})
            groups = {"trained": status["batched"], "dropped": status["dropped"], "replays": status["replays"]}
            run.report("rl_groups", groups)
        if self.batches:
            run.report("rl_figures", self.figures())

    def figures(self) -> dict[str, float]:
        """Tokens per second of both sides and how much of their time they were idle."""
        shares = self._shares()
        rollout = [each["seconds"] for each in shares if each["kind"] == "rollout"]
        learner: dict[str, float] = next((each["seconds"] for each in shares if each["kind"] == "learner"), {})
        tokens = sum(status.get("tokens", 0) for status in self._crew.statuses.values())
        generating = sum(each.get("generate", 0.0) for each in rollout)
        training = learner.get("train", 0.0)
        trained = sum(batch["tokens"] for batch in self.batches)
        found = {"rollout_tokens": tokens, "trained_tokens": trained}
        if generating:
            found["rollout_tokens_per_second"] = round(tokens / generating, 1)
        if training:
            found["learner_tokens_per_second"] = round(trained / training, 1)
        differences = [sync.difference for status in self._crew.statuses.values() for sync in status.get("syncs", [])]
        if differences:
            found["probe_difference"] = max(differences)
        idle = self._idle[-1].idle_since(self._idle[0]) if len(self._idle) > 1 else None
        if idle is not None:
            found["idle_share"] = round(idle, 4)
        return found

    def measured(self) -> "MeasuredRun | None":
        """What ``tatara simulate --run`` reads; None where the run was too short to say."""
        from tatara.rl.simulation.recording import Recorded, figures

        config, crew, stage = self._grpo, self._crew, self._grpo.stages[-1]
        kinds = {name: name.partition("-")[0] for name in crew.statuses}
        told = Recorded(
            [each for each in self._learned if each.number >= (self._grpo.stages[-2].until_batch or 0)]
            if len(self._grpo.stages) > 1
            else list(self._learned),
            {note["batch"]: note["at"] for note in self.batches},
            crew.spans,
            crew.paces,
            {name: status for name, status in crew.statuses.items() if kinds[name] == "rollout"},
            {name: status for name, status in crew.statuses.items() if kinds[name] == "reward"},
        )
        dropped = sum(self._status.get("dropped", {}).values())
        return figures(
            told,
            engines=config.rollout.engines,
            concurrency=config.rollout.concurrent,
            groups_per_batch=stage.groups_per_batch,
            group_size=stage.group_size,
            staleness=config.staleness,
            in_flight=config.rollout.in_flight,
            dropped=dropped / (dropped + self._status["batched"]) if dropped else 0.0,
            rollout_devices=float(config.rollout.engines * (config.rollout.gpus or 1 if self._gpus else 1)),
            learner_devices=float(config.num_workers),
            colocated=config.rollout.colocate,
            cores=None if self._gpus else len(os.sched_getaffinity(0)),
        )

    def _on_step(self, event: dict[str, Any]) -> None:
        super()._on_step(event)
        names = ("ratio", "clipped", "kl_", "entropy", "mismatch", "correct")
        policy = {name: value for name, value in event.items() if name.startswith(names)}
        if policy:
            self._policy = policy
            self._run.metrics(event["step"], **{f"train.{name}": value for name, value in policy.items()})

    def _on_rollout_batch(self, event: dict[str, Any]) -> None:
        self._learner += [(start, seconds, what) for start, seconds, what in event["spans"]]
        del self._learner[: -10 * _SPANS]
        learned = LearnedBatch.of(event, self._grpo.sequence_length * self._grpo.minibatches)
        values = {"rl.staleness": event["staleness"], "rl.groups_equal": event["groups_equal"]}
        if learned is not None:
            self._learned.append(learned)
            values |= self._speeds(learned)
        self._run.metrics(event["step"], **values)

    def _speeds(self, learned: LearnedBatch) -> dict[str, float]:
        """How fast both sides were at last, and how idle their devices, as metrics."""
        trained = learned.response * learned.rollouts * self._grpo.minibatches
        found = {"rl.learner_tokens_per_second": trained / (learned.updated - learned.began)}
        statuses = [each for each in self._crew.statuses.values() if "tokens" in each]
        tokens = sum(each["tokens"] for each in statuses)
        generating = sum(each["seconds"].get("generate", 0.0) for each in statuses)
        if generating > self._generated[1] and tokens > self._generated[0]:
            before, self._generated = self._generated, (tokens, generating)
            found["rl.rollout_tokens_per_second"] = (tokens - before[0]) / (generating - before[1])
        now = self._device_time() if self._gpus else self._cores.at(learned.published)
        self._idle = [*self._idle[:1], *self._idle[1:][-1:], now]
        idle = now.idle_since(self._idle[-2]) if len(self._idle) > 1 else None
        return found if idle is None else found | {"rl.idle_share": idle}

    def _device_time(self) -> CoreTime:
        """What GPUs waited, by what their workers say."""
        shares = [each["seconds"] for each in self._shares() if each["kind"] != "reward"]
        whole = sum(sum(each.values()) - each.get("start", 0.0) for each in shares)
        return CoreTime(sum(each.get("wait", 0.0) for each in shares), whole)

    def _on_published(self, event: dict[str, Any]) -> None:
        self._run.metrics(event["step"], **{"rl.sync_seconds": event["seconds"]})

    def _tell_syncs(self) -> None:
        """How far engines were from the trainer and how long they paused, of synchronisations not told of yet."""
        found: dict[int, list[Any]] = {}
        for name, status in list(self._crew.statuses.items()):
            done = status.get("syncs", [])
            for sync in done[self._synced.get(name, 0) :]:
                found.setdefault(sync.version, []).append(sync)
            self._synced[name] = len(done)
        for version, syncs in sorted(found.items()):
            values = {
                "rl.pause_seconds": max(sync.pause for sync in syncs),
                "rl.probe_difference": max(sync.difference for sync in syncs),
            }
            self._run.metrics(version * self._grpo.minibatches, **values)

    def _note_batch(self, note: dict[str, Any]) -> None:
        self.batches.append(note)
        values = {name: note[name] for name in _SERIES}
        values |= {f"parts.{name}": value for name, value in note["parts"].items()}
        values |= {f"finish.{name}": value for name, value in note["finish"].items()}
        step = (note["batch"] + 1) * self._grpo.minibatches
        self._run.metrics(step, **{f"rl.{name}": value for name, value in values.items()})

    def _note_evaluation(self, note: dict[str, Any]) -> None:
        self.evaluations[note["version"]] = note
        scores = {name: value for name, value in note.items() if name.startswith("pass@")}
        step = note["version"] * self._grpo.minibatches
        self._run.metrics(step, **{f"rl.{name}": value for name, value in scores.items()})
        told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self._run.log(
            f"version {note['version']} on {note['groups']} held-out prompts: {told}, reward {note['reward']:.3f}"
        )

    def _note_transcript(self, note: dict[str, Any]) -> None:
        shown = note | {"prompt": note["messages"]}
        self._transcripts.append(shown)
        if self._run.tracker is not None:
            self._run.tracker.table(note.get("batch", note.get("version", 0)), "transcripts", *_as_table(shown))
        del self._transcripts[:-_TRANSCRIPTS]

    def _lanes(self) -> list[dict[str, Any]]:
        lanes = [
            {
                "name": "learner",
                "kind": "learner",
                "spans": [self._from_start(*span) for span in self._learner[-_SPANS:]],
            }
        ]
        for name, told in sorted(self._crew.spans.items()):
            spans = [self._from_start(start, end - start, what) for start, end, what in told]
            lanes.append({"name": name, "kind": name.partition("-")[0], "spans": spans[-_SPANS:]})
        return lanes

    def _from_start(self, start: float, seconds: float, what: str) -> list[Any]:
        return [round(start - self._began, 4), round(seconds, 4), what]

    def _shares(self) -> list[dict[str, Any]]:
        learner: dict[str, float] = {}
        for _, seconds, what in self._learner:
            learner[what] = learner.get(what, 0.0) + seconds
        shares: list[dict[str, Any]] = [{"who": "learner", "kind": "learner", "seconds": learner}]
        for name, status in sorted(self._crew.statuses.items()):
            shares.append({"who": name, "kind": name.partition("-")[0], "seconds": dict(status["seconds"])})
        return shares

    def _stages(self) -> list[dict[str, Any]]:
        starts = [0, *(stage.until_batch or 0 for stage in self._grpo.stages)]
        return [
            {"name": stage.name, "from_step": start * self._grpo.minibatches}
            for stage, start in zip(self._grpo.stages, starts, strict=False)
        ]

    def _incident(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "seconds": round(found["time"] - self._began, 2),
            "who": found["worker"],
            "what": "died",
            "detail": f"{found['reason']}; it had lived {found['lived_s']} s",
        }


def _as_table(transcript: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """A transcript as a row for Weights & Biases."""
    said = "\n".join(f"{message['role']}: {message['content']}" for message in transcript["messages"])
    names = ["purpose", "finish", "reward", "response"]
    return ["prompt", *names], [[said, *(transcript[name] for name in names)]]
