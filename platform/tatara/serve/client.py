"""Ask a served model over HTTP, the way any client would, with a stopwatch."""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from tatara.errors import EngineError


@dataclass(frozen=True)
class Answer:
    """What came back for one prompt.

    Attributes:
        prompt: What was asked; of a chat, the user's message.
        completion: The text, from a plain request.
        finish_reason: ``length`` or ``stop``.
        prompt_tokens: Length of the prompt in tokens.
        completion_tokens: Length of the completion in tokens.
        latency: From sending the plain request to having its whole answer, in seconds.
        time_to_first_token: From sending the same request as a stream to its first text, in seconds.
        streamed: The text, put together from the stream's chunks.
        chunks: Events of the stream that carried text.
    """

    prompt: str
    completion: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency: float
    time_to_first_token: float
    streamed: str
    chunks: int


class Client:
    """A connection to an OpenAI-compatible server."""

    def __init__(self, url: str, timeout: float) -> None:
        # A proxy for the internet, named in the environment, would not reach a server on this machine.
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[str]:
        """Names of the models that are served.

        Raises:
            EngineError: The server did not answer with 200.
        """
        return [model["id"] for model in self._checked("GET", "/v1/models").json()["data"]]

    def ask(
        self, model: str, prompt: str, *, max_tokens: int, temperature: float, seed: int = 0, chat: bool = False
    ) -> Answer:
        """Ask twice, once for a whole answer and once for a stream.

        Args:
            model: Name of the served model.
            prompt: Text to go on with, or, with ``chat``, a message that the model's chat template wraps.
            max_tokens: Longest answer, tokens.
            temperature: Of sampling; 0 is greedy.
            seed: Of sampling.
            chat: Whether to ask ``/v1/chat/completions`` instead of ``/v1/completions``.

        Raises:
            EngineError: The server did not answer with 200, or ended a stream early.
        """
        request: dict[str, Any] = {
            "model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed,
        }  # fmt: skip
        if chat:
            path, request["messages"] = "/v1/chat/completions", [{"role": "user", "content": prompt}]
        else:
            path, request["prompt"] = "/v1/completions", prompt
        started = time.monotonic()
        whole = self._checked("POST", path, request).json()
        latency = time.monotonic() - started
        first, chunks = self._stream(path, request)
        choice, usage = whole["choices"][0], whole["usage"]
        return Answer(
            prompt=prompt,
            completion=choice["message"]["content"] or "" if chat else choice["text"],
            finish_reason=choice["finish_reason"],
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
            latency=latency,
            time_to_first_token=first,
            streamed="".join(chunks),
            chunks=len(chunks),
        )

    def _stream(self, path: str, request: dict[str, Any]) -> tuple[float, list[str]]:
        started = time.monotonic()
        first: float | None = None
        chunks: list[str] = []
        with self._http.stream("POST", path, json=request | {"stream": True}) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
                raise EngineError(_refusal(response))
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return first or time.monotonic() - started, chunks
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise EngineError(f"the server broke off a stream: {event['error']['message']}")
                # The first event counts even when its token is only part of a character and has no text yet.
                first = first if first is not None else time.monotonic() - started
                texts = [choice.get("text") or choice.get("delta", {}).get("content") for choice in event["choices"]]
                chunks += [text for text in texts if text]
        raise EngineError("the server ended a stream without its last event")

    def _checked(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        response = self._http.request(method, path, json=body)
        if response.status_code != httpx.codes.OK:
            raise EngineError(_refusal(response))
        return response


def _refusal(response: httpx.Response) -> str:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text.strip()[:200] or "no reason given"
    return f"{response.request.method} {response.request.url.path} answered {response.status_code}: {message}"
