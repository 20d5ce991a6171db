"""Requests per second and time to first token: our server against the vLLM engine called directly.

    python tests/benchmarks/bench_serve.py [--rounds 5] [--concurrency 1,8,32]

Three ways to the same engine with the same arguments, the same prompts and as many requests in flight, in turns:

- ``engine``: `tatara.engine.engine.Engine` in the process that asks (vLLM's AsyncLLM), the peer;
- ``app``: vLLM's OpenAI application on that engine behind uvicorn, without Ray Serve; shows where the time goes;
- ``server``: what ``tatara serve`` runs: Ray Serve's proxy, the replica, the same application, the same engine.

Makes its own random Llama of about two million parameters. Medians over the rounds; the ratio is server to engine.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / "platform")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil  # noqa: E402

from tatara.engine.config import EngineConfig  # noqa: E402
from tatara.engine.environment import engine_environment  # noqa: E402

ENGINE = EngineConfig(max_model_len=512, kv_cache_bytes=64 << 20)
PROMPT_TOKENS = 32
VOCABULARY = 2048
CONTESTANTS = ("engine", "app", "server")


@dataclass(frozen=True)
class Load:
    """One measurement: how many requests, how many at a time, streamed or whole, and their length in tokens."""

    requests: int
    concurrency: int
    stream: bool
    tokens: int
    seed: int


@dataclass(frozen=True)
class Result:
    """Requests per second, the median over requests of the time to the first token, and CPU time per request.

    Times in seconds. The CPU time is that of all processes of a contestant, without the client that asks over HTTP: on
    a busy machine it says more than the clock.
    """

    rate: float
    first: float
    cpu: float = 0.0


Ask = Callable[[list[int], Load], Awaitable[float]]


async def drive(ask: Ask, load: Load) -> Result:
    """Keep ``concurrency`` requests in flight until all are answered."""
    draw = random.Random(load.seed)
    prompts = iter([[draw.randrange(300) for _ in range(PROMPT_TOKENS)] for _ in range(load.requests)])
    firsts: list[float] = []

    async def worker() -> None:
        for prompt in prompts:
            firsts.append(await ask(prompt, load))

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(load.concurrency)))
    return Result(load.requests / (time.perf_counter() - started), statistics.median(firsts))


async def engine_child(model: Path) -> None:
    """Measure the engine inside this process, one line of JSON in and one out."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from tatara.engine.engine import Engine

    engine = await Engine.start(model, ENGINE, cuda=False, name="tiny")

    async def ask(prompt: list[int], load: Load) -> float:
        kind = RequestOutputKind.DELTA if load.stream else RequestOutputKind.FINAL_ONLY
        params = SamplingParams(temperature=0.0, max_tokens=load.tokens, ignore_eos=True, output_kind=kind)
        started, first = time.perf_counter(), 0.0
        async for _ in engine.stream(prompt, params):
            first = first or time.perf_counter() - started
        return first

    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(asdict(await drive(ask, Load(**json.loads(line))))), flush=True)
    engine.shutdown()


async def app_child(model: Path, port: int) -> None:
    """Serve the OpenAI application on an engine with uvicorn, until standard input ends."""
    import uvicorn

    from tatara.engine.engine import Engine
    from tatara.serve.openai_app import openai_app

    engine = await Engine.start(model, ENGINE, cuda=False, name="tiny")
    server = uvicorn.Server(uvicorn.Config(await openai_app(engine), port=port, log_level="error", access_log=False))
    serving = asyncio.create_task(server.serve())
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    server.should_exit = True
    await serving
    engine.shutdown()


