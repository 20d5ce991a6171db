"""The whole way, small: raw text, a model, an answered HTTP request, through the quickstart recipe itself."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from corpus import write_corpus
from s3 import free_port
from tatara.artifact import Store

# Nine stages, one after the other.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]
RECIPE = Path(__file__).resolve().parents[1] / "jobs" / "recipes" / "quickstart.yaml"

KINDS = [
    *(f"{kind}/quickstart" for kind in ("documents", "tokens", "checkpoint", "conversations", "model", "endpoint")),
    *(f"{kind}/quickstart-sft" for kind in ("tokens", "checkpoint")),
    "checkpoint/quickstart-grpo",
]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The recipe over a small corpus, with a small vocabulary and few steps."""
    directory = tmp_path_factory.mktemp("quickstart")
    corpus = write_corpus(directory / "corpus.jsonl", documents=60)
    return [
        *(str(RECIPE), "--root", str(directory / "root"), "--corpus", str(corpus), "--vocab_size", "512"),
        *("--tokenize.sequence_length", "64", "--render.sequence_length", "64", "--pretrain.steps", "12"),
        *("--sft.steps", "6", "--arithmetic.train", "100", "--grpo.steps", "2"),
        *("--grpo.evaluation.prompts", "20", "--serve.port", str(free_port())),
    ]


@pytest.fixture(scope="module")
def root(arguments: list[str]) -> Path:
    """The artifact root after the recipe ran to its end."""
    done = tatara("run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(arguments[2])


def tatara(*line: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tatara", *line]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)


def test_every_stage_left_a_verified_artifact(root: Path) -> None:
    store = Store(root)
    for kind in KINDS:
        assert store.open(f"{kind}@1").verify() == [], kind
    lineage = {node.reference for node in store.lineage(store.open("endpoint/quickstart")).walk()}
    assert lineage == {f"{kind}@1" for kind in KINDS}


def test_the_model_is_what_was_trained(root: Path) -> None:
    store = Store(root)
    proof = store.open("model/quickstart").read_json("proof.json")
    assert proof["max_abs_logit_diff"] <= 1e-4
    lines = store.open("checkpoint/quickstart").local("losses.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    tuned = store.open("checkpoint/quickstart-sft").metrics
    assert (tuned["steps"], tuned["chat_template"]) == (6, "chatml@1")
    rewarded = store.open("checkpoint/quickstart-grpo").metrics
    assert (rewarded["batches"], rewarded["worker_deaths"]) == (2, 0)
    assert 0 <= rewarded["pass@1"] <= 1


def test_the_model_answered_over_http(root: Path) -> None:
    answers = Store(root).open("endpoint/quickstart").read_json("answers.json")
    assert answers
    assert all(answer["completion"] == answer["streamed"] for answer in answers)
    assert "What is 23 + 45?" in {answer["prompt"] for answer in answers}
    # The chat template's stop tokens end generation, besides the end of a text.
    model = Store(root).open("model/quickstart")
    assert model.read_json("chat_template.json")["stop_tokens"] == ["<|im_end|>"]
    assert len(model.read_json("generation_config.json")["eos_token_id"]) == 2


def test_the_report_shows_all_of_it(root: Path) -> None:
    (report,) = (root / "runs" / "quickstart").glob("*/report.html")
    text = report.read_text()
    for kind in KINDS:
        assert f"{kind}@1" in text
    assert "loss" in text
    assert not re.search(r"(src|href)=[\"']https?://", text)


def test_running_it_again_does_nothing(root: Path, arguments: list[str]) -> None:
    done = tatara("run", *arguments)
    assert done.returncode == 0
    assert "nothing to do: 9 of 9 stages of 'quickstart' are up to date" in done.stdout
    assert "report.html" in done.stdout


def test_changing_one_stage_runs_it_and_what_depends_on_it(root: Path, arguments: list[str]) -> None:
    done = tatara("run", *arguments, "--pretrain.steps", "14", "--dry-run")
    assert re.search(r"tokenize\s+skip", done.stdout)
    for stage in ("pretrain", "sft", "grpo", "export", "serve"):
        assert re.search(rf"{stage}\s+run\s+\w+/quickstart(-sft|-grpo)?@2", done.stdout), done.stdout
    assert re.search(r"render\s+skip", done.stdout)
    assert re.search(r"steps 12 -> 14", done.stdout)


def test_serve_asks_then_stays_until_it_is_told_to_stop(root: Path, arguments: list[str]) -> None:
    port = arguments[arguments.index("--serve.port") + 1]
    line = ["serve", "--recipe", str(RECIPE), "--root", str(root), "--port", port, "--ask", "What is 1 + 2?", "--keep"]
    command = [sys.executable, "-m", "tatara", *line]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = []
        while not said or "Ctrl-C" not in said[-1]:
            said.append(process.stdout.readline())
            assert said[-1], "".join(said)
        output = "".join(said)
        assert f"quickstart answers at http://127.0.0.1:{port}" in output
        assert "asked over HTTP: What is 1 + 2?" in output
        assert "answer: " in output
        assert "/v1/chat/completions" in output
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
            assert json.load(answer)["data"][0]["id"] == "quickstart"
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 0, output
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
    finally:
        if process.poll() is None:
            process.kill()
