import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

SCRIPT = Path(__file__).with_name("serve_forever_script.py")


@contextmanager
def server(model: Path, port: int, log: Path) -> Iterator[subprocess.Popen]:
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(model), str(port)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(log: Path, text: str, process: subprocess.Popen, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.slow
def test_it_answers_until_sigterm_and_leaves_no_process(
    tiny_llama: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    log, port = tmp_path / "log", free_port()
    with server(tiny_llama, port, log) as process:
        wait_for(log, "Ctrl-C stops it", process, 180)
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/completions",
            json={"model": "tiny", "prompt": "a", "max_tokens": 2}, timeout=60, trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 200
        below = psutil.Process(process.pid).children(recursive=True)
        assert any("EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline()) for child in below)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        _, alive = psutil.wait_procs(below, timeout=10)
        assert alive == []
    lines = log.read_text().splitlines()
    # Nothing of Ray or vLLM comes between the lines a user reads.
    said = [line for line in lines if not line.startswith("still waiting")]
    assert len(said) == 5, lines
    assert said[0].startswith("waiting for 1 replica(s) of tiny to load")
    assert said[1].startswith(f"tiny answers at http://127.0.0.1:{port} (ready in")
    assert said[2].startswith(f"  curl http://127.0.0.1:{port}/v1/completions")
    assert said[3:] == ["Ctrl-C stops it", "stopped"]


@pytest.mark.ray
def test_sigint_while_it_starts_stops_everything(
    tiny_llama: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    log = tmp_path / "log"
    with server(tiny_llama, free_port(), log) as process:
        wait_for(log, "waiting for 1 replica", process, 90)
        time.sleep(2)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        _, alive = psutil.wait_procs(below, timeout=10)
        assert alive == []
    assert log.read_text().splitlines()[-1] == "stopped"


def test_a_port_in_use_is_said_in_one_line_at_once(tiny_llama: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with server(tiny_llama, port, log) as process:
            assert process.wait(timeout=30) == 1
    assert log.read_text() == f"port {port} is in use on 127.0.0.1; pass --port with another one\n"
