"""The serve stage: deploy a model, ask it over HTTP, keep the answers, take it down."""

import json
import statistics
from dataclasses import asdict
from typing import Any

import httpx

from tatara.errors import EngineError
from tatara.serve.client import Answer, Client
from tatara.serve.config import ServeConfig
from tatara.serve.deployment import Endpoint, deployed
from tatara.stage import StageRun


def run(config: ServeConfig, stage_run: StageRun) -> dict[str, Any]:
    """Prove that a model answers over HTTP.

    Raises:
        EngineError: It cannot be deployed, or does not answer.
    """
    model = stage_run.inputs["model"]
    with deployed(model, config, stage_run.log) as endpoint:
        stage_run.log(f"{endpoint.model} answers at {endpoint.url} (ready in {endpoint.start_seconds:.0f} s)")
        answers = _ask(endpoint, config, stage_run)
    _write(stage_run, "answers.json", [asdict(answer) for answer in answers])
    _write(stage_run, "endpoint.json", {"model": endpoint.model, "url": endpoint.url, "config": config.dump()})
    stage_run.report(
        "generations",
        [
            {"prompt": answer.prompt, "completion": answer.completion, "finish_reason": answer.finish_reason}
            for answer in answers
        ],
    )
    return {
        "model": endpoint.model,
        "address": f"{endpoint.url}/v1",
        "ready_seconds": round(endpoint.start_seconds, 1),
    } | _figures(answers)


def _ask(endpoint: Endpoint, config: ServeConfig, stage_run: StageRun) -> list[Answer]:
    answers = []
    with Client(endpoint.url, config.request_timeout) as client:
        try:
            served = client.models()
            if endpoint.model not in served:
                raise EngineError(f"the server lists {', '.join(served) or 'no model'} instead of {endpoint.model}")
            asked = [*((prompt, False) for prompt in config.prompts), *((text, True) for text in config.questions)]
            for prompt, chat in asked:
                answer = client.ask(
                    endpoint.model, prompt, max_tokens=config.max_tokens, temperature=config.temperature,
                    seed=config.engine.seed, chat=chat,
                )  # fmt: skip
                answers.append(answer)
                stage_run.log(f"{prompt!r} -> {answer.completion!r}")
                stage_run.progress(len(answers), len(asked), "prompts")
        except httpx.HTTPError as error:
            raise EngineError(f"the server at {endpoint.url} broke off: {type(error).__name__} {error}") from error
    return answers


def _figures(answers: list[Answer]) -> dict[str, Any]:
    if not answers:
        return {"answers": 0}
    tokens = sum(answer.completion_tokens for answer in answers)
    return {
        "answers": len(answers),
        "time_to_first_token_ms": round(1000 * statistics.median(a.time_to_first_token for a in answers), 2),
        "latency_ms": round(1000 * statistics.median(a.latency for a in answers), 2),
        "tokens_per_second": round(tokens / sum(answer.latency for answer in answers), 1),
    }


def _write(stage_run: StageRun, name: str, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    (stage_run.output.path / name).write_text(text, encoding="utf-8")
