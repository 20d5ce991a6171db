"""Put a model behind HTTP with Ray Serve, and take it down again."""

import errno
import json
import logging
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tatara import cluster
from tatara.artifact import Artifact
from tatara.chat.template import JINJA
from tatara.engine.model_directory import check_model_directory
from tatara.errors import EngineError
from tatara.serve.config import ServeConfig

APPLICATION = "tatara"
POLL_SECONDS = 0.1
CONNECT_SECONDS = 1.0
SHUTDOWN_SECONDS = 30.0
REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class Endpoint:
    """A model that answers over HTTP.

    Attributes:
        url: Root of the server, such as ``http://127.0.0.1:8000``; the OpenAI API is below ``/v1``.
        model: Name to ask for.
        start_seconds: From the call until every replica was ready, in seconds.
        chat: Whether the model has a chat template.
    """

    url: str
    model: str
    start_seconds: float
    chat: bool = False

    def curl(self, prompt: str) -> str:
        """A command line that asks the model."""
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        body = shlex.quote(json.dumps({"model": self.model, **asked, "max_tokens": 32}))
        path = "chat/completions" if self.chat else "completions"
        return f"curl {self.url}/v1/{path} -H 'Content-Type: application/json' -d {body}"


@contextmanager
def deployed(
    model: Artifact | Path, config: ServeConfig, log: Callable[[str], None], name: str | None = None
) -> Iterator[Endpoint]:
    """Deploy a model on the Ray cluster this process is connected to, for as long as the block lasts.

    Args:
        model: A model artifact, or a directory in the Hugging Face layout.
        config: Its settings.
        log: Takes one line at a time about what is being waited for.
        name: Name to serve it under when the configuration gives none.

    Yields:
        The address, once every replica is ready.

    Raises:
        EngineError: The port is in use, Ray Serve is already running on the cluster, the model does not load, or the
            replicas are not ready in time.
    """
    started = time.monotonic()
    check_before_start(model, config)
    served = config.served_model_name or name or model.name
    # Importing Ray Serve takes seconds: only once what can be checked without it is right.
    from ray import serve

    from tatara.serve.replica import application, replica_resources

    if serve.status().proxies:
        raise EngineError("Ray Serve is already running on this cluster; stop it, or serve from a cluster of its own")
    what = f"{config.replicas} replica(s) of {served}"
    bundles = [replica_resources(config)] * config.replicas
    cluster.ensure_fits(bundles, what, timeout_s=config.start_timeout, log=log)
    try:
        _start_proxy(config)
        log(f"waiting for {config.replicas} replica(s) of {served} to load (at most {config.start_timeout:.0f} s)")
        target = serve.RunTarget(application(model, served, config), name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        _wait_until_running(served, config, started, log)
        address = "127.0.0.1" if config.host == "0.0.0.0" else config.host
        host = f"[{address}]" if ":" in address else address
        chat = ((model if isinstance(model, Path) else model.local()) / JINJA).is_file()
        yield Endpoint(f"http://{host}:{config.port}", served, time.monotonic() - started, chat)
    finally:
        _shut_down(config)


def check_before_start(model: Artifact | Path, config: ServeConfig) -> None:
    """Refuse in milliseconds what would otherwise fail after the cluster and the engines were started.

    Raises:
        EngineError: The port is in use, or the model's directory does not hold a model.
    """
    check_port_free(config.host, config.port)
    check_model_directory(model if isinstance(model, Path) else model.local())


def check_port_free(host: str, port: int) -> None:
    """Refuse a port that something else listens on, before anything slow is started.

    Raises:
        EngineError: The port is in use, needs privileges, or the host is not an address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise EngineError(f"{host} is not an address; pass --host 127.0.0.1 or --host 0.0.0.0") from None
    in_use = EngineError(f"port {port} is in use on {host}; pass --port with another one")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Ray Serve binds like this, so that connections of an earlier server in TIME_WAIT do not keep the port...
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise in_use from None
            raise EngineError(f"cannot listen on port {port} of {host}: {error.strerror}") from None
    # ... and would share it with another server of this user that did the same.
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(CONNECT_SECONDS)
        if client.connect_ex(address) == 0:
            raise in_use


def _port_is_free(config: ServeConfig) -> bool:
    try:
        check_port_free(config.host, config.port)
    except EngineError:
        return False
    return True


def _start_proxy(config: ServeConfig) -> None:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from tatara.serve.replica import RAY_SERVE_SETTINGS

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": config.host, "port": config.port, "request_timeout_s": config.request_timeout},
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
        controller_options={"runtime_env": {"env_vars": RAY_SERVE_SETTINGS}},
    )


def _shut_down(config: ServeConfig) -> None:
    """Stop the replicas, the proxy and the controller, and wait until they are gone."""
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    with suppress(ValueError, ray.exceptions.RayError):
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        # The controller ends by killing itself under this very call. serve.shutdown() makes the same call with
        # retries, over which Ray then complains on the terminal.
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=SHUTDOWN_SECONDS)
    serve.shutdown()
    # The proxy is killed, not asked: whoever serves next on this port must not find it still in use.
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    while time.monotonic() < deadline and not _port_is_free(config):
        time.sleep(POLL_SECONDS)


def _wait_until_running(name: str, config: ServeConfig, started: float, log: Callable[[str], None]) -> None:
    from ray import serve

    reported = time.monotonic()
    while True:
        status = serve.status().applications[APPLICATION]
        if status.status == "RUNNING":
            return
        messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
        if status.status in {"DEPLOY_FAILED", "UNHEALTHY"}:
            raise EngineError(failure_cause(messages))
        waited = time.monotonic() - started
        if waited > config.start_timeout:
            state = " ".join(" ".join(messages).split()) or f"it is {status.status.value.lower()}"
            raise EngineError(f"{name} was not ready after {waited:.0f} s (start_timeout): {state}")
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            log(f"still waiting for {name} to load: {waited:.0f} s")
        time.sleep(POLL_SECONDS)


def failure_cause(messages: list[str]) -> str:
    """The one line that matters in what Ray Serve says about replicas that failed to start."""
    text = "\n".join(messages)
    ours = re.findall(r"EngineError: (.+)", text)
    if ours:
        return str(ours[-1])
    exceptions = re.findall(r"^\s*(?:[\w.]+\.)?(\w+(?:Error|Exception): .+)$", text, flags=re.MULTILINE)
    return f"the replica did not start: {exceptions[-1] if exceptions else ' '.join(text.split()) or 'no cause given'}"
