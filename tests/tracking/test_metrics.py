import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.errors import DataError, StorageError
from tatara.tracking import MetricLog, read_metrics


def open_log(path: Path) -> MetricLog:
    return MetricLog(str(path), project="tests", run_name="t", config={}, wandb_mode="disabled")


def test_what_is_logged_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    with open_log(path) as log:
        log.log(1, **{"train.loss": 9.5, "train.learning_rate": 1e-5})
        log.log(2, **{"train.loss": 9.25})
    rows = read_metrics(str(path))
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["train.loss"] == 9.5
    assert rows[0]["train.learning_rate"] == 1e-5
    assert "train.learning_rate" not in rows[1]
    assert rows[0]["time"] <= rows[1]["time"]


def test_values_that_json_lacks_are_kept_and_every_line_is_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with open_log(path) as log:
        log.log(0, a=math.nan, b=math.inf, c=-math.inf)
    (row,) = read_metrics(path)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(path.read_text(), parse_constant=refuse)


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_torn_tail_is_ignored_and_never_continued(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("torn") / "m.jsonl"
    lines = [json.dumps({"step": step, "time": 1.0, "loss": step / 7}).encode() + b"\n" for step in range(9)]
    content = b"".join(lines)[:cut]
    path.write_bytes(content)
    whole = content.count(b"\n")
    assert [row["step"] for row in read_metrics(path)] == list(range(whole))
    with open_log(path) as log:
        log.log(99, loss=1.0)
    assert [row["step"] for row in read_metrics(path)] == [*range(whole), 99]


def test_a_killed_process_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    program = (
        "import sys, time; from tatara.tracking import MetricLog\n"
        "log = MetricLog(sys.argv[1], project='p', run_name='r', config={}, wandb_mode='disabled')\n"
        "[log.log(step, loss=1.0) for step in range(50)]; print('logged', flush=True); time.sleep(60)"
    )
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2] / "platform"))
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(read_metrics(path)) == 50


def test_damage_before_the_last_line_is_reported_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "time": 1.0}\n{"step": \n{"step": 3, "time": 1.0}\n')
    with pytest.raises(DataError, match="line 2"):
        read_metrics(path)


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', '{"loss": 1.0}', '{"step": 1, "loss": "high"}', "\udcff"])
def test_a_line_of_something_else_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(DataError, match="line 1"):
        read_metrics(path)


def test_a_value_that_is_no_number_is_named(tmp_path: Path) -> None:
    with open_log(tmp_path / "m.jsonl") as log:
        with pytest.raises(TypeError, match=r"train\.loss"):
            log.log(1, **{"train.loss": "low"})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="time"):
            log.log(1, time=3.0)
    assert read_metrics(tmp_path / "m.jsonl") == []


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = open_log(tmp_path / "m.jsonl")
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.log(1, loss=1.0)


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the metric log"):
        open_log(tmp_path / "file" / "m.jsonl")
    with pytest.raises(StorageError, match="local path"):
        MetricLog("s3://bucket/m.jsonl", project="p", run_name="r", config={})
    with pytest.raises(StorageError, match="cannot read"):
        read_metrics(tmp_path / "absent.jsonl")
