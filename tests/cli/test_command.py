"""The ``tatara`` command: help, completion, errors as one line, exit statuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tatara.artifact import Draft, InputEntry, SourcesEntry, Store
from tatara.cli.command import call
from tatara.errors import DataError, own_error
from tatara.recipe.stages import STAGES


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with one line on standard error."""
    assert call(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture
def model(tmp_path: Path) -> Store:
    """A store with documents made from raw files, and tokens made from them."""
    store = Store(tmp_path / "root")
    attempt = store.begin(
        Draft(
            "documents", "d", 1, "curate", "aa", {"corpus": "x"}, sources=SourcesEntry(files=2, bytes=30, sha256="cc")
        )
    )
    lines = [{"path": f"raw-{number}.txt", "size": 15, "sha256": f"{number}" * 64} for number in range(2)]
    (attempt.path / "sources.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    documents = attempt.commit({"documents": 2}, 1.0)
    entry = InputEntry(reference=documents.reference, url=documents.url, fingerprint=documents.fingerprint)
    attempt = store.begin(Draft("tokens", "t", 1, "tokenize", "bb", inputs={"documents": entry}))
    (attempt.path / "train.bin").write_bytes(b"1234")
    attempt.commit({"vocab_size": 512}, 1.0)
    return store


def test_help_lists_every_stage_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--help"]) == 0
    output = capsys.readouterr().out
    for name in [*STAGES, "run", "show", "verify", "doctor", "completion"]:
        assert name in output


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_lists_its_fields(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([stage, "--help"]) == 0
    output = capsys.readouterr().out
    assert "--config FILE" in output
    assert "--input NAME=ARTIFACT" in output


def test_show_reaches_raw_files_with_hashes(model: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["show", "tokens/t", "--root", model.root]) == 0
    output = capsys.readouterr().out
    assert "vocab_size: 512" in output
    assert "documents: documents/d@1" in output
    assert "raw files: 2 (30 B)" in output
    assert "0000000000000000  15 B  raw-0.txt" in output
    assert call(["show", "tokens/t", "--root", model.root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == "bb"


def test_verify_fails_on_damage(model: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["verify", "tokens/t@1", "--root", model.root]) == 0
    Path(model.open("tokens/t").file_url("train.bin")).write_bytes(b"1235")
    capsys.readouterr()
    assert "tokens/t@1 is damaged: 1 of 1 files differ" in refused(capsys, "verify", "tokens/t@1", "--root", model.root)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "no-such.yaml"], "no configuration file at no-such.yaml"),
        (["curate", "--config", "no-such.yaml"], "no configuration file at no-such.yaml"),
        (["show", "model/none@3"], "no artifact model/none@3"),
        (["tokenize"], "tokenize needs its input: --input documents=documents/NAME@VERSION"),
        (["tokenize", "--input", "documents"], "write NAME=ARTIFACT"),
        (["tokenize", "--input", "tokens=x/y@1"], "has no input 'tokens'; it takes: documents"),
        (["curate", "--corpus", "/no/such/corpus.jsonl"], "/no/such/corpus.jsonl"),
        (["tokenize", "--vocab_size", "many"], "--vocab_size: input should be a valid integer"),
        (["serve"], "which model?"),
        (["serve", "--model", "model/none@1"], "no artifact model/none@1"),
        (["curate", "--name", "../up"], "cannot be a name"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, *arguments)
    assert not list(tmp_path.rglob("manifest.json"))


def test_wrong_keys_in_a_job_file_name_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("config: {vocab_sise: 100}\n")
    error = refused(capsys, "tokenize", "--config", str(job))
    assert "job.yaml: config: vocab_sise: unknown key; did you mean 'vocab_size'?" in error
    job.write_text("konfig: {}\n")
    assert "konfig: unknown key; did you mean 'config'?" in refused(capsys, "tokenize", "--config", str(job))


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["tokenize", "--vocab-sise", "1"]) == 2
    assert "vocab-size" in capsys.readouterr().err


def test_our_error_is_found_behind_what_ray_wraps_it_in() -> None:
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = DataError("the corpus is empty")
    outer = RuntimeError("job failed")
    outer.cause = wrapped  # type: ignore[attr-defined]
    assert str(own_error(outer)) == "the corpus is empty"
    assert own_error(RuntimeError("a defect")) is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["completion", shell]) == 0
    assert "_TATARA_COMPLETE" in capsys.readouterr().out


def test_completion_knows_fields_of_stages() -> None:
    environment = {
        **os.environ,
        "_TATARA_COMPLETE": "bash_complete",
        "COMP_WORDS": "tatara tokenize --voc",
        "COMP_CWORD": "2",
    }
    line = "import sys; sys.argv[0] = 'tatara'; from tatara.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert "--vocab_size" in done.stdout
