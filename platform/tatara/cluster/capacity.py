"""Compare what is asked with what the cluster has or can grow to, before anything waits for it."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tatara.cluster.packing import (
    Bundle,
    Node,
    NodeType,
    describe_bundles,
    describe_growth,
    describe_nodes,
    fits,
)
from tatara.errors import ClusterError

_POLL_SECONDS = 0.5
_REPEAT_SECONDS = 15.0
_ASK_SECONDS = 60.0
"""How long the head may take to start a worker that says what its autoscaler was started with."""


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may add to the cluster."""

    automatic: bool
    """Whether an autoscaler runs."""
    node_types: tuple[NodeType, ...] = ()
    """Its node types; empty with an autoscaler means that it does not tell."""
    most_new: int | None = None
    """How many nodes may come over all types; None: no limit."""


def ensure_fits(
    bundles: Sequence[Bundle],
    what: str,
    *,
    timeout_s: float = 600.0,
    log: Callable[[str], None] | None = None,
) -> None:
    """Return once the cluster has room for what is asked; say what it waits for, and fail soon if it never comes.

    An autoscaling cluster grows meanwhile. Nothing is held afterwards: the caller asks Ray for the same next.

    Args:
        bundles: One mapping of resource to amount per worker or actor; each must fit on one node.
        what: Who asks, for the messages: ``pretrain (2 workers)``.
        timeout_s: How long to wait for room that can come, in seconds.
        log: Receives a line when waiting starts, changes and goes on.

    Raises:
        ClusterError: The request can never fit, with what is asked, what there is and what can come; or the room
            did not come in time.
    """
    nodes = alive_nodes()
    if fits(bundles, _free(nodes)) is None:
        return
    growth = find_growth()
    blind = growth.automatic and not growth.node_types
    reason = fits(bundles, nodes, growth.node_types, growth.most_new)
    if reason is not None and not blind:
        raise ClusterError(_never(what, bundles, nodes, growth, reason))
    _Wait(bundles, what, timeout_s, log or (lambda line: None), growth).run()


