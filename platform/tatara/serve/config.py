"""Configuration of the serve stage and of a long-lived server."""

from pydantic import Field

from tatara.config import Config, operational
from tatara.engine.config import EngineConfig
from tatara.stage import Stage


class ServeConfig(Config):
    """How a model is put behind HTTP, and what the stage asks it."""

    engine: EngineConfig = EngineConfig()
    """The engine every replica runs."""

    served_model_name: str | None = None
    """Name under which requests ask for the model; null takes the name of its artifact or directory."""

    prompts: tuple[str, ...] = ("The function returns", "This package is", "Copyright (c)")
    """What the stage asks once the server is up; the answers go into the artifact and the report."""

    questions: tuple[str, ...] = ()
    """What the stage asks besides, as a chat (``/v1/chat/completions``), for a model with a chat template."""

    max_tokens: int = Field(default=48, ge=1)
    """Length of an answer to one of ``prompts`` or ``questions``, in tokens."""

    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature of those answers; 0 is greedy."""

    host: str = operational("127.0.0.1")
    """Address to listen on; 0.0.0.0 is every interface."""

    port: int = operational(8000, ge=1, le=65535)
    """Port to listen on."""

    replicas: int = operational(1, ge=1)
    """Copies of the engine; requests are spread over them."""

    cpus_per_replica: float = operational(1.0, ge=0.0)
    """CPU cores a replica reserves in Ray."""

    gpus_per_replica: float = operational(0.0, ge=0.0)
    """GPUs a replica reserves in Ray; 0 runs the engine on the CPU."""

    max_ongoing_requests: int = operational(256, ge=1)
    """Requests a replica works on at a time; more wait in the proxy."""

    request_timeout: float = operational(600.0, gt=0.0)
    """Longest time a request may take, in seconds; then it is aborted with 408."""

    start_timeout: float = operational(300.0, gt=0.0)
    """Longest time until every replica must be ready, in seconds."""


STAGE = Stage(
    name="serve",
    kind="endpoint",
    config=ServeConfig,
    inputs={"model": "model"},
    run="tatara.serve.serve_run:run",
    arguments=("--once",),
    extra="serve",
)
