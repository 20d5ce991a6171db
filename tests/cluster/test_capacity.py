"""What can never fit fails at once with both lists; what can come is waited for."""

import threading

import pytest

from ray_head import ray_head
from tatara import cluster
from tatara.cluster import capacity
from tatara.cluster.capacity import Growth, declared_growth
from tatara.cluster.packing import NodeType
from tatara.errors import ClusterError

CONFIG = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 8}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 32, "GPU": 8}, "min_workers": 0, "max_workers": 4},
        "cpu": {"resources": {"CPU": 64}},
    },
}


def test_growth_is_what_the_configuration_leaves_after_the_nodes_present():
    growth = declared_growth(CONFIG, {"head": 1, "gpu": 3})
    kinds = (NodeType("gpu", {"CPU": 32.0, "GPU": 8.0}, 1), NodeType("cpu", {"CPU": 64.0}, 5))
    assert growth == Growth(True, kinds, 2)
    assert declared_growth(CONFIG, {"gpu": 4, "cpu": 3}).most_new == 0
    assert declared_growth({}, {}) == Growth(True, (), 0)


@pytest.mark.ray
def test_private_cluster_refuses_what_can_never_fit_and_waits_for_what_is_taken(disconnected):
    cluster.connect(num_cpus=2)
    import ray

    cluster.ensure_fits([{"CPU": 1}, {"CPU": 1}], "pretrain")
    cluster.ensure_fits([], "nothing")
    with pytest.raises(ClusterError) as caught:
        cluster.ensure_fits([{"CPU": 1, "GPU": 1}] * 2, "pretrain (2 workers)")
    line = str(caught.value)
    assert line.startswith("pretrain (2 workers) can never start: no node holds {CPU: 1, GPU: 1}. ")
    assert "Asked: 2 x {CPU: 1, GPU: 1}. There is: 1 node with 2 CPU, " in line
    assert line.endswith("it does not grow")

    @ray.remote(num_cpus=1.5)
    class Hold:
        def ready(self) -> bool:
            return True

    hold = Hold.remote()
    ray.get(hold.ready.remote())
    said: list[str] = []
    with pytest.raises(ClusterError, match=r"serve waited 1 s for 1 x {CPU: 1}; free are .* ask for less"):
        cluster.ensure_fits([{"CPU": 1}], "serve", timeout_s=1, log=said.append)
    assert said[0].startswith("serve waits for 1 x {CPU: 1}: free are 1 node with 0.5 CPU")
    timer = threading.Timer(2, lambda: ray.kill(hold))
    timer.start()
    cluster.ensure_fits([{"CPU": 1}], "serve", timeout_s=60)
    timer.join()


@pytest.mark.ray
def test_a_plain_head_does_not_grow(disconnected):
    """Every head runs a monitor process; without node types to add it is no autoscaler."""
    with ray_head(1, dashboard=False) as head:
        cluster.connect(head.address)
        assert capacity.find_growth() == Growth(False)
        with pytest.raises(ClusterError, match=r"2 CPU asked for in all, at most 1 possible\. .*it does not grow"):
            cluster.ensure_fits([{"CPU": 1}] * 2, "train")
        cluster.disconnect()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_autoscaling_cluster(disconnected, monkeypatch):
    """One cluster for all of it, since it takes long to start: node types known, then only the autoscaler's verdict."""
    small = {"resources": {"CPU": 1, "object_store_memory": 200 << 20}, "max_workers": 2}
    with ray_head(0, dashboard=False, node_types={"small": small}) as head:
        cluster.connect(head.address)
        growth = capacity.find_growth()
        assert growth.automatic
        assert [(kind.name, kind.more) for kind in growth.node_types] == [("small", 2)]
        with pytest.raises(ClusterError, match=r"no node holds {CPU: 2}\. .* can add 2 more 'small' nodes with 1 CPU$"):
            cluster.ensure_fits([{"CPU": 2}], "train")
        with pytest.raises(ClusterError, match="3 CPU asked for in all, at most 2 possible"):
            cluster.ensure_fits([{"CPU": 1}] * 3, "train")

        # As on Kubernetes, where the configuration cannot be read.
        with monkeypatch.context() as patch:
            patch.setattr(capacity, "find_growth", lambda: Growth(capacity._autoscaler_reports()))
            with pytest.raises(ClusterError, match=r"Asked: 3 x {CPU: 1}\. .*its autoscaler says it cannot add enough"):
                cluster.ensure_fits([{"CPU": 1}] * 3, "train", timeout_s=150)

        said: list[str] = []
        cluster.ensure_fits([{"CPU": 1}] * 2, "train", timeout_s=300, log=said.append)
        assert "the autoscaler is adding nodes" in said[0]
        assert cluster.view().total("CPU") == 2
        cluster.disconnect()
