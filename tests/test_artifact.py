"""Artifacts on a local disk and on S3: commit, verify, lineage, races and crashes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara import artifact, storage
from tatara.artifact import Draft, Store
from tatara.errors import ArtifactError, StorageError


def draft(version: int = 1, fingerprint: str = "f1", **changes: object) -> Draft:
    return Draft(kind="tokens", name="t", version=version, stage="tokenize", fingerprint=fingerprint, **changes)  # type: ignore[arg-type]


def commit(store: Store, content: str = "hello", **changes: object) -> artifact.Artifact:
    attempt = store.begin(draft(**changes))  # type: ignore[arg-type]
    (attempt.path / "deep").mkdir()
    (attempt.path / "deep" / "a.txt").write_text(content)
    (attempt.path / "b.bin").write_bytes(b"\0" * 10)
    return attempt.commit({"tokens": 3}, 1.5)


def test_what_is_committed_can_be_opened_and_verified(any_root: str) -> None:
    store = Store(any_root)
    made = commit(store)
    opened = store.open("tokens/t@1")
    assert opened.manifest == made.manifest
    assert opened.reference == "tokens/t@1"
    assert opened.metrics == {"tokens": 3}
    assert [entry.path for entry in opened.manifest.files] == ["b.bin", "deep/a.txt"]
    assert opened.local("deep/a.txt").read_text() == "hello"
    assert opened.local("deep").is_dir()
    assert opened.verify() == []
    assert store.open("tokens/t").version == 1
    assert store.resolve(opened.url).fingerprint == "f1"
    assert store.find("tokens", "t", "f1") == opened
    assert store.find("tokens", "t", "other") is None


def test_verify_names_each_kind_of_damage(any_root: str) -> None:
    store = Store(any_root)
    made = commit(store)
    storage.write_bytes(made.file_url("deep/a.txt"), b"jello")
    storage.write_bytes(made.file_url("extra"), b"x")
    fs, path = storage.filesystem(made.file_url("b.bin"))
    fs.rm(path)
    problems = store.open("tokens/t@1").verify()
    assert any(line.startswith("deep/a.txt: the content changed") for line in problems)
    assert "b.bin: missing" in problems
    assert "extra: not in the manifest" in problems
    storage.write_bytes(made.file_url("b.bin"), b"\0" * 3)
    assert "b.bin: 3 bytes, the manifest says 10" in store.open("tokens/t@1").verify()


def test_a_torn_write_is_never_taken_for_a_result(any_root: str) -> None:
    store = Store(any_root)
    attempt = store.begin(draft())
    (attempt.path / "a.txt").write_text("half")
    storage.write_bytes(storage.join(attempt.url, "written-by-a-worker"), b"x")
    assert store.versions("tokens", "t") == []
    with pytest.raises(ArtifactError, match="no version is committed"):
        store.open("tokens/t@1")
    attempt.discard()
    directory = storage.join(any_root, "tokens", "t@1")
    storage.write_bytes(storage.join(directory, "a.txt"), b"a payload without a manifest")
    assert store.versions("tokens", "t") == []
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        artifact.open_directory(directory)


def test_files_that_workers_wrote_to_the_url_are_committed_too(any_root: str) -> None:
    attempt = Store(any_root).begin(draft())
    storage.write_bytes(storage.join(attempt.url, "part-0"), b"from a worker")
    (attempt.path / "local").write_text("from the driver")
    made = attempt.commit({}, 0.0)
    assert [entry.path for entry in made.manifest.files] == ["local", "part-0"]
    assert made.local("part-0").read_bytes() == b"from a worker"
    assert made.local("local").read_text() == "from the driver"


def test_concurrent_attempts_never_mix(any_root: str) -> None:
    store = Store(any_root)
    attempts = [store.begin(draft(fingerprint=f"f{number}")) for number in range(4)]
    for number, attempt in enumerate(attempts):
        (attempt.path / f"only-{number}").write_text(str(number))
        (attempt.path / "same").write_text(str(number))
    results: list[object] = []

    def publish(attempt: artifact.Attempt) -> None:
        try:
            results.append(attempt.commit({}, 0.0))
        except ArtifactError as error:
            results.append(error)
            attempt.discard()

    threads = [threading.Thread(target=publish, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [item for item in results if isinstance(item, artifact.Artifact)]
    assert len(winners) == 1
    assert all("committed by another run" in str(item) for item in results if isinstance(item, Exception))
    winner = Store(any_root).open("tokens/t@1")
    number = winner.fingerprint.removeprefix("f")
    assert [entry.path for entry in winner.manifest.files] == [f"only-{number}", "same"]
    assert winner.verify() == []


KILLED_BEFORE_THE_MANIFEST = """
    import os, signal, sys
    from tatara import storage
    from tatara.artifact import Draft, Store
    attempt = Store(sys.argv[1]).begin(Draft("tokens", "t", 1, "tokenize", "f1"))
    (attempt.path / "payload").write_text("complete")
    def die(url, data, **_):
        os.kill(os.getpid(), signal.SIGKILL)
    storage.write_bytes = die
    attempt.commit({}, 0.0)
