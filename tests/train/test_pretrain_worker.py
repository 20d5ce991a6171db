"""Whole runs of the worker on gloo ranks, without Ray: phases, guard, resume in other layouts, memory."""

import json
from pathlib import Path

import pytest

from model.ranks import run_ranks
from tatara.artifact import Draft, Store
from train import worker_cases as cases
from train.tokens_cases import write_tokens


def artifact(root: Path, name: str, **options: int) -> str:
    """The URL of a tokens artifact."""
    attempt = Store(root).begin(Draft(kind="tokens", name=name, version=1, stage="tokenize", fingerprint=name[0] * 64))
    write_tokens(attempt.path, **options)
    return attempt.commit({}, 1.0).url


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("worker")
    return {
        "tokens": artifact(root, "tokens"),
        "other": artifact(root, "other", seed=5),
        "noise": artifact(root, "noise", noise=True),
        "long": artifact(root, "long", sequence_length=128),
    }


def run(work, sources, names=("tokens",), world=2, stop_after=None, address_space=None, initial=None, **settings):
    """Train; returns what ended it, and the losses by step."""
    given = cases.task(str(work), {name: sources[name] for name in names}, initial, **{"num_workers": world} | settings)
    (ended, *others) = run_ranks(world, cases.train, given, stop_after, address_space)
    assert set(others) <= {ended}
    return ended, cases.losses(str(work))


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    ended, losses = run(tmp_path_factory.mktemp("undisturbed"), sources)
    assert ended == "done"
    assert len(losses) == 24
    return losses


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({}, {"layout.tp": 2}),
        ({"layout.pp": 2}, {}),
        ({"layout.cp": 2}, {"layout.pp": 2, "layout.virtual_stages": 2}),
        ({"layout.tp": 2, "layout.sequence_parallel": True}, {"world": 1}),
    ],
    ids=["same", "dp2 to tp2", "pp2 to dp2", "cp2 to interleaved pp2", "tp2 to one rank"],
)
def test_a_run_that_was_cut_off_goes_on_in_any_layout(sources, undisturbed, tmp_path, before, after):
    assert run(tmp_path, sources, stop_after=15, **before)[0] == "stopped"
    ended, losses = run(tmp_path, sources, **after)
    assert ended == "done"
    if before == after:
        assert losses == undisturbed
    else:
        assert losses == pytest.approx(undisturbed, rel=1e-5)
    resumed = [event["step"] for event in cases.events(str(tmp_path)) if event["kind"] == "resumed"]
    assert resumed == [12]


PHASES = [{"from_step": 0, "weights": {"tokens": 1.0}}]


def test_a_later_phase_leaves_what_came_before_untouched(sources, undisturbed, tmp_path):
    mixed = [*PHASES, {"from_step": 10, "weights": {"tokens": 0.5, "other": 0.5}, "global_batch_size": 16}]
    ended, losses = run(tmp_path, sources, ("tokens", "other"), phases=mixed)
    assert ended == "done"
    first = {step: loss for step, loss in losses.items() if step <= 10}
    # A source of another name or number has an order of its own, so the run with one source is no reference.
    alone = [*PHASES, {"from_step": 20, "weights": {"other": 1.0}}]
    _, reference = run(tmp_path / "reference", sources, ("tokens", "other"), phases=alone)
    assert first == {step: loss for step, loss in reference.items() if step <= 10}
    assert losses[11] != reference[11]
    sizes = {event["step"]: event["tokens"] for event in cases.events(str(tmp_path)) if event["kind"] == "step"}
    assert sizes[12] > 1.5 * sizes[9]
    validation = [event for event in cases.events(str(tmp_path)) if event["kind"] == "validation"]
    assert {"validation_loss", "validation_loss.tokens", "validation_loss.other"} <= validation[0].keys()


