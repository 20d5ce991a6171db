"""Loops of published models: arithmetic done once more by hand, splits of devices, and errors that name the way out."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tatara.errors import ConfigError, LayoutError
from tatara.model.presets import preset
from tatara.rl.simulation.accelerators import Workload
from tatara.rl.simulation.loop import Lengths
from tatara.rl.simulation.plots import curves_svg, write_plots
from tatara.rl.simulation.sweep import best_split, splits, sweep
from tatara.train.planner.hardware import find_hardware


def work(**changed: Any) -> Workload:
    """An 8B model with short responses, so that batches are quickly simulated."""
    settings: dict[str, Any] = {"spec": preset("llama3-8b"), "hardware": find_hardware("h100"),
                                "lengths": Lengths(512, 1.0, 2048), "group_size": 4}  # fmt: skip
    return Workload(**{**settings, **changed})


def test_the_step_of_an_engine_is_what_it_reads_and_computes() -> None:
    made = work(lengths=Lengths(2000, 0.0), prompt_tokens=500.0)
    curve, parameters = made.engine_curve(), preset("llama3-8b").parameter_count()
    bandwidth = 3350e9 * 0.8
    assert curve.start == pytest.approx(2 * parameters / bandwidth + 2e-3)
    # 32 layers, 8 heads of 128 for keys and values, 2 bytes; half of a response is there on average.
    cache = 2 * 2 * 32 * 8 * 128
    assert curve.each == pytest.approx(1500 * cache / bandwidth + 2 * parameters / (989e12 * 0.8 * 0.8))
    assert made.concurrency() == min(256, int((0.9 * 80 * 2**30 - 2 * parameters) / (1500 * cache)))
    assert made.smallest_learner == 4
    assert work(tp=2).engine_curve().start < curve.start


def test_the_learner_and_the_sync_follow_the_hardware() -> None:
    made = work()
    small, large = made.learner_curve(8), made.learner_curve(16)
    assert small.per_token == pytest.approx(2 * large.per_token)
    assert small.per_token == pytest.approx(6 * preset("llama3-8b").parameter_count() / (8 * 989e12 * 0.35), rel=0.2)
    assert made.sync_seconds(8) < made.sync_seconds(16) == pytest.approx(16.06e9 / (50e9 * 0.8), rel=0.01)


def test_splits_leave_the_learner_enough() -> None:
    assert splits(work(), 8) == [(1, 7), (2, 6), (3, 5), (4, 4)]
    assert splits(work(tp=4), 16) == [(4, 12), (8, 8), (12, 4)]
    assert len(splits(work(), 1024)) == 15
    assert splits(work(colocated=True), 8) == [(8, 8)]
    with pytest.raises(LayoutError, match="take 5 or more"):
        splits(work(), 4)
    with pytest.raises(LayoutError, match="raise --tp"):
        work(spec=preset("llama3-70b")).concurrency()


def test_the_best_split_beats_its_neighbours_and_staleness_pays() -> None:
    made = work()
    points = sweep(made, [16], [0, 1], batches=8)
    assert [point.staleness for point in points] == [0, 1]
    assert points[1].outcome.batches_per_second > points[0].outcome.batches_per_second
    assert (points[0].rollout_devices, points[0].learner_devices) == best_split(made, 16, 0)
    shared = sweep(work(colocated=True), [16], [0], batches=8)[0]
    assert shared.rollout_devices == shared.learner_devices == 16


def test_curves_are_drawings(tmp_path: Path) -> None:
    points = sweep(work(), [8, 16], [0, 1], batches=2)
    for path in write_plots(points, tmp_path / "plots"):
        root = ElementTree.fromstring(path.read_text())
        found = root.findall(".//{*}path")
        assert len(found) == 2
        assert all(len(re.findall(r"[\d.]+ [\d.]+", line.get("d") or "")) == 2 for line in found)
        assert "staleness 1" in "".join(root.itertext())
    assert "from 8 to 16 devices" in curves_svg(points, "speed")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_plots(points, tmp_path / "file" / "below")
