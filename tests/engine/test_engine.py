import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.tiny_llama import write_tiny_llama

# The last one is longer than a block of the prefix cache.
PROMPTS = [[5, 6, 7, 8], [300, 301, 302], list(range(10, 210))]
TOKENS = 16
CHILD = Path(__file__).with_name("generate_once.py")


@contextmanager
def engine_process(
    model: Path, tmp_path: Path, update: Path | None = None, prompts: list[list[int]] = PROMPTS, **config: Any
) -> Iterator[tuple[subprocess.Popen, dict]]:
    """A process that runs an engine, and what it printed; what it printed after an update under "updated"."""
    command = [sys.executable, str(CHILD), str(model), json.dumps(prompts), str(TOKENS), json.dumps(config)]
    command += [] if update is None else [str(update)]
    with (tmp_path / "errors.log").open("w") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        said = []
        for _ in range(1 if update is None else 2):
            said.append(next((line for line in lines if line.startswith("{")), None))
            assert said[-1] is not None, (tmp_path / "errors.log").read_text()[-2000:]
        yield process, json.loads(said[0]) | ({} if update is None else {"updated": json.loads(said[1])})
    finally:
        process.kill()
        process.wait()


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return alive


@pytest.mark.slow
def test_greedy_tokens_and_logprobs_equal_hugging_face_before_and_after_an_update_and_a_stop_leaves_no_process(
    tiny_llama: Path, tmp_path: Path
) -> None:
    other = write_tiny_llama(tmp_path / "other", seed=1)
    with engine_process(tiny_llama, tmp_path, other) as (process, said):
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("EngineCore" in " ".join(child.cmdline()) for child in children)
        assert process.stdin is not None
        process.stdin.write("stop\n")
        process.stdin.flush()
        assert process.wait(timeout=60) == 0
        assert wait_until_gone(children, 60) == []
    # The checkpoint is float32 and stays so.
    assert said["dtype"] == "torch.float32"
    check_outputs(tiny_llama, said["outputs"])
    check_outputs(other, said["updated"]["outputs"])
    assert said["updated"]["version"] == 7
    # What was in flight went on to its end.
    assert said["updated"]["flown"] == 150


def check_outputs(model: Path, outputs: list[dict]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        sequence = torch.tensor([prompt + output["tokens"]])
        with torch.no_grad():
            logprobs = reference(sequence).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        taken = logprobs.gather(-1, torch.tensor(output["tokens"])[:, None])[:, 0]
        assert torch.allclose(taken, torch.tensor(output["logprobs"]), atol=1e-4)
        # Greedy up to rounding: no other token is more likely by more than the two implementations differ.
        assert torch.all(logprobs.max(-1).values - taken < 1e-4)


@pytest.mark.slow
def test_the_engine_process_ends_when_its_parent_is_killed(tiny_llama: Path, tmp_path: Path) -> None:
    # A short prompt alone: nothing larger has asked the kernel for the CPU's matrix unit before it.
    with engine_process(tiny_llama, tmp_path, prompts=PROMPTS[:1], dtype="bfloat16", max_model_len=128) as (
        process,
        said,
    ):
        children = psutil.Process(process.pid).children(recursive=True)
        assert said["dtype"] == "torch.bfloat16"
        process.kill()
        process.wait()
        assert wait_until_gone(children, 60) == []


@pytest.mark.slow
def test_weights_that_do_not_fit_are_one_line_with_the_cause(tiny_llama: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_llama, tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_size": 96}))
    with engine_process(broken, tmp_path) as (process, said):
        assert process.wait(timeout=120) == 0
    assert "size" in said["error"]
    assert "\n" not in said["error"]
    assert str(broken) in said["error"]
