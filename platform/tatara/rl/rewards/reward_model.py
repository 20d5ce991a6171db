"""A reward model: a sequence classifier with one label, computed by vLLM's pooling or by transformers."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tatara.engine.config import EngineConfig
from tatara.engine.environment import engine_environment
from tatara.engine.model_directory import check_model_directory, checkpoint_dtype
from tatara.errors import ConfigError, EngineError
from tatara.rl.rewards.completion import Completion, Failure, Result
from tatara.rl.rewards.kinds import RewardModelConfig

Compute = Callable[[list[list[int]]], list[float]]


class RewardModel:
    """The ``reward_model`` reward; `start` and what it returns belong into one thread."""

    def __init__(self, config: RewardModelConfig, *, cuda: bool) -> None:
        self._config, self._cuda = config, cuda
        self._llm: Any = None

    def start(self) -> Callable[[list[Completion]], list[Result]]:
        """Load the model.

        Returns:
            What scores a batch of completions.

        Raises:
            ConfigError: The directory is not a model with one label, or has no chat template.
            EngineError: The engine does not load it.
        """
        check_reward_model(self._config, self._config.model)
        compute = self._start_vllm() if self._config.engine == "vllm" else self._start_transformers()
        encode = _encoder(self._config)
        longest = self._config.max_tokens or _longest(Path(self._config.model))

        def score(completions: list[Completion]) -> list[Result]:
            sequences = [encode(completion) for completion in completions]
            short = [sequence for sequence in sequences if len(sequence) <= longest]
            values = iter(compute(short) if short else [])
            return [
                self._activated(next(values))
                if len(sequence) <= longest
                else Failure(f"{len(sequence)} tokens are more than the reward model's {longest}")
                for sequence in sequences
            ]

        return score

    def close(self) -> None:
        """Let go of the model."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None

    def _activated(self, value: float) -> Result:
        if not math.isfinite(value):
            return Failure(f"the reward model returned {value}")
        if self._config.activation == "none":
            return value
        # Both branches keep the exponent negative, so that nothing overflows.
        return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))

    def _start_vllm(self) -> Compute:
        # vLLM reads them when it is imported; the process of a reward worker is its own.
        os.environ.update(engine_environment(self._cuda))
        from vllm import LLM, PoolingParams, TokensPrompt

        dtype = self._config.dtype
        if dtype == "auto" and checkpoint_dtype(Path(self._config.model)) == "float32":
            dtype = "float32"
        engine = EngineConfig(dtype=dtype, max_model_len=self._config.max_tokens, vllm_args=self._config.vllm_args)
        arguments = engine.arguments(self._cuda)
        arguments.pop("worker_extension_cls", None)
        try:
            self._llm = llm = LLM(self._config.model, runner="pooling", **arguments)
        # vLLM's start-up raises whatever its layers raise: all of it means that this model does not start.
        except Exception as error:
            raise EngineError(
                f"vLLM cannot start the reward model {self._config.model}: {_first_line(error)}"
            ) from error

        def compute(sequences: list[list[int]]) -> list[float]:
            prompts = [TokensPrompt(prompt_token_ids=sequence) for sequence in sequences]
            raw = PoolingParams(use_activation=False)
            return [
                float(output.outputs.probs[0]) for output in llm.classify(prompts, pooling_params=raw, use_tqdm=False)
            ]

        return compute

    def _start_transformers(self) -> Compute:
        import torch
        from transformers import AutoModelForSequenceClassification

        device = "cuda" if self._cuda else "cpu"
        try:
            loaded = AutoModelForSequenceClassification.from_pretrained(
                self._config.model, dtype=self._config.dtype, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"cannot load the reward model {self._config.model}: {_first_line(error)}") from error
        model = loaded.to(device).eval()

        @torch.inference_mode()
        def compute(sequences: list[list[int]]) -> list[float]:
            # One by one: where padding ends, transformers finds by a token that may also be the last real one.
            tensors = [torch.tensor([sequence], device=device) for sequence in sequences]
            return [float(model(tensor).logits[0, 0]) for tensor in tensors]

        return compute


def check_reward_model(config: RewardModelConfig, name: str) -> None:
    """Refuse a directory that is not a reward model, without loading it.

    Raises:
        ConfigError: It has more than one label, or no chat template where one is needed.
        EngineError: It is not a model directory.
    """
    directory = Path(config.model)
    check_model_directory(directory)
    described = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    labels = described.get("num_labels") or len(described.get("id2label") or {"0": "", "1": ""})
    if labels != 1:
        raise ConfigError(f"reward {name}: {directory} has {labels} labels; a reward model has one")
    if config.input == "chat" and not _has_template(directory):
        raise ConfigError(f"reward {name}: {directory} has no chat template; set input to tokens, or add one")


def _has_template(directory: Path) -> bool:
    settings = directory / "tokenizer_config.json"
    inside = settings.is_file() and "chat_template" in json.loads(settings.read_text(encoding="utf-8"))
    return inside or (directory / "chat_template.jinja").is_file()


def _longest(directory: Path) -> int:
    described = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return int(described.get("max_position_embeddings") or 1 << 30)


def _encoder(config: RewardModelConfig) -> Callable[[Completion], list[int]]:
    if config.input == "tokens":
        return lambda completion: [*completion.prompt.token_ids, *completion.response_ids]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config.model, local_files_only=True)

    def encode(completion: Completion) -> list[int]:
        conversation = [*completion.prompt.messages, {"role": "assistant", "content": completion.response}]
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    return encode


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        return lines[1].removeprefix("Value error, ").split(" [type=")[0]
    return lines[0] if lines else type(error).__name__
