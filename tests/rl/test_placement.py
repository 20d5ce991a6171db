"""What engines and learner reserve, and the placement group of the engines on a cluster with made-up GPUs."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from rl.grpo_cases import CONFIG
from tatara import config
from tatara.errors import ClusterError, ConfigError
from tatara.rl.grpo import GrpoConfig
from tatara.rl.placement import ENGINE_SHARE, LEARNER_SHARE, engine_places, place, transport

SHARED = {"rollout.colocate": True, "staleness": 0, "rollout.engines": 2, "num_workers": 2}


def chosen(**changes: Any) -> GrpoConfig:
    return config.load(GrpoConfig, CONFIG, changes)


@pytest.mark.parametrize(
    ("changes", "gpus", "engine", "learner"),
    [
        ({}, 0, {"CPU": 0.5}, None),
        ({}, 8, {"CPU": 0.5, "GPU": 1.0}, None),
        ({"rollout.engine.vllm_args": {"tensor_parallel_size": 4}}, 8, {"CPU": 0.5, "GPU": 4.0}, None),
        ({"rollout.gpus": 0}, 8, {"CPU": 0.5}, None),
        ({"rollout.gpus": 0.25, "rollout.cpus": 0}, 1, {"GPU": 0.25}, None),
        ({"rollout.cpus": 0}, 0, {}, None),
        (SHARED, 2, {"CPU": 0.5, "GPU": ENGINE_SHARE}, LEARNER_SHARE),
        (SHARED, 0, {"CPU": 0.5}, None),
    ],
    ids=["cpu", "gpu", "sharded", "gpus-for-the-learner", "fraction", "nothing", "shared", "shared-cpu"],
)
def test_what_is_reserved(
    changes: dict[str, Any], gpus: float, engine: dict[str, float], learner: float | None
) -> None:
    placed = place(chosen(**changes, reward_workers=3), gpus)
    assert (placed.engine, placed.learner_gpus, placed.cuda) == (engine, learner, "GPU" in engine)
    assert placed.all() == [engine] * placed.engines + [{"CPU": 0.1}] * 3


def test_a_gpu_holds_one_engine_and_one_rank() -> None:
    assert LEARNER_SHARE > 0.5 > ENGINE_SHARE
    assert LEARNER_SHARE + ENGINE_SHARE == 1


def test_engines_that_share_gpus_sleep_and_take_their_share_of_memory() -> None:
    def told(gpus: float, **changes: Any) -> tuple[bool, dict[str, Any]]:
        placed = place(chosen(**changes), gpus)
        return placed.sleep, placed.settings["vllm_args"]

    assert told(2, **SHARED) == (True, {"enable_sleep_mode": True, "gpu_memory_utilization": 0.4})
    given = {"rollout.engine.vllm_args": {"gpu_memory_utilization": 0.3, "seed": 3}}
    expected = {"enable_sleep_mode": True, "gpu_memory_utilization": 0.3, "seed": 3}
    assert told(2, **SHARED, **given) == (True, expected)
    assert told(0, **SHARED) == (True, {})
    assert told(2, **{"rollout.gpus": 0.5}) == (False, {"gpu_memory_utilization": 0.45})
    assert told(2, **{"rollout.sleep": True}) == (True, {"enable_sleep_mode": True})
    assert told(2) == (False, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"staleness": 1}, "needs staleness=0, not 1"),
        ({"rollout.engines": 3}, "rollout.engines=3 and num_workers=2 must be equal"),
        ({"rollout.gpus": 0.3}, "leave out rollout.gpus"),
        ({"gpus_per_worker": 1}, "leave out rollout.gpus and gpus_per_worker"),
        ({"rollout.engine.vllm_args": {"tensor_parallel_size": 2}}, "leave out tensor_parallel_size"),
        ({"sync.transport": "broadcast"}, "NCCL takes no GPU twice"),
    ],
    ids=["staleness", "engines", "gpus", "learner-gpus", "sharded", "broadcast"],
)
def test_what_cannot_share_gpus_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(**(SHARED | changes))


@pytest.mark.parametrize(
    ("changes", "gpus", "learner_cuda", "expected"),
    [
        ({}, 0, False, "objects"),
        ({}, 8, True, "nccl"),
        ({}, 8, False, "objects"),
        ({"rollout.gpus": 0}, 8, True, "objects"),
        ({"sync.transport": "broadcast"}, 0, False, "gloo"),
        ({"sync.transport": "broadcast"}, 8, True, "nccl"),
        ({"sync.transport": "broadcast", "rollout.gpus": 0}, 8, True, "gloo"),
        ({"sync.transport": "objects"}, 8, True, "objects"),
        ({"rollout.gpus": 0.5}, 8, True, "objects"),
        ({"rollout.engine.vllm_args": {"tensor_parallel_size": 2}}, 8, True, "objects"),
        (SHARED, 2, True, "objects"),
    ],
)
def test_the_way_of_weights(changes: dict[str, Any], gpus: float, learner_cuda: bool, expected: str) -> None:
    made = chosen(**changes)
    assert transport(made, place(made, gpus), learner_cuda) == expected


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Two GPUs that are only counted, and CPUs."""
    import ray

    from tatara import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')
        cluster.connect(address="local", num_cpus=4)
    yield ray
    cluster.disconnect()


