"""Checkpoint directories: what counts as one, and what is kept."""

import json

import pytest

from tatara.train.checkpoint import directories as checkpoint


def make(root, step, content=b"weights"):
    partial = checkpoint.begin(root, step)
    (partial / "model" / "weights").write_bytes(content)
    (partial / "losses.jsonl").write_text("{}\n")
    return checkpoint.publish(partial, step, {"tokens": 7})


def test_the_newest_is_found_by_its_number(tmp_path):
    for step in (5, 100, 20):
        make(tmp_path, step)
    said = []
    found = checkpoint.newest(tmp_path, said.append)
    assert (found.step, found.manifest["tokens"], said) == (100, 7, [])
    assert (found.path / "model" / "weights").read_bytes() == b"weights"


def test_nothing_there(tmp_path):
    assert checkpoint.newest(tmp_path / "none", print) is None
    checkpoint.begin(tmp_path, 3)
    assert checkpoint.newest(tmp_path, print) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "model" / "weights").write_bytes(b"wei"), "model/weights has 3 bytes, .* says 7"),
        (lambda path: (path / "model" / "weights").unlink(), "model/weights is missing"),
        (lambda path: (path / "manifest.json").unlink(), "it has no manifest.json"),
        (lambda path: (path / "manifest.json").write_text('{"step": '), "manifest.json is unreadable"),
        (lambda path: (path / "manifest.json").write_text("[]"), "manifest.json is unreadable"),
        (lambda path: (path / "manifest.json").write_text('{"step": 1, "files": []}'), "is of step 1"),
    ],
)
def test_a_damaged_newest_falls_back_and_says_why(tmp_path, damage, said):
    import re

    make(tmp_path, 10)
    damage(make(tmp_path, 20).path)
    lines = []
    assert checkpoint.newest(tmp_path, lines.append).step == 10
    assert len(lines) == 1
    assert "step-00000020 is not usable" in lines[0]
    assert re.search(said, lines[0])


def test_publishing_a_step_again_keeps_what_is_whole_and_replaces_what_is_not(tmp_path):
    make(tmp_path, 10, b"first")
    assert (make(tmp_path, 10, b"second").path / "model" / "weights").read_bytes() == b"first"
    (tmp_path / "step-00000010" / "model" / "weights").write_bytes(b"")
    assert (make(tmp_path, 10, b"third").path / "model" / "weights").read_bytes() == b"third"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_prune_keeps_the_newest_and_sweeps_what_was_half_written(tmp_path):
    for step in (1, 2, 3):
        make(tmp_path, step)
    checkpoint.begin(tmp_path, 4)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_the_manifest_lists_every_file(tmp_path):
    made = make(tmp_path, 4)
    listed = {file["path"]: file["size"] for file in json.loads((made.path / "manifest.json").read_text())["files"]}
    assert listed == {"losses.jsonl": 3, "model/weights": 7}


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_every_nth_is_kept_for_ever(tmp_path):
    for step in range(1, 10):
        make(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, keep_every=4)
    assert [int(name[-2:]) for name in names(tmp_path)] == [4, 8, 9]


def test_the_only_whole_one_is_never_deleted(tmp_path):
    for step in (1, 2, 3):
        make(tmp_path, step)
    for step in (2, 3):
        (tmp_path / f"step-0000000{step}" / "model" / "weights").unlink()
    checkpoint.prune(tmp_path, keep=1)
    assert checkpoint.newest(tmp_path, lambda _: None).step == 1
    make(tmp_path, 4)
    checkpoint.prune(tmp_path, keep=1)
    assert names(tmp_path) == ["step-00000004"]


def test_a_roll_back_discards_what_is_newer(tmp_path):
    for step in (10, 20, 30):
        make(tmp_path, step)
    checkpoint.discard_after(tmp_path, 10)
    assert names(tmp_path) == ["step-00000010"]


def test_a_roll_back_that_was_killed_in_the_middle_holds(tmp_path, monkeypatch):
    for step in (10, 20, 30):
        make(tmp_path, step)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.discard_after(tmp_path, 10)
    assert len(list(tmp_path.glob("step-*"))) == 2
    lines = []
    assert checkpoint.newest(tmp_path, lines.append).step == 10
    assert "a roll back discarded it" in lines[0]
    # Trained again up to the same steps: these count.
    for step in (20, 30):
        make(tmp_path, step, b"anew")
        assert checkpoint.newest(tmp_path, print).step == step
    checkpoint.prune(tmp_path, keep=3)
    assert names(tmp_path) == ["step-00000010", "step-00000020", "step-00000030"]
