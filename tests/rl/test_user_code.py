from pathlib import Path

import pytest

from tatara.errors import ConfigError
from tatara.rl.grpo import STAGE, GrpoConfig
from tatara.rl.rewards.named import load_target
from tatara.rl.user_code import keep, sources


def config(**more: object) -> GrpoConfig:
    rewards = {"mine": {"kind": "python", "function": "mine.py:right"}, "other": {"kind": "exact"}}
    return GrpoConfig.model_validate({"rewards": rewards} | more)


def test_a_users_file_is_found_from_anywhere_and_kept_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "mine.py").write_text("def right(completion):\n    return 1.0\nclass Room:\n    pass\n")
    monkeypatch.chdir(home)
    kept = keep(config(environments={"room": {"kind": "custom", "target": "mine.py:Room"}}), tmp_path / "work")
    (home / "mine.py").write_text("def right(completion):\n    return 0.0\n")
    monkeypatch.chdir(elsewhere)
    assert load_target(kept.rewards["mine"].function)(None) == 1.0
    assert load_target(kept.environments["room"].target).__name__ == "Room"
    assert kept.rewards["other"] == config().rewards["other"]


def test_other_code_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def right(completion):\n    return 1.0\n")
    (before,) = sources(config())
    (tmp_path / "mine.py").write_text("def right(completion):\n    return 2.0\n")
    (after,) = sources(config())
    assert before.path == after.path == str(tmp_path / "mine.py")
    assert before.sha256 != after.sha256
    assert STAGE.resolve(STAGE.sources or "") is sources


def test_a_module_needs_no_copy_and_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = config(rewards={"mine": {"kind": "python", "function": "json:loads"}})
    assert sources(module) == []
    assert keep(module, tmp_path / "work") == module
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"mine.py:right: no file at {tmp_path}/mine.py"):
        sources(config())
