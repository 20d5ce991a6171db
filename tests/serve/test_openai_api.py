"""What clients of a served model see, over real HTTP."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tatara.engine.config import EngineConfig
from tatara.errors import EngineError
from tatara.serve.client import Client
from tatara.serve.config import ServeConfig
from tatara.serve.deployment import Endpoint, deployed

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONTEXT = 256


@pytest.fixture(scope="module")
def endpoint(ray_cluster: None, tiny_llama: Path, free_port: Callable[[], int]) -> Iterator[Endpoint]:
    engine = EngineConfig(max_model_len=CONTEXT, kv_cache_bytes=64 << 20)
    config = ServeConfig(port=free_port(), engine=engine, request_timeout=60)
    with deployed(tiny_llama, config, print) as found:
        yield found
    # A replica that is killed leaves its engine process behind if nobody looks after it.
    deadline = time.monotonic() + 10
    while (left := engine_processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


@pytest.fixture(scope="module")
def http(endpoint: Endpoint) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url, timeout=60, trust_env=False) as client:
        yield client


def engine_processes() -> list[int]:
    """Engine processes below this test's own process."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "EngineCore" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def complete(http: httpx.Client, **request: Any) -> httpx.Response:
    return http.post("/v1/completions", json={"model": "tiny", "max_tokens": 4} | request)


def test_models_and_health(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
    assert listed["data"][0]["max_model_len"] == CONTEXT
    assert http.get("/health").status_code == 200


def test_a_completion_has_text_usage_and_reason(http: httpx.Client) -> None:
    answer = complete(http, prompt="the quick brown", temperature=0, max_tokens=8, ignore_eos=True).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 8


def test_token_ids_in_give_the_greedy_tokens_of_hugging_face(http: httpx.Client, tiny_llama: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    prompt = [7, 300, 12, 99, 41]
    answer = complete(http, prompt=prompt, temperature=0, max_tokens=12, ignore_eos=True, return_token_ids=True).json()
    tokens = answer["choices"][0]["token_ids"]
    assert len(tokens) == 12
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    taken = logits.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    assert torch.all(logits.max(-1).values - taken < 1e-3)


def test_a_stream_is_server_sent_events_that_end_with_done(http: httpx.Client) -> None:
    request = {"model": "tiny", "prompt": "a furnace", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=request | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    text = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
    assert len(events) > 10
    assert text == complete(http, **request).json()["choices"][0]["text"]


def test_the_openai_client_lists_completes_and_streams(endpoint: Endpoint) -> None:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        answer = client.completions.create(model="tiny", prompt="def add(", max_tokens=16, temperature=0, logprobs=1)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens > 0
        chunks = list(
            client.completions.create(model="tiny", prompt="def add(", max_tokens=16, temperature=0, stream=True)
        )
        assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
        several = client.completions.create(model="tiny", prompt=["a", "b"], n=2, max_tokens=2, seed=1)
        assert len(several.choices) == 4
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.completions.create(model="another", prompt="a")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.completions.create(model="tiny", prompt="a", max_tokens=-1)


def test_the_curl_line_that_is_printed_works(endpoint: Endpoint) -> None:
    done = subprocess.run(
        endpoint.curl("Hello").replace("curl ", "curl -sS --noproxy '*' "),
        shell=True, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["model"] == "tiny"


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("request_", "status", "message", "parameter"),
    [
        ({"json": {"model": "another", "prompt": "a"}}, 404, "another", "model"),
        ({"json": {"model": "another", "prompt": "a", "stream": True}}, 404, "another", "model"),
        (
            {"json": {"model": "tiny", "prompt": [5] * (CONTEXT + 1)}},
            400,
            f"context length is {CONTEXT}",
            "input_tokens",
        ),
        ({"json": {"model": "tiny", "prompt": "a", "max_tokens": CONTEXT + 1}}, 400, "max_tokens", "max_tokens"),
        ({"content": '{"model": "tiny", "prompt', "headers": JSON}, 400, "not valid JSON", None),
        ({"content": '{"model": "tiny", prompt: 1}', "headers": JSON}, 400, "at character 18", None),
        ({"content": b'{"model": "\xff"}', "headers": JSON}, 400, "pars", None),
        ({"content": "", "headers": JSON}, 400, "body is empty", None),
        ({"content": "[1]", "headers": JSON}, 400, "the body", None),
        ({"content": "prompt=a", "headers": {"content-type": "text/plain"}}, 400, "application/json", None),
        ({"json": {"model": "tiny", "prompt": "a", "max_tokens": "many"}}, 400, "max_tokens: ", "max_tokens"),
        ({"json": {"model": "tiny", "prompt": {"a": 1}}}, 400, "prompt: ", "prompt"),
        ({"json": {"model": "tiny", "prompt": "a", "temperature": [1]}}, 400, "temperature: ", "temperature"),
        ({"json": {"model": "tiny", "prompt": "a", "temperature": -1}}, 400, "temperature", "temperature"),
        ({"json": {"model": "tiny", "prompt": [10**8]}}, 400, "vocabulary", None),
        ({"json": {"model": "tiny"}}, 400, "prompt", "prompt"),
    ],
)
def test_a_wrong_request_gets_its_status_and_an_openai_error(
    http: httpx.Client, request_: dict, status: int, message: str, parameter: str | None
) -> None:
    response = http.post("/v1/completions", **request_)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert error["param"] == parameter
    assert error["code"] == status
    assert error["type"].endswith("Error")
    assert "\n" not in error["message"]
    assert "Traceback" not in response.text


def test_a_base_model_has_no_chat(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "a"}]})
    assert response.status_code == 400
    assert "chat template" in response.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/none", 404), ("GET", "/v1/completions", 405)])
