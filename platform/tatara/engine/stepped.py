"""A vLLM engine in this process, driven step by step: what reinforcement learning samples with."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from tatara.engine.buckets import BUCKET_BYTES, buckets
from tatara.engine.config import EngineConfig
from tatara.engine.model_directory import check_head_size, check_model_directory
from tatara.engine.stepped_arguments import PROBE_SEQUENCES, stepped_arguments
from tatara.engine.stepped_request import Drawing, Finished, Request
from tatara.engine.weights import ExpectedWeights
from tatara.errors import EngineError

if TYPE_CHECKING:
    import torch
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine.llm_engine import LLMEngine

__all__ = ["Finished", "InFlight", "SteppedEngine"]

InFlight = Literal["continue", "recompute"]


class SteppedEngine:
    """A vLLM engine whose scheduler runs in this process; not for use by several threads at once.

    Attributes:
        version: Version of the weights.
        capacity: Requests that it decodes together; more wait.
        max_model_len: Longest prompt plus continuation, in tokens.
        expected: The weights that an update must bring.
        generated: Tokens sampled since the start.
    """

    def __init__(self, engine: "LLMEngine", model: Path, version: int) -> None:
        """Wrap vLLM's engine; see `start`."""
        self._engine: Any = engine
        self._core: Any = engine.engine_core
        self._requests: dict[str, Request] = {}
        self._names: dict[str, str] = {}
        self._made = 0
        self._updates = 0
        self._vocabulary = engine.model_config.get_vocab_size()
        self._done: list[Request] = []
        self._broken: str | None = None
        self._asleep = False
        self.version = version
        self.capacity = engine.vllm_config.scheduler_config.max_num_seqs - PROBE_SEQUENCES
        self.max_model_len: int = engine.model_config.max_model_len
        self.expected = ExpectedWeights(model)
        self.generated = 0

    @classmethod
    def start(cls, model: Path, config: EngineConfig, *, cuda: bool, version: int = 0) -> Self:
        """Load a model.

        Args:
            model: Directory in the Hugging Face layout.
            config: Settings of the engine.
            cuda: Whether to run on GPUs.
            version: Version of the weights in the directory.

        Raises:
            EngineError: The directory is not a model, an argument is wrong, or the environment is not the engine's.
        """
        check_model_directory(model)
        check_head_size(model, cuda=cuda)
        arguments = stepped_arguments(model, config, cuda)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.executor import Executor

        try:
            settings = EngineArgs(**arguments).create_engine_config()
            executor = Executor.get_class(settings)
            engine = LLMEngine(settings, executor, log_stats=False, multiprocess_mode=False)
            engine.collective_rpc("allow_tiles")
        # vLLM's own start-up raises whatever its layers raise (ValueError, pydantic, OSError, RuntimeError): all of it
        # means that this model does not start with these settings.
        except Exception as error:
            raise EngineError(f"vLLM cannot start {model}: {' '.join(str(error).split())[:500]}") from error
        return cls(engine, model, version)

    @property
    def running(self) -> int:
        """Requests in flight, waiting, or ended while a probe was computed: what `step` has yet to return."""
        return len(self._requests) + len(self._done)

    def submit(self, request_id: str, token_ids: Sequence[int], drawing: Drawing, seed: int | None = None) -> None:
        """Queue a prompt.

        Args:
            request_id: The caller's own; unique among those in flight.
            token_ids: Prompt.
            drawing: How tokens are drawn. Only its stop tokens end the continuation, not the model's end token.
            seed: Makes the continuation repeatable; None is faster and draws from the engine's own generator.

        Raises:
            EngineError: The prompt is empty, not of the vocabulary, or leaves no room in the context; the sampling
                parameters are wrong; or the name is in use.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind

        self._check_alive()
        if request_id in self._names:
            raise EngineError(f"the engine already has a request {request_id}")
        room = self.max_model_len - len(token_ids)
        if room < 1 or not token_ids:
            raise EngineError(
                f"request {request_id} has a prompt of {len(token_ids)} tokens: it must have 1 to "
                f"{self.max_model_len - 1}, one less than the context"
            )
        self._check_vocabulary(request_id, token_ids)
        try:
            params = SamplingParams(
                max_tokens=min(drawing.max_tokens, room),
                temperature=drawing.temperature,
                top_p=drawing.top_p,
                top_k=drawing.top_k,
                stop_token_ids=list(drawing.stop_token_ids),
                ignore_eos=True,
                seed=seed,
                logprobs=0,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            self._add(Request(request_id, tuple(token_ids), params))
        except (ValueError, VLLMValidationError) as error:
            raise EngineError(f"vLLM refuses request {request_id}: {' '.join(str(error).split())[:300]}") from error

    def step(self) -> list[Finished]:
        """Decode one token of every running request.

        Returns:
            The requests that this ended.

        Raises:
            EngineError: An update of the weights failed: the engine holds parts of two versions.
        """
        self._check_alive()
        if self._requests:
            self._step()
        ended, self._done = self._done, []
        return [request.finished() for request in ended]

    def abort(self, request_id: str) -> None:
        """Drop a request; without effect if there is none of the name."""
        name = self._names.pop(request_id, None)
        if name is not None:
            del self._requests[name]
            self._core.abort_requests([name])

    def update_weights(
        self, stream: "Iterable[tuple[str, torch.Tensor]]", version: int, *, in_flight: InFlight = "continue"
    ) -> None:
        """Load new weights between two steps.

        What the cache holds of older weights serves no request that starts afterwards. A request that has no token yet
        begins anew.

        Args:
            stream: Hugging Face names and tensors, all of the model's; see `ExpectedWeights`.
            version: Theirs.
            in_flight: What requests with tokens do: "continue" from their cached keys and values, which older weights
                made, or "recompute" them with the new ones.

        Raises:
            EngineError: A tensor is missing, unknown, of another shape, or comes twice. The engine is lost then.
        """
        self._check_alive()
        checked = self.expected.checked(stream)
        self._broken = f"the update to version {version} failed half-way: start the engine again"
        if self._engine.vllm_config.parallel_config.world_size == 1:
            arguments = {"weights_iterator": checked, "is_checkpoint_format": True}
            self._engine.collective_rpc("renew_kernels")
            self._engine.collective_rpc("reload_weights", kwargs=arguments)
        else:
            # The workers are processes of their own, which tensors do not reach.
            self._engine.collective_rpc("begin_weights")
            for bucket in buckets(checked, BUCKET_BYTES):
                self._engine.collective_rpc("load_weights_bucket", args=(bucket.tobytes(),))
            self._engine.collective_rpc("end_weights")
        self._broken = None
        self.version = version
        self._updates += 1
        self._restart_untouched()
        if in_flight == "recompute":
            self._core.reset_prefix_cache(True)

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first, at temperature 1, in nats; requests in flight go on meanwhile.

        Args:
            sequences: Token ids, each shorter than the context.

        Raises:
            EngineError: A sequence does not fit the context.
        """
        from vllm import SamplingParams

        probes = []
        for sequence in sequences:
            if not sequence:
                raise EngineError("a probe of 0 tokens has no log-probabilities")
            if len(sequence) >= self.max_model_len:
                raise EngineError(f"a probe of {len(sequence)} tokens does not fit a context of {self.max_model_len}")
            self._check_vocabulary("of a probe", sequence)
            params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, ignore_eos=True)
            self._made += 1
            probes.append(Request(f"probe {self._made}", tuple(sequence), params, prompt_logprobs=[]))
        for probe in probes:
            if len(probe.prompt) > 1:
                self._add(probe)
        while any(probe.request_id in self._names for probe in probes):
            self._step()
        return [probe.prompt_logprobs or [] for probe in probes]

    def sleep(self, level: int = 1) -> None:
        """Give the GPU's memory back: weights to the host (1) or dropped (2), the cache dropped.

        Requests in flight stay and are computed again after `wake`. Needs ``vllm_args.enable_sleep_mode``. Without a
        GPU vLLM frees nothing: the engine only stops.
        """
        if not self._asleep:
            self._engine.sleep(level, "keep")
            self._asleep = True

    def wake(self) -> None:
        """Go on after `sleep`; after level 2 the next thing must be an update of the weights."""
        if self._asleep:
            self._engine.wake_up()
            self._asleep = False

    def shutdown(self) -> None:
        """End the engine and give its memory back."""
        self._requests.clear()
        self._names.clear()
        self._core.shutdown()

    def _check_alive(self) -> None:
        if self._broken:
            raise EngineError(self._broken)

    def _check_vocabulary(self, request_id: str, token_ids: Sequence[int]) -> None:
        """Without a tokenizer vLLM does not look, and fails in a kernel."""
        for token in (min(token_ids), max(token_ids)):
            if not 0 <= token < self._vocabulary:
                raise EngineError(f"request {request_id} has token {token}: the vocabulary has {self._vocabulary}")

    def _add(self, request: Request) -> None:
        """Hand a request to vLLM under a name of its own: an aborted one's may still be in use there."""
        self._made += 1
        name = str(self._made)
        # The salt keeps what older weights left in the prefix cache from being found. Not the version: a trainer that
        # resumes gives a number twice.
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt), "cache_salt": str(self._updates)}
        processed = self._engine.input_processor.process_inputs(
            name, prompt, request.params, supported_tasks=self._engine.get_supported_tasks()
        )
        self._core.add_request(processed)
        self._requests[name] = request
        self._names[request.request_id] = name

    def _restart_untouched(self) -> None:
        """Begin requests without a token anew, under the salt of the new weights."""
        names = [name for name, request in self._requests.items() if not request.token_ids]
        self._core.abort_requests(names)
        for request in [self._requests.pop(name) for name in names]:
            self._add(request)

    def _step(self) -> None:
        # vLLM's own front end builds objects for every token, which for a small model costs as much as the model.
        for output in self._core.get_output().outputs:
            self._take(output)

    def _take(self, output: "EngineCoreOutput") -> None:
        request = self._requests.get(output.request_id)
        if request is None:
            return
        if request.prompt_logprobs is not None:
            if output.new_prompt_logprobs_tensors is not None:
                request.prompt_logprobs = output.new_prompt_logprobs_tensors.logprobs[:, 0].tolist()
        elif output.new_token_ids:
            if not request.token_ids:
                request.first_version = self.version
            request.last_version = self.version
            request.token_ids += output.new_token_ids
            request.logprobs += output.new_logprobs.logprobs[:, 0].tolist()
            self.generated += len(output.new_token_ids)
        if output.finish_reason is not None:
            del self._requests[output.request_id], self._names[request.request_id]
            request.finish = str(output.finish_reason)
            if request.prompt_logprobs is None:
                self._done.append(request)