def over_http(url: str) -> Callable[[Load], Result]:
    """Measure a server from this process."""
    import aiohttp

    async def measure(load: Load) -> Result:
        connector = aiohttp.TCPConnector(limit=load.concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask(prompt: list[int], load: Load) -> float:
                body = {
                    "model": "tiny", "prompt": prompt, "max_tokens": load.tokens, "temperature": 0,
                    "ignore_eos": True, "stream": load.stream,
                }  # fmt: skip
                started, first = time.perf_counter(), 0.0
                async with session.post(f"{url}/v1/completions", json=body) as response:
                    assert response.status == 200, await response.text()
                    async for _ in response.content.iter_any():
                        first = first or time.perf_counter() - started
                return first

            return await drive(ask, load)

    return lambda load: asyncio.run(measure(load))


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This script in a process of its own, once it is ready."""
    process = subprocess.Popen(
        [sys.executable, str(HERE), *arguments], env=os.environ | engine_environment(cuda=False),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            if not line:
                sys.exit(f"{' '.join(arguments)} did not start")
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def contestants(model: Path, port: int, names: list[str]) -> Iterator[dict[str, Callable[[Load], Result]]]:
    """All of them, started and ready; those that are not being measured are idle."""
    from tatara import cluster
    from tatara.serve.config import ServeConfig
    from tatara.serve.deployment import deployed

    with ExitStack() as stack:
        found: dict[str, Callable[[Load], Result]] = {}
        if "engine" in names:
            engine = stack.enter_context(child("--child", "engine", "--model", str(model)))

            def direct(load: Load) -> Result:
                assert engine.stdin is not None
                assert engine.stdout is not None
                engine.stdin.write(json.dumps(asdict(load)) + "\n")
                engine.stdin.flush()
                return Result(**json.loads(engine.stdout.readline()))

            found["engine"] = with_cpu(direct, set())
        before = set(psutil.Process().children(recursive=True))
        if "app" in names:
            stack.enter_context(child("--child", "app", "--model", str(model), "--port", str(port + 1)))
            found["app"] = with_cpu(over_http(f"http://127.0.0.1:{port + 1}"), before)
        before = set(psutil.Process().children(recursive=True))
        if "server" in names:
            cluster.connect(num_cpus=2)
            stack.callback(cluster.disconnect)
            endpoint = stack.enter_context(deployed(model, ServeConfig(engine=ENGINE, port=port), print, name="tiny"))
            found["server"] = with_cpu(over_http(endpoint.url), before)
        yield found


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU time the processes have used so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())


def with_cpu(run: Callable[[Load], Result], before: set[psutil.Process]) -> Callable[[Load], Result]:
    """Measure the CPU time of the processes that were started since ``before``, too."""
    own = sorted(set(psutil.Process().children(recursive=True)) - before, key=lambda process: process.pid)

    def measured(load: Load) -> Result:
        started = cpu_seconds(own)
        result = run(load)
        return replace(result, cpu=(cpu_seconds(own) - started) / load.requests)

    return measured


def measure(found: dict[str, Callable[[Load], Result]], arguments: argparse.Namespace) -> None:
    columns = f"{'requests/s':>12}{'of engine':>11}{'first token ms':>16}{'over engine':>13}{'CPU ms':>9}"
    print(f"\n{'load':24}{'contestant':12}{columns}")
    for concurrency in arguments.concurrency:
        for stream in (False, True):
            results: dict[str, list[Result]] = {name: [] for name in found}
            for number in range(arguments.rounds + 1):
                requests = max(16, arguments.requests if concurrency > 1 else arguments.requests // 4)
                load = Load(requests, concurrency, stream, arguments.tokens, seed=number)
                for name, run in found.items():
                    result = run(load)
                    # The first round warms up connections, code paths and caches.
                    results[name] += [result] if number else []
            _print(f"{concurrency} {'streamed' if stream else 'whole'}", results, stream)


def _print(label: str, results: dict[str, list[Result]], stream: bool) -> None:
    rates = {name: statistics.median(result.rate for result in found) for name, found in results.items()}
    firsts = {name: statistics.median(result.first for result in found) for name, found in results.items()}
    for name in results:
        ratio = f"{rates[name] / rates['engine']:.2f}" if "engine" in rates else "-"
        first = f"{1000 * firsts[name]:.1f}" if stream else "-"
        over = f"{1000 * (firsts[name] - firsts['engine']):+.1f}" if stream and "engine" in firsts else "-"
        cpu = 1000 * statistics.median(result.cpu for result in results[name])
        print(f"{label:24}{name:12}{rates[name]:>12.1f}{ratio:>11}{first:>16}{over:>13}{cpu:>9.1f}", flush=True)


def main(argv: list[str] | None = None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=96, help="per measurement (a quarter of it one by one)")
    parser.add_argument("--tokens", type=int, default=32, help="length of each completion in tokens")
    parser.add_argument("--concurrency", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--contestants", type=lambda text: text.split(","), default=list(CONTESTANTS))
    parser.add_argument("--port", type=int, default=8310)
    parser.add_argument("--child", choices=["engine", "app"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child == "engine":
        return asyncio.run(engine_child(arguments.model))
    if arguments.child == "app":
        return asyncio.run(app_child(arguments.model, arguments.port))
    from engine.tiny_llama import write_tiny_llama

    with tempfile.TemporaryDirectory() as directory:
        model = write_tiny_llama(Path(directory) / "tiny", vocabulary=VOCABULARY)
        with contestants(model, arguments.port, arguments.contestants) as found:
            measure(found, arguments)
    return None


if __name__ == "__main__":
    main()
