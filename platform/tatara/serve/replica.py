"""The Ray Serve deployment: one engine and its OpenAI application in each replica."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.schema import LoggingConfig

from tatara.artifact import Artifact
from tatara.engine.engine import Engine
from tatara.engine.environment import engine_environment
from tatara.serve.config import ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

DEPLOYMENT = "model"

RAY_SERVE_SETTINGS = {
    # Between proxy and replica a request is one gRPC call instead of a Ray task with an object per chunk of a stream...
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    # ... and in either no chunk changes threads. The engine computes in a process of its own, so the one event loop
    # that is left is never blocked for long.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
"""What Ray Serve's controller, proxy and replicas read from their environment when they start."""


class Replica:
    """One engine behind HTTP; Ray Serve makes it, checks on it and replaces it."""

    def __init__(self, model: Artifact | Path, name: str, config: ServeConfig) -> None:
        self._model, self._name, self._config = model, name, config
        self._engine: Engine | None = None

    async def __serve_build_asgi_app__(self) -> "FastAPI":
        from tatara.serve.openai_app import openai_app

        # A replica may run on another machine than whoever deployed it: a remote model is fetched here.
        directory = self._model.local() if isinstance(self._model, Artifact) else self._model
        cuda = self._config.gpus_per_replica > 0
        self._engine = await Engine.start(directory, self._config.engine, cuda=cuda, name=self._name)
        return await openai_app(self._engine)

    async def check_health(self) -> None:
        """Raise when the engine is dead, so that Ray Serve replaces the replica."""
        if self._engine is not None:
            await self._engine.client.check_health()

    def __del__(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()


def application(model: Artifact | Path, name: str, config: ServeConfig) -> serve.Application:
    """The application to deploy.

    Args:
        model: A model artifact, or a directory that every replica's machine can read.
        name: Name under which requests ask for the model.
        config: Its settings.
    """
    cuda = config.gpus_per_replica > 0
    resources = replica_resources(config)
    threads = max(1, int(config.cpus_per_replica))
    options: dict[str, Any] = {
        "num_cpus": resources.get("CPU", 0),
        "num_gpus": resources.get("GPU", 0),
        "runtime_env": {"env_vars": RAY_SERVE_SETTINGS | engine_environment(cuda, threads)},
    }
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        num_replicas=config.replicas,
        ray_actor_options=options,
        max_ongoing_requests=config.max_ongoing_requests,
        # A model that does not load once will not load the second time: fail with the cause at once.
        max_constructor_retry_count=1,
        health_check_period_s=2.0,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=15.0,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    return deployment.bind(model, name, config)


def replica_resources(config: ServeConfig) -> dict[str, float]:
    """What Ray reserves for one replica."""
    resources = {"CPU": config.cpus_per_replica, "GPU": config.gpus_per_replica}
    return {name: amount for name, amount in resources.items() if amount}
