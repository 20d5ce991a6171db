"""Attach to a cluster that already runs."""

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

from tatara.cluster import authentication
from tatara.cluster.session import Session, first_line, set_environment, source_root
from tatara.errors import ClusterError

_PROBE_SECONDS = 5.0
# Set by Ray in the driver of a submitted job: the job's own runtime environment, as JSON.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# What a driver outside the cluster hands to its workers; never a secret, since every cluster user can read it.
_PASSED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


def attach(address: str, *, listening: bool) -> Session:
    """Connect to the cluster whose head is at ``HOST:PORT`` (or ``auto``).

    Args:
        address: Where the head listens.
        listening: Whether workers' output comes to this process.

    Raises:
        ClusterError: Nothing answers, another version does, or it refuses our token.
    """
    import ray

    if "://" in address:
        raise ClusterError(
            f"cannot attach to {address}: give HOST:PORT of the Ray head (default port 6379); "
            "a dashboard address (http://HOST:8265) is for submitting jobs"
        )
    before = set_environment({"RAY_USAGE_STATS_ENABLED": "0", **authentication.attach_settings()})
    try:
        authentication.reload()
        if address != "auto":
            probe(address)
        ray.init(
            address=address,
            log_to_driver=listening,
            logging_level=logging.WARNING,
            namespace="tatara",
            runtime_env=runtime_environment(),
        )
    except Exception as error:
        ray.shutdown()
        set_environment(before)
        if isinstance(error, ClusterError):
            raise
        raise ClusterError(_explain(address, error)) from error
    return Session(False, before)


def probe(address: str) -> None:
    """Ask the head at ``HOST:PORT`` for its version, within seconds.

    Raises:
        ClusterError: Nothing answers, something other than Ray answers, or another version does.
    """
    import grpc
    import ray
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"{address!r} is not a Ray address: give HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(f"no Ray cluster answers at {address} ({reason}): check the address, or start one") from None
    channel = create_gcs_channel(address)
    try:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        reply = stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=_PROBE_SECONDS)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise ClusterError(authentication.refusal(address)) from None
        raise ClusterError(
            f"what listens at {address} is not the head of a Ray cluster ({error.code().name.lower()}): "
            "the head's own port (default 6379) is needed, not the dashboard's"
        ) from None
    finally:
        channel.close()
    if reply.ray_version != ray.__version__:
        raise ClusterError(
            f"the cluster at {address} runs Ray {reply.ray_version}, this is Ray {ray.__version__}: install the same"
        )


def runtime_environment() -> dict[str, Any]:
    """What workers of a cluster that we attach to need beyond what its nodes and the job bring."""
    config = json.loads(os.environ.get(_JOB_CONFIG) or "{}")
    job = config.get("runtime_env") or {}
    given: dict[str, str] = job.get("env_vars") or {}
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ and name not in given}
    environment: dict[str, Any] = {}
    root = source_root()
    if root is not None and _JOB_CONFIG not in os.environ:
        # Nodes of a real cluster do not see this directory, so the package travels.
        environment["py_modules"] = [str(root / "tatara")]
        environment["excludes"] = ["**/__pycache__"]
    elif root is not None and "PYTHONPATH" not in given and not job.get("py_modules"):
        # In a job: every node unpacks the working directory at a place of its own, hence the relative path.
        here = Path.cwd().resolve()
        inside = job.get("working_dir") and root.is_relative_to(here)
        variables["PYTHONPATH"] = str(root.relative_to(here) if inside else root)
    if variables:
        environment["env_vars"] = variables
    return environment


def _explain(address: str, error: Exception) -> str:
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return authentication.refusal(address)
    if address == "auto":
        return "no Ray cluster runs on this machine: give its address, or none to start a private one"
    return f"cannot attach to the Ray cluster at {address}: {first_line(error)}"
