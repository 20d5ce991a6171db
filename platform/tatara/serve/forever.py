"""A server that runs until it is told to stop."""

import signal
from collections.abc import Callable
from pathlib import Path

from tatara import cluster, interrupts
from tatara.artifact import Artifact
from tatara.serve.config import ServeConfig
from tatara.serve.deployment import Endpoint, check_before_start, deployed


def serve_forever(
    model: Artifact | Path,
    config: ServeConfig,
    *,
    address: str | None = None,
    ask: str | None = None,
    keep: bool = True,
    log: Callable[[str], None] = print,
) -> None:
    """Serve a model until SIGINT or SIGTERM, then stop everything that was started.

    Args:
        model: A model artifact, or a directory in the Hugging Face layout.
        config: Its settings.
        address: Ray cluster to run on, see `tatara.cluster.connect`; without one a private cluster is started.
        ask: A prompt to ask over HTTP once the server is up; of a model with a chat template, a user's message.
        keep: Go on serving afterwards; otherwise the server stops once ``ask`` was answered.
        log: Takes the lines that a user reads: what is waited for, the address, the answer, an example.

    Raises:
        EngineError: See `tatara.serve.deployment.deployed`.
        ClusterError: There is no cluster at ``address``, or a replica can never fit it.
    """
    check_before_start(model, config)
    try:
        with interrupts.raised() as rearm:
            connected_before = cluster.is_connected()
            cluster.connect(address)
            # Ray puts its own handler for SIGTERM in place, one that leaves without stopping the server.
            rearm()
            try:
                with deployed(model, config, log) as endpoint:
                    log(f"{endpoint.model} answers at {endpoint.url} (ready in {endpoint.start_seconds:.0f} s); try:")
                    log(f"  {endpoint.curl(ask or 'Hello')}")
                    if ask is not None:
                        _ask(endpoint, config, ask, log)
                    if keep:
                        log("Ctrl-C stops it")
                        _wait_for_signal()
            finally:
                if not connected_before:
                    cluster.disconnect()
    except KeyboardInterrupt:
        log("stopped")


def _ask(endpoint: Endpoint, config: ServeConfig, prompt: str, log: Callable[[str], None]) -> None:
    from tatara.serve.client import Client

    with Client(endpoint.url, config.request_timeout) as client:
        answer = client.ask(
            endpoint.model, prompt, max_tokens=config.max_tokens, temperature=config.temperature,
            seed=config.engine.seed, chat=endpoint.chat,
        )  # fmt: skip
    log(f"asked over HTTP: {prompt}")
    log(f"answer: {answer.completion}")
    first = 1000 * answer.time_to_first_token
    log(f"({answer.completion_tokens} tokens in {1000 * answer.latency:.0f} ms, the first after {first:.0f} ms)")


def _wait_for_signal() -> None:
    while True:
        signal.pause()