def alive_nodes() -> tuple[Node, ...]:
    """The nodes of the connected cluster, with what is free on each."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return tuple(
        Node(node["NodeManagerAddress"], dict(node["Resources"]), dict(free.get(node["NodeID"], {}))) for node in alive
    )


def find_growth() -> Growth:
    """Ask the cluster what its autoscaler may add.

    Ray has one place for this (the cluster configuration in the head's store), which the open-source autoscaler
    does not fill; so the head is asked for the configuration that its autoscaler was started with. On Kubernetes the
    autoscaler runs beside the head and tells neither: then only its verdict on a request is known.
    """
    from ray._private import worker
    from ray._private.state import state

    if worker._global_node is not None and worker._global_node.is_head():
        return Growth(False)  # A private cluster, which this process started.
    config = state.get_cluster_config()
    present = _present_by_type()
    if config is not None and config.node_group_configs:
        kinds = tuple(
            NodeType(
                group.name,
                {name: float(amount) for name, amount in group.resources.items()},
                None if group.max_count < 0 else max(0, group.max_count - present[group.name]),
            )
            for group in config.node_group_configs
        )
        return Growth(any(kind.more != 0 for kind in kinds), kinds)
    found = _ask_head()
    if found is None:
        return Growth(_autoscaler_reports())
    return declared_growth(found, present) if found else Growth(False)


def declared_growth(config: Mapping[str, Any], present: Mapping[str, int]) -> Growth:
    """What an autoscaler with this configuration (``ray up`` YAML) may add to the nodes present, by type."""
    head = config.get("head_node_type")
    kinds = []
    for name, kind in (config.get("available_node_types") or {}).items():
        if name != head:
            limit = kind.get("max_workers", config.get("max_workers", 0))
            resources = {resource: float(amount) for resource, amount in (kind.get("resources") or {}).items()}
            kinds.append(NodeType(name, resources, max(0, int(limit) - present.get(name, 0))))
    workers = sum(count for name, count in present.items() if name and name != head)
    return Growth(True, tuple(kinds), max(0, int(config.get("max_workers", 0)) - workers))


def _never(what: str, bundles: Sequence[Bundle], nodes: Sequence[Node], growth: Growth, reason: str) -> str:
    grow = "the autoscaler can add " + describe_growth(growth.node_types, growth.most_new) if growth.node_types else ""
    if not grow:
        grow = "its autoscaler says it cannot add enough" if growth.automatic else "it does not grow"
    return (
        f"{what} can never start: {reason}. "
        f"Asked: {describe_bundles(bundles)}. There is: {describe_nodes(nodes)}; {grow}"
    )


def _free(nodes: Sequence[Node]) -> list[Node]:
    return [Node(node.name, node.available, node.available) for node in nodes]


def _present_by_type() -> Counter[str]:
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    client = ray._private.worker.global_worker.gcs_client
    dead = 2
    return Counter(
        node.ray_node_type_name for node in get_cluster_resource_state(client).node_states if node.status != dead
    )


def _autoscaling_state() -> Any:
    import ray
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    client = ray._private.worker.global_worker.gcs_client
    reply = GetClusterStatusReply()
    reply.ParseFromString(client.get_cluster_status(timeout_s=10))
    return reply.autoscaling_state


def _autoscaler_reports() -> bool:
    return bool(_autoscaling_state().autoscaler_state_version > 0)


def _ask_head() -> dict[str, Any] | None:
    """The autoscaler's configuration on the head; empty if it runs without one, None if it does not run there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]]
    if not heads:
        return None
    pinned = NodeAffinitySchedulingStrategy(heads[0]["NodeID"], soft=False)
    task = ray.remote(_read_autoscaler_config).options(num_cpus=0, max_retries=1, scheduling_strategy=pinned)
    reference = task.remote()
    try:
        answer: dict[str, Any] | None = ray.get(reference, timeout=_ASK_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        return None
    return answer


def _read_autoscaler_config() -> dict[str, Any] | None:
    """Runs on the head: find the monitor process of this node's session and read what it was started with."""
    import psutil
    import ray
    import yaml

    address = ray.get_runtime_context().gcs_address
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if not any(part.endswith("monitor.py") for part in command) or f"--gcs-address={address}" not in command:
            continue
        for part in command:
            if part.startswith("--autoscaling-config="):
                loaded: dict[str, Any] = yaml.safe_load(Path(part.split("=", 1)[1]).read_text(encoding="utf-8"))
                return loaded
        return {}
    return None


class _Wait:
    """Waiting for room that is taken now, or that an autoscaler brings."""

    def __init__(
        self, bundles: Sequence[Bundle], what: str, timeout_s: float, log: Callable[[str], None], growth: Growth
    ) -> None:
        self._bundles = [{name: value for name, value in bundle.items() if value} for bundle in bundles]
        self._what, self._timeout_s, self._log, self._growth = what, timeout_s, log, growth
        self._last_line, self._last_time = "", 0.0

    def run(self) -> None:
        from ray.util import placement_group, remove_placement_group

        deadline = time.monotonic() + self._timeout_s
        # A pending placement group is what makes an autoscaler start nodes, and what it judges.
        group = placement_group(self._bundles, strategy="PACK") if self._growth.automatic else None
        try:
            while not self._has_room(group):
                nodes = alive_nodes()
                self._show(nodes)
                if group is not None and _is_refused(self._bundles):
                    reason = "the autoscaler has no nodes for it"
                    raise ClusterError(_never(self._what, self._bundles, nodes, self._growth, reason))
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{self._what} waited {self._timeout_s:.0f} s for {describe_bundles(self._bundles)}; "
                        f"free are {describe_nodes(nodes, free=True)}: stop what else runs, or ask for less"
                    )
                time.sleep(_POLL_SECONDS)
        finally:
            if group is not None:
                remove_placement_group(group)

    def _has_room(self, group: Any) -> bool:
        if group is not None:
            # With 0 the question itself runs out of time before the head can answer.
            return bool(group.wait(timeout_seconds=1))
        return fits(self._bundles, _free(alive_nodes())) is None

    def _show(self, nodes: Sequence[Node]) -> None:
        coming = "" if not self._growth.automatic else "; the autoscaler is adding nodes"
        line = (
            f"{self._what} waits for {describe_bundles(self._bundles)}: "
            f"free are {describe_nodes(nodes, free=True)}{coming}"
        )
        now = time.monotonic()
        if line != self._last_line or now - self._last_time > _REPEAT_SECONDS:
            self._last_line, self._last_time = line, now
            self._log(line)


def _is_refused(bundles: Sequence[Bundle]) -> bool:
    """Whether the autoscaler has called a request with these bundles infeasible."""
    wanted = Counter(_key(bundle) for bundle in bundles)
    for gang in _autoscaling_state().infeasible_gang_resource_requests:
        requests = [request for selector in gang.bundle_selectors for request in selector.resource_requests]
        for group in (requests, list(gang.requests)):
            if Counter(_key(request.resources_bundle) for request in group) == wanted:
                return True
    return False


def _key(bundle: Bundle) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, round(float(value), 4)) for name, value in bundle.items() if value))