def start(ray: Any, **options: Any) -> Any:
    """An actor that sits where it was put."""

    class Holder:
        def gpus(self) -> list[int]:
            return [int(number) for number in ray.get_gpu_ids()]

        def pid(self) -> int:
            return os.getpid()

    return ray.remote(Holder).options(num_cpus=0, **options).remote()


def groups(ray: Any) -> list[str]:
    """Placement groups that hold something."""
    return [name for name, each in ray.util.placement_group_table().items() if each["state"] != "REMOVED"]


def ended(ray: Any, actor: Any) -> None:
    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.pid.remote(), timeout=100)


@pytest.mark.ray
def test_each_gpu_gets_an_engine_and_a_rank_and_the_engines_keep_their_places(ray: Any) -> None:
    placed = place(chosen(**SHARED), 2)
    with engine_places(placed) as places:
        engines = [start(ray, num_gpus=ENGINE_SHARE, **places(number)) for number in range(2)]
        where = ray.get([each.gpus.remote() for each in engines], timeout=100)
        assert sorted(where) == [[0], [1]]
        # An engine dies, and its place is nobody else's, whoever comes first.
        ended(ray, engines[1])
        ranks = [start(ray, num_gpus=LEARNER_SHARE) for _ in range(2)]
        assert sorted(ray.get([each.gpus.remote() for each in ranks], timeout=100)) == [[0], [1]]
        again = start(ray, num_gpus=ENGINE_SHARE, **places(1))
        assert ray.get(again.gpus.remote(), timeout=100) == where[1]
        assert len(groups(ray)) == 1
        for each in (*ranks, again, engines[0]):
            ray.kill(each)
    assert groups(ray) == []


@pytest.mark.ray
def test_no_placement_group_stays_behind(ray: Any) -> None:
    def run_that_fails() -> None:
        with engine_places(place(chosen(**{"rollout.engines": 3}), 0)) as places:
            held = start(ray, **places(2))
            assert ray.get(held.gpus.remote(), timeout=100) == []
            (name,) = groups(ray)
            assert len(ray.util.placement_group_table()[name]["bundles"]) == 3
            raise KeyError

    # Bundles of CPUs alone.
    with pytest.raises(KeyError):
        run_that_fails()
    assert groups(ray) == []
    with (
        pytest.raises(ClusterError, match=r"waited 1 s for 3 x \{CPU: 0.5, GPU: 1\}, which are not free"),
        engine_places(place(chosen(**{"rollout.engines": 3, "rollout.strategy": "SPREAD"}), 2), timeout_s=1.0),
    ):
        pass
    assert groups(ray) == []
    with engine_places(place(chosen(**{"rollout.cpus": 0}), 0)) as places:
        assert places(0) == {}
        assert groups(ray) == []
