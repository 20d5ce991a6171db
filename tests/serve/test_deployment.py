import json
import shlex
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tatara.engine.config import EngineConfig
from tatara.errors import ClusterError, EngineError
from tatara.serve.config import ServeConfig
from tatara.serve.deployment import Endpoint, check_before_start, check_port_free, deployed, failure_cause


def test_a_port_in_use_is_one_line_before_anything_starts(tiny_llama: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} is in use on 127.0.0.1; pass --port"):
            check_before_start(tiny_llama, ServeConfig(port=port))


def reusing() -> socket.socket:
    """A socket as Ray Serve's proxy opens it."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_another_server_of_ours_is_seen_although_both_could_bind(host: str) -> None:
    with reusing() as server, pytest.raises(EngineError, match="is in use"):
        check_port_free(host, server.getsockname()[1])


def test_a_port_that_our_server_just_left_is_free() -> None:
    with reusing() as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            # The side that closes first, as a server that is stopped does, keeps the connection in TIME_WAIT.
            server.accept()[0].close()
            assert client.recv(1) == b""
    check_port_free("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.250"])
def test_a_host_that_is_not_ours_is_named(host: str, free_port: Callable[[], int]) -> None:
    with pytest.raises(EngineError, match=host):
        check_port_free(host, free_port())


def test_a_directory_that_is_no_model_is_refused_before_anything_starts(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with pytest.raises(EngineError, match=r"no config\.json"):
        check_before_start(tmp_path, ServeConfig(port=free_port()))


def test_the_cause_is_found_in_what_ray_serve_says() -> None:
    message = (
        "The deployment failed to start 1 times in a row. Error:\n"
        "ray.exceptions.RayTaskError(EngineError): ray::ServeReplica:x (pid=1)\n  File 'a.py', line 1\n"
        "tatara.errors.EngineError: vLLM cannot start /m: no such dtype\nmore"
    )
    assert failure_cause([message]) == "vLLM cannot start /m: no such dtype"
    assert failure_cause(["  x\nValueError: bad\n"]).endswith("ValueError: bad")
    assert "no cause" in failure_cause([""])


def test_the_example_is_valid_json_in_a_shell_word() -> None:
    *_, body = shlex.split(Endpoint("http://127.0.0.1:8000", "m", 1.0).curl("What's up?"))
    assert json.loads(body)["prompt"] == "What's up?"
    _, url, *_, body = shlex.split(Endpoint("http://127.0.0.1:8000", "m", 1.0, chat=True).curl("Hello"))
    assert url == "http://127.0.0.1:8000/v1/chat/completions"
    assert json.loads(body)["messages"] == [{"role": "user", "content": "Hello"}]


@pytest.mark.ray
@pytest.mark.slow
def test_a_model_that_does_not_load_fails_once_with_its_cause(
    ray_cluster: None, tiny_llama: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    torn = Path(shutil.copytree(tiny_llama, tmp_path / "torn"))
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50_000])
    config = ServeConfig(port=free_port())
    with pytest.raises(EngineError, match=r"vLLM cannot start .*torn: .*SafetensorError"):
        with deployed(torn, config, print):
            pass
    # Nothing is left: the port is free again, and the cluster takes the next server.
    check_port_free(config.host, config.port)
    with pytest.raises(EngineError, match=r"tiny was not ready after \d+ s \(start_timeout\)"):
        with deployed(tiny_llama, config.model_copy(update={"start_timeout": 1.0}), print):
            pass


@pytest.mark.ray
def test_an_argument_vllm_does_not_know_and_replicas_that_cannot_fit_are_named(
    ray_cluster: None, tiny_llama: Path, free_port: Callable[[], int]
) -> None:
    with pytest.raises(ClusterError, match="2 replica"):
        with deployed(tiny_llama, ServeConfig(port=free_port(), replicas=2, cpus_per_replica=2), print):
            pass
    engine = EngineConfig(vllm_args={"max_model_length": 8})
    with pytest.raises(EngineError, match=r"vllm_args\.max_model_length: .*did you mean 'max_model_len'"):
        with deployed(tiny_llama, ServeConfig(port=free_port(), engine=engine), print):
            pass
