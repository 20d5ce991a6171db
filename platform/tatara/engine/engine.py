"""A running vLLM engine: token ids in, token ids out."""

import os
import re
import stat
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tatara.config import nearest
from tatara.engine.buckets import BUCKET_BYTES, buckets
from tatara.engine.config import EngineConfig
from tatara.engine.model_directory import check_head_size, check_model_directory, engine_dtype
from tatara.engine.weights import ExpectedWeights
from tatara.errors import EngineError

if TYPE_CHECKING:
    from argparse import Namespace

    import torch
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM


class Engine:
    """An asynchronous vLLM engine whose model runs in a process of its own.

    Attributes:
        client: vLLM's own handle, for what is mounted on it (the OpenAI application).
        arguments: Every argument the engine and an application on top of it run with.
        version: Version of the weights; 0 is what it was started with.
    """

    def __init__(self, client: "AsyncLLM", arguments: "Namespace") -> None:
        self.client = client
        self.arguments = arguments
        self.version = 0

    @classmethod
    async def start(cls, model: Path, config: EngineConfig, *, cuda: bool, name: str) -> "Engine":
        """Load a model and start its engine process.

        Args:
            model: Directory in the Hugging Face layout.
            config: Settings of the engine.
            cuda: Whether to run on a GPU.
            name: The name under which requests ask for the model.

        Raises:
            EngineError: The directory is not a model, an argument is wrong, or the engine process did not come up.
        """
        check_model_directory(model)
        check_head_size(model, cuda=cuda)
        arguments = vllm_arguments(model, config, cuda=cuda, name=name)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        log = _ErrorLog()
        try:
            client = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(arguments))
            await client.collective_rpc("end_with_parent")
            await client.collective_rpc("allow_tiles")
        # vLLM's own start-up raises whatever its layers raise (ValueError, pydantic, OSError, RuntimeError): all of it
        # means that this model does not start with these settings.
        except Exception as error:
            cause = log.cause() if "See root cause above" in str(error) else _first_line(error)
            raise EngineError(f"vLLM cannot start {model}: {cause}") from error
        return cls(client, arguments)

    async def stream(self, token_ids: Sequence[int], params: "SamplingParams") -> AsyncIterator["RequestOutput"]:
        """Sample one continuation and yield it as it grows; leaving the loop early aborts the request.

        Args:
            token_ids: Prompt, as token ids.
            params: vLLM's sampling parameters; ``output_kind`` decides between cumulative and delta outputs.
        """
        from vllm import TokensPrompt

        prompt = TokensPrompt(prompt_token_ids=list(token_ids))
        (rendered,) = await self.client.renderer.render_cmpl_async([prompt])
        async for output in self.client.generate(rendered, params, request_id=uuid.uuid4().hex):
            yield output

    async def generate(self, token_ids: Sequence[int], params: "SamplingParams") -> "RequestOutput":
        """Sample one continuation and return it whole.

        Raises:
            EngineError: The engine ended the request without an answer.
        """
        last: RequestOutput | None = None
        async for output in self.stream(token_ids, params):
            last = output
        if last is None:
            raise EngineError("the engine ended a request without an answer; see its log")
        return last

    async def update_weights(
        self, stream: "Iterable[tuple[str, torch.Tensor]]", version: int, *, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        """Load new weights; requests in flight stop meanwhile and go on with keys and values computed again.

        Args:
            stream: Hugging Face names and tensors, all of the model's; see `ExpectedWeights`.
            version: Theirs.
            bucket_bytes: Weights go to the engine's processes in pieces of this size.

        Raises:
            EngineError: A tensor is missing, unknown, of another shape, or comes twice. The engine is stopped then.
        """
        checked = ExpectedWeights(Path(self.arguments.model)).checked(stream)
        whole = False
        await self.client.pause_generation(mode="keep", clear_cache=False)
        try:
            await self.client.collective_rpc("begin_weights")
            for bucket in buckets(checked, bucket_bytes):
                # Tensors do not pass to other processes, bytes do.
                await self.client.collective_rpc("load_weights_bucket", args=(bucket.tobytes(),))
            await self.client.collective_rpc("end_weights")
            # Whatever is mounted on the client shares the cache: nothing of the older weights may stay in it.
            await self.client.reset_prefix_cache(reset_running_requests=True)
            whole = True
        finally:
            if not whole:
                # It holds parts of two versions: better no answer than a wrong one.
                self.shutdown()
        self.version = version
        await self.client.resume_generation()

    def shutdown(self) -> None:
        """Stop the engine process; requests in flight are aborted."""
        self.client.shutdown(timeout=5.0)


def vllm_arguments(model: Path, config: EngineConfig, *, cuda: bool, name: str) -> "Namespace":
    """The arguments of vLLM's server, as its command line would have parsed them.

    Raises:
        EngineError: ``vllm_args`` holds a name that vLLM does not know.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    known = vars(arguments)
    for key, value in config.arguments(cuda).items():
        if key not in known:
            raise EngineError(f"vllm_args.{key}: vLLM has no such argument; {nearest(key, known)}")
        setattr(arguments, key, value)
    arguments.model, arguments.served_model_name = str(model), [name]
    arguments.dtype = engine_dtype(model, arguments.dtype)
    validate_parsed_serve_args(arguments)
    return arguments


class _ErrorLog:
    """Finds out why an engine process died: it says so only on the standard error it inherits."""

    def __init__(self) -> None:
        # Under Ray standard error is a file; on a terminal the user has the traceback in front of them.
        self._path = Path(f"/proc/{os.getpid()}/fd/2")
        self._start = self._path.stat().st_size if self._is_file() else 0

    def cause(self) -> str:
        if not self._is_file():
            return "its engine process died; the cause is above"
        with self._path.open(errors="replace") as log:
            log.seek(self._start)
            lines = [_message(line) for line in log]
        errors = [line for line in lines if _names_an_error(line)]
        # The first exception is the cause; the ones after it are the layers above giving up.
        return errors[0] if errors else "its engine process died without a message"

    def _is_file(self) -> bool:
        return self._path.exists() and stat.S_ISREG(self._path.stat().st_mode)


def _message(line: str) -> str:
    """A line of vLLM's log without its prefixes (process, level, time, place)."""
    return line.split("] ", 1)[-1].strip()


def _names_an_error(line: str) -> bool:
    return re.match(r"[\w.]+(Error|Exception): .", line) is not None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic puts how many errors there are first, and after the message where in its own terms it arose.
    if len(lines) > 1 and "validation error" in lines[0]:
        return lines[1].removeprefix("Value error, ").split(" [type=")[0]
    return lines[0] if lines else type(error).__name__
