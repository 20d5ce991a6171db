"""A language model that judges responses, asked over HTTP."""

import json
import os
import random
import re
import threading
import time
from typing import Any

from tatara.errors import ConfigError, require
from tatara.rl.rewards.completion import Completion, Failure, Result, one_line
from tatara.rl.rewards.kinds import JudgeConfig

_LONGEST_PAUSE = 30.0
_LARGEST_REPLY = 16 << 20
_PASSING = (408, 409, 425, 429)
"""Statuses besides 5xx that another try may get past."""


class Judge:
    """The ``judge`` reward; many threads may ask at a time."""

    def __init__(self, config: JudgeConfig) -> None:
        """Prepare the reward of a configuration; nothing is asked yet.

        Raises:
            ConfigError: The address is none, or the variable for the key is not set.
            MissingExtraError: httpx is not installed.
        """
        httpx = require("httpx", "rl")
        self._config = config
        headers = {}
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env)
            if not key:
                raise ConfigError(f"the environment variable {config.api_key_env} for the judge's key is not set")
            headers["Authorization"] = f"Bearer {key}"
        if not config.url.startswith(("http://", "https://")):
            raise ConfigError(f"'{config.url}' is not an address of a judge; it begins with http:// and ends with /v1")
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        self._httpx = httpx
        self._client = httpx.Client(headers=headers, timeout=config.timeout, limits=limits)
        self._closing = threading.Event()

    def __call__(self, completion: Completion) -> Result:
        """The judge's score between 0 and 1, or why there is none."""
        try:
            text = self._ask(self._body(completion))
        except _NoReplyError as error:
            return Failure(one_line(str(error)))
        matches = list(re.finditer(self._config.score_pattern, text, re.DOTALL))
        if not matches:
            return Failure(one_line(f"the judge's reply has no score: {text}", 200))
        found = matches[-1][1] if matches[-1].re.groups else matches[-1][0]
        return self._scaled(found)

    def close(self) -> None:
        """Close the connections; what still waits to ask again gives up."""
        self._closing.set()
        self._client.close()

    def _scaled(self, found: str) -> Result:
        low, high = self._config.score_range
        try:
            score = float(found)
        except (TypeError, ValueError):
            return Failure(one_line(f"the judge's score '{found}' is not a number"))
        if not low <= score <= high:
            return Failure(f"the judge's score {score:g} is outside of {low:g} to {high:g}")
        return (score - low) / (high - low)

    def _body(self, completion: Completion) -> dict[str, Any]:
        system = [{"role": "system", "content": self._config.system}] if self._config.system else []
        return {
            "model": self._config.model,
            "messages": [*system, {"role": "user", "content": fill(self._config.template, completion)}],
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_tokens,
            **self._config.extra,
        }

    def _ask(self, body: dict[str, Any]) -> str:
        """The text of a reply, after as many tries as are allowed."""
        address = f"{self._config.url.rstrip('/')}/chat/completions"
        for attempt in range(self._config.retries + 1):
            pause = min(_LONGEST_PAUSE, self._config.backoff * 2**attempt)
            try:
                status, header, content = self._post(address, body)
            except self._httpx.TransportError as error:
                trouble = f"{address}: {type(error).__name__} {error}"
            else:
                if status == 200:
                    return _text(content, address)
                trouble = f"{address} answered {status}: {content[:200].decode(errors='replace')}"
                if status < 500 and status not in _PASSING:
                    raise _NoReplyError(trouble)
                pause = max(pause, _asked_pause(header))
            # Spread, so that those refused together do not come back together.
            if attempt < self._config.retries and self._closing.wait(pause * random.uniform(0.75, 1.25)):
                break
        raise _NoReplyError(f"{trouble} (after {attempt + 1} tries)")

    def _post(self, address: str, body: dict[str, Any]) -> tuple[int, str | None, bytes]:
        """Status, when to come again, and content; in time even if the server sends a byte now and then."""
        deadline = time.monotonic() + self._config.timeout
        content = bytearray()
        with self._client.stream("POST", address, json=body) as response:
            for part in response.iter_bytes():
                content += part
                if time.monotonic() > deadline or len(content) > _LARGEST_REPLY:
                    raise self._httpx.ReadTimeout(f"no whole reply within {self._config.timeout:g} s and 16 MB")
            return response.status_code, response.headers.get("Retry-After"), bytes(content)


class _NoReplyError(Exception):
    pass


def fill(template: str, completion: Completion) -> str:
    """A judge's question; what is put in is not looked through again, so a response cannot name a placeholder."""
    conversation = "\n\n".join(f"{message['role']}: {message['content']}" for message in completion.prompt.messages)
    only = len(completion.prompt.messages) == 1
    known = {str(name): str(value) for name, value in completion.prompt.metadata.items()} | {
        "prompt": str(completion.prompt.messages[0]["content"]) if only else conversation,
        "response": completion.response,
    }
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], match[0]), template)


def _text(reply: bytes, address: str) -> str:
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _NoReplyError(f"{address} answered what is no chat completion: {type(error).__name__} {error}") from None
    return str(content or "")


def _asked_pause(header: str | None) -> float:
    """Seconds that the server asks to wait, within reason."""
    try:
        return min(_LONGEST_PAUSE, max(0.0, float(header or 0.0)))
    except ValueError:
        return 0.0