def test_an_unknown_path_or_method_is_an_openai_error(http: httpx.Client, method: str, path: str, status: int) -> None:
    response = http.request(method, path)
    assert response.status_code == status
    assert path in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_engine(http: httpx.Client, endpoint: Endpoint, stream: bool) -> None:
    before = _metric(http, "vllm:generation_tokens_total")
    request = {"model": "tiny", "prompt": ["the quick"] * 8, "n": 4, "max_tokens": 240, "ignore_eos": True}
    with httpx.Client(base_url=endpoint.url, trust_env=False) as leaving:
        if stream:
            with leaving.stream("POST", "/v1/completions", json=request | {"stream": True}) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/v1/completions", json=request, timeout=0.2)
    deadline = time.monotonic() + 30
    while _metric(http, "vllm:num_requests_") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _metric(http, "vllm:num_requests_") == 0
    # 32 continuations of 240 tokens were asked for; far fewer tokens were made.
    assert _metric(http, "vllm:generation_tokens_total") - before < 32 * 240 * 0.9
    assert complete(http, prompt="a").status_code == 200


def _metric(http: httpx.Client, name: str) -> float:
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_the_client_measures_and_names_what_is_refused(endpoint: Endpoint) -> None:
    with Client(endpoint.url, timeout=60) as client:
        assert client.models() == ["tiny"]
        answer = client.ask("tiny", "iron sand", max_tokens=12, temperature=0.0)
        assert answer.streamed == answer.completion
        assert 0 < answer.time_to_first_token < 60
        assert answer.completion_tokens <= 12
        with pytest.raises(EngineError, match=r"POST /v1/completions answered 404: .*another"):
            client.ask("another", "iron sand", max_tokens=1, temperature=0.0)


def test_a_second_server_on_the_cluster_is_refused(
    endpoint: Endpoint, tiny_llama: Path, free_port: Callable[[], int]
) -> None:
    with pytest.raises(EngineError, match="already running on this cluster"):
        with deployed(tiny_llama, ServeConfig(port=free_port()), print):
            pass
    assert httpx.get(f"{endpoint.url}/health", trust_env=False).status_code == 200


def test_a_killed_replica_is_replaced_and_its_engine_does_not_stay(endpoint: Endpoint, http: httpx.Client) -> None:
    (engine,) = engine_processes()
    replica = psutil.Process(engine).parent()
    assert replica is not None
    replica.kill()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        processes = engine_processes()
        if engine not in processes and _healthy(endpoint):
            break
        time.sleep(0.5)
    assert engine not in engine_processes()
    assert not psutil.pid_exists(engine)
    assert complete(http, prompt="a").status_code == 200


def _healthy(endpoint: Endpoint) -> bool:
    try:
        return httpx.get(f"{endpoint.url}/v1/models", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