"""


def test_killed_between_payload_and_manifest_leaves_no_result(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(artifact.__file__).parents[2])}
    command = [sys.executable, "-c", textwrap.dedent(KILLED_BEFORE_THE_MANIFEST), str(tmp_path)]
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    store = Store(tmp_path)
    assert list((tmp_path / "tokens" / ".attempts").glob("t@1-*/payload"))
    assert store.versions("tokens", "t") == []
    commit(store)
    assert store.open("tokens/t@1").verify() == []
    assert list((tmp_path / "tokens" / ".attempts").iterdir()) == []


def test_a_running_attempt_is_not_swept_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    running = store.begin(draft())
    (running.path / "a").write_text("x")
    commit(store, version=2)
    assert (running.path / "a").exists()
    running.commit({}, 0.0)
    assert store.versions("tokens", "t") == [1, 2]


def test_damaged_manifests_are_said_to_be(tmp_path: Path) -> None:
    made = commit(Store(tmp_path))
    manifest = Path(made.url) / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="is damaged"):
        artifact.open_directory(made.url)
    manifest.write_text(json.dumps({**json.loads(whole), "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema 99"):
        artifact.open_directory(made.url)


def test_lineage_reaches_back_through_every_input(any_root: str) -> None:
    store = Store(any_root)
    tokens = commit(store)
    entry = artifact.InputEntry(reference=tokens.reference, url=tokens.url, fingerprint=tokens.fingerprint)
    gone = artifact.InputEntry(reference="tokens/gone@7", url="/nowhere", fingerprint="fx")
    attempt = store.begin(Draft("model", "m", 1, "train", "f2", inputs={"tokens": entry, "old": gone}))
    (attempt.path / "w").write_text("w")
    tree = store.lineage(attempt.commit({}, 0.0))
    assert [(node.reference, node.artifact is not None) for node in tree.walk()] == [
        ("model/m@1", True),
        ("tokens/t@1", True),
        ("tokens/gone@7", False),
    ]


def test_references_that_are_wrong_say_what_is_right(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    with pytest.raises(ArtifactError, match="committed versions: 1"):
        store.open("tokens/t@4")
    with pytest.raises(ArtifactError, match="write kind/name@version"):
        store.open("tokens")
    with pytest.raises(ArtifactError, match="cannot be a name"):
        store.begin(Draft("tokens", "../x", 1, "s", "f"))


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.isdir("/proc"), reason="needs a place nobody can write")
def test_a_root_that_cannot_be_written_is_named() -> None:
    with pytest.raises(StorageError, match="/proc/tatara"):
        Store("/proc/tatara").begin(draft())


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=3), LITERALS, max_size=4))
def test_a_fingerprint_depends_on_content_not_on_order(config: dict[str, object]) -> None:
    reversed_order = dict(reversed(list(config.items())))
    first = artifact.fingerprint("s", config, {"a": "1", "b": "2"}, None)
    assert first == artifact.fingerprint("s", reversed_order, {"b": "2", "a": "1"}, None)
    assert first != artifact.fingerprint("s", {**config, "more": 1}, {"a": "1", "b": "2"}, None)
    assert first != artifact.fingerprint("s", config, {"a": "1", "b": "3"}, None)
    assert first != artifact.fingerprint("s", config, {"a": "1", "b": "2"}, "raw")
