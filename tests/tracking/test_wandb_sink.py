import glob
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tatara.errors import ConfigError
from tatara.tracking import MetricLog, read_metrics, wandb_sink
from tatara.tracking.wandb_sink import resolve_mode


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("requested", "environment", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_DISABLED": "true"}, "disabled"),
        ("auto", {"WANDB_MODE": "online"}, "offline"),
        ("online", {}, "offline"),
        ("online", {"WANDB_API_KEY": "k"}, "online"),
        ("online", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("disabled", {"WANDB_API_KEY": "k"}, "disabled"),
    ],
)
def test_online_needs_a_key_and_the_environment_can_only_narrow(
    requested: str, environment: dict[str, str], expected: str, tmp_path: Path
) -> None:
    assert resolve_mode(requested, {"HOME": str(tmp_path)} | environment) == expected


def test_a_netrc_login_counts_for_its_own_server(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0\n")
    assert resolve_mode("auto", {"HOME": str(tmp_path)}) == "online"
    assert resolve_mode("auto", {"HOME": str(tmp_path), "WANDB_BASE_URL": "https://wandb.example"}) == "offline"
    other = tmp_path / "other"
    other.write_text("default login user password 0\n")
    assert resolve_mode("auto", {"HOME": str(tmp_path), "NETRC": str(other)}) == "offline"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="sometimes"):
        resolve_mode("sometimes", {})


def test_offline_run_holds_config_history_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    # On a busy machine.
    monkeypatch.setitem(wandb_sink.FINISH_SECONDS, "offline", 60.0)
    warnings: list[str] = []
    path = tmp_path / "metrics.jsonl"
    config = {"layout": {"tp": 2}}
    with MetricLog(path, project="tests", run_name="quickstart/pretrain", config=config, warn=warnings.append) as log:
        log.table(0, "transcripts", ["response", "reward"], [["<b>two</b>", 1.0], ["three", None]])
        for step in range(1, 31):
            log.log(step, **{"train.loss": 10 - step / 10})
        # A resumed run repeats steps; W&B's own counter would drop them.
        log.log(20, **{"train.loss": 5.0})
    assert warnings == []
    (store,) = glob.glob(str(tmp_path / "wandb" / "offline-run-*" / "*.wandb"))
    records = list(read_wandb(store))
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.display_name) == ("tests", "quickstart/pretrain")
    written = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert written["layout"] == {"tp": 2}
    history = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    table, *history = history
    assert table["step"] == 0
    (stored,) = (Path(store).parent / "files" / "media" / "table").glob("transcripts*.json")
    assert json.loads(stored.read_text())["data"] == [["<b>two</b>", 1.0], ["three", None]]
    assert [row["step"] for row in history] == [*range(1, 31), 20]
    assert [row["train.loss"] for row in history] == [row["train.loss"] for row in read_metrics(path)]


def test_nothing_is_started_before_the_first_value(tmp_path: Path) -> None:
    with MetricLog(tmp_path / "m.jsonl", project="p", run_name="r", config={}):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.jsonl"]


def test_without_the_package_the_log_goes_on_even_beside_a_directory_of_old_runs(tmp_path: Path) -> None:
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    platform = Path(__file__).parents[2] / "platform"
    program = (
        f"import sys; sys.path[:0] = ['', {str(platform)!r}]\n"
        "from tatara.tracking import MetricLog\n"
        "with MetricLog('out/m.jsonl', project='p', run_name='r', config={}) as log: log.log(1, loss=1.0)"
    )
    # -S: nothing that is installed is importable.
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["m.jsonl"]


def test_disabled_writes_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with MetricLog(tmp_path / "m.jsonl", project="p", run_name="r", config={}) as log:
        log.log(1, loss=1.0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_refused_connection_keeps_the_run_offline_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    warnings: list[str] = []
    with MetricLog(tmp_path / "m.jsonl", project="p", run_name="r", config={}, warn=warnings.append) as log:
        log.log(1, loss=1.0)
    (warning,) = warnings
    assert "kept offline" in warning
    assert "\n" not in warning
    assert glob.glob(str(tmp_path / "wandb" / "offline-run-*" / "*.wandb"))
    assert len(read_metrics(tmp_path / "m.jsonl")) == 1


@pytest.mark.parametrize(
    "client",
    [
        "import sys; sys.exit(3)",
        "import sys; print('ready', flush=True); sys.exit(3)",
        "import sys; print('no room on the device', flush=True); sys.exit(1)",
        "import time; time.sleep(600)",
        "import time; print('ready', flush=True); time.sleep(600)",
    ],
    ids=["dies at once", "dies later", "says why", "hangs while starting", "hangs later"],
)
def test_a_client_that_fails_or_hangs_costs_one_warning_and_no_value(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    script = tmp_path / "client.py"
    script.write_text(client)
    # The real pipe, threads and timeouts, with a program at the other end that misbehaves.
    monkeypatch.setattr(wandb_sink, "client_command", lambda: [sys.executable, str(script)])
    monkeypatch.setattr(wandb_sink, "START_SECONDS", 0.5)
    monkeypatch.setattr(wandb_sink, "FINISH_SECONDS", {"offline": 1.0})
    warnings: list[str] = []
    log = MetricLog(tmp_path / "m.jsonl", project="p", run_name="r", config={}, warn=warnings.append)
    for step in range(3000):
        log.log(step, loss=float(step), padding=float(step))
    log.close()
    assert len(read_metrics(tmp_path / "m.jsonl")) == 3000
    (warning,) = warnings
    assert "JSONL" in warning
    if "no room" in client:
        assert "no room on the device" in warning


def test_the_client_ends_when_the_stage_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    log = MetricLog(tmp_path / "m.jsonl", project="p", run_name="r", config={})
    log.log(1, loss=1.0)
    deadline = time.monotonic() + 60
    while not glob.glob(str(tmp_path / "wandb" / "offline-run-*" / "*.wandb")):
        assert time.monotonic() < deadline, "no run after 60 s"
        time.sleep(0.1)
    sink = log._sink
    assert sink is not None
    assert sink._process is not None
    assert sink._process.stdin is not None
    # What the kernel does to a killed process: its end of the pipe closes, in the middle of a line.
    os.write(sink._process.stdin.fileno(), b'{"step": 2, "lo')
    sink._process.stdin.close()
    assert sink._process.wait(timeout=60) == 0
    log.close()


def read_wandb(path: str) -> Iterator[object]:
    """Records of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content = Path(path).read_bytes()
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