def test_a_phase_of_longer_sequences_changes_the_rotary_settings(sources, tmp_path):
    longer = {"from_step": 12, "weights": {"long": 1.0}, "rope_theta": 5e5, "max_position_embeddings": 128}
    settings = {"phases": [*PHASES, longer], "model.max_position_embeddings": 64}
    ended, losses = run(tmp_path, sources, ("tokens", "long"), **settings)
    assert ended == "done"
    manifest = json.loads(sorted((tmp_path / "checkpoints").glob("step-*/manifest.json"))[-1].read_text())
    assert (manifest["model"]["rope_theta"], manifest["model"]["max_position_embeddings"]) == (5e5, 128)
    # Killed within the second phase: it comes back with its settings.
    again = tmp_path / "again"
    assert run(again, sources, ("tokens", "long"), stop_after=20, **settings)[0] == "stopped"
    assert run(again, sources, ("tokens", "long"), **settings) == ("done", losses)


def spiked(policy, **guard):
    """Noise from step 16 to 18."""
    phases = [
        *PHASES,
        {"from_step": 16, "weights": {"noise": 1.0}},
        {"from_step": 18, "weights": {"tokens": 1.0}},
    ]
    chosen = {"spikes": policy, "window": 8, "threshold": 6.0, **guard}
    return {"phases": phases, "guard": chosen, "steps": 40, "schedule.warmup_steps": 2, "optimizer.learning_rate": 3e-3}


def guarded(work):
    return [event for event in cases.events(str(work)) if event["kind"] == "guard"]


@pytest.mark.slow
def test_a_spike_is_skipped_and_the_weights_do_not_see_it(sources, tmp_path):
    ended, losses = run(tmp_path, sources, ("tokens", "noise"), **spiked("skip", patience=5))
    assert ended == "done"
    actions = guarded(tmp_path)
    assert [(event["action"], event["step"]) for event in actions] == [("skip", 17), ("skip", 18)]
    assert all(event["positions"][1] - event["positions"][0] == 8 for event in actions)
    assert losses[17] > losses[16] + 1
    assert losses[19] < losses[16] + 0.3


@pytest.mark.slow
def test_a_roll_back_goes_on_with_the_data_after_the_spike_also_after_a_kill(sources, tmp_path):
    settings = spiked("rollback", patience=2)
    ended, losses = run(tmp_path / "whole", sources, ("tokens", "noise"), **settings)
    assert ended == "done"
    actions = guarded(tmp_path / "whole")
    assert [event["action"] for event in actions] == ["skip", "rollback"]
    # Back to the checkpoint of step 12, and on with the data of step 18.
    steps = [event["step"] for event in cases.events(str(tmp_path / "whole")) if event["kind"] == "step"]
    assert steps == [*range(1, 18), *range(13, 41)]
    manifest = json.loads(sorted((tmp_path / "whole" / "checkpoints").glob("step-*/manifest.json"))[-1].read_text())
    assert manifest["skips"] == [{"at_step": 12, "steps": 6}]
    # Killed when it was about to take the last but one step before the spike, and once more after the roll-back.
    work = tmp_path / "killed"
    given = cases.task(str(work), {name: sources[name] for name in ("tokens", "noise")}, **settings)
    assert run_ranks(2, cases.train, given, 16) == ["stopped"] * 2
    assert run_ranks(2, cases.train, given, 20) == ["stopped"] * 2
    assert run_ranks(2, cases.train, given) == ["done"] * 2
    assert cases.losses(str(work)) == losses


def test_out_of_memory_names_the_place_the_layout_and_a_way_out(sources, tmp_path):
    ended, _ = run(
        tmp_path, sources, world=1, address_space=7 << 30, micro_batch_size=1024, global_batch_size=1024,
        **{"model.hidden_size": 512, "model.num_layers": 8, "validation_sequences": 0},
    )  # fmt: skip
    assert ended.startswith("EngineError: out of memory at step 1 in ")
    assert "tp 1 pp 1 cp 1 ep 1 dp 1" in ended
    assert "\n" not in ended


def test_weights_that_are_not_numbers_are_named(sources, tmp_path):
    given = cases.task(str(tmp_path), {"tokens": sources["tokens"]}, num_workers=1)
    (ended,) = run_ranks(1, cases.train, given, None, None, 3)
    assert ended.startswith("TrainingError: the loss at step 6 is nan")
    assert "lower optimizer.learning_rate" in ended
    assert ended.endswith("(1 weights are not finite, such as decoder.layers.1.mlp.linear_fc1.weight)")
    assert [event["action"] for event in guarded(tmp_path)] == ["skip", "skip", "stop"]
