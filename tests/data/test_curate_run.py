import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus import topics
from tatara.artifact import Artifact, Store
from tatara.data import curate_run
from tatara.data.curate import STAGE, CurateConfig, LanguageConfig, PythonDocsConfig
from tatara.errors import DataError, StorageError
from tatara.stage import standalone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def curate(config: CurateConfig, root: Path | str, name: str = "t") -> tuple[Artifact, dict[str, Any]]:
    with standalone(STAGE, config, root=root, name=name) as attempt:
        summary = curate_run.run(config, attempt.stage_run)
        return attempt.commit(summary), dict(attempt.stage_run.reports)


def rows(artifact: Artifact, folder: str = "documents") -> list[dict[str, Any]]:
    return [row for entry in artifact.files(folder) for row in pq.read_table(artifact.local(entry.path)).to_pylist()]


def payload(artifact: Artifact) -> dict[str, str]:
    """Hashes of what the stage itself wrote."""
    return {
        entry.path: entry.sha256 for entry in artifact.manifest.files if not entry.path.startswith(("_", "sources"))
    }


@pytest.fixture(scope="module")
def mess(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with clean prose, copies, near-copies, other languages, boilerplate and broken files."""
    path = tmp_path_factory.mktemp("mess")
    texts = sorted(topics().items())
    records: list[dict[str, Any]] = [{"id": name, "text": text, "n": i} for i, (name, text) in enumerate(texts)]
    long = [record for record in records if len(record["text"]) > 3000]
    records += [{"id": f"copy-{r['id']}", "text": r["text"].upper()} for r in long[:5]]
    records += [{"id": f"near-{r['id']}", "text": r["text"] + " One more sentence stands here."} for r in long[5:10]]
    records += [{"text": "Der Ausschuss wird nächste Woche erneut über den Vorschlag beraten. " * 3, "id": "german"}]
    records += [{"text": "buy now " * 100, "id": "spam"}]
    records += [{"text": "tiny", "id": "tiny"}]
    half = len(records) // 2
    lines = [json.dumps(record, ensure_ascii=False) for record in records[:half]]
    lines.insert(3, '{"text": "broken')
    (path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records[half:]), path / "b.parquet", row_group_size=10)
    (path / "c.txt").write_bytes(("Im café sprach man über Größe. " * 9).encode("latin-1"))
    (path / "cut.parquet").write_bytes((path / "b.parquet").read_bytes()[:-9])
    (path / "empty.txt").write_bytes(b"")
    return path


@pytest.fixture(scope="module")
def curated(ray_cluster: None, mess: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, dict[str, Any]]:
    config = CurateConfig(corpus=str(mess), shard_bytes=100_000)
    return curate(config, tmp_path_factory.mktemp("curated"))


def test_the_funnel_accounts_for_every_document(curated: tuple[Artifact, dict[str, Any]], mess: Path) -> None:
    artifact, reports = curated
    funnel = artifact.read_json("funnel.json")
    assert reports["funnel"] == funnel
    there = len(topics()) + 5 + 5 + 3 + 1
    stages = {stage["name"]: stage for stage in funnel["stages"]}
    assert stages["read"]["documents"] == artifact.metrics["documents_read"] == there
    lost = {row["reason"]: row["documents"] for row in funnel["dropped"]}
    assert lost.pop("unreadable") == artifact.metrics["unreadable"] == 2
    kept = rows(artifact)
    assert (
        there - sum(lost.values()) == len(kept) == artifact.metrics["documents"] == stages["dedup.fuzzy"]["documents"]
    )
    assert sum(len(row["text"].encode()) for row in kept) == artifact.metrics["bytes"] == stages["dedup.fuzzy"]["bytes"]
    assert funnel["raw_bytes"] >= sum(file.stat().st_size for file in mess.glob("*.jsonl"))
    assert funnel["decoded"] == {"cp1252": 1}


def test_what_was_planted_is_dropped_for_its_reason(curated: tuple[Artifact, dict[str, Any]]) -> None:
    artifact, reports = curated
    reasons = {sample["id"]: sample for sample in reports["dropped_samples"]}
    assert reasons["german"]["reason"] == "language.keep"
    assert reasons["german"]["language"] == "de"
    assert reasons["tiny"]["reason"] == "length.min_characters"
    assert reasons["tiny"]["value"] == 4
    ids = {row["id"] for row in rows(artifact)}
    assert not ids & {"german", "spam", "tiny", "c.txt"}
    stored = pq.read_table(artifact.local("dropped/samples.parquet")).to_pylist()
    assert {row["id"] for row in stored} == set(reasons)
    assert all(row["kept_id"] for row in stored if row["reason"].startswith("dedup."))
    unreadable = pq.read_table(artifact.local("dropped/unreadable.parquet")).to_pylist()
    assert {row["source"] for row in unreadable} == {"a.jsonl", "cut.parquet"}


def test_duplicates_are_removed_and_can_be_audited(curated: tuple[Artifact, dict[str, Any]]) -> None:
    artifact, _ = curated
    kept = {row["id"]: row for row in rows(artifact)}
    duplicates = {row["id"]: row for row in rows(artifact, "duplicates")}
    assert not set(kept) & set(duplicates)
    assert sum(row["copies"] for row in kept.values()) == len(kept) + len(duplicates)
    assert {row["kept_id"] for row in duplicates.values()} <= set(kept)
    planted = [name for name in (*kept, *duplicates) if name.startswith(("copy-", "near-"))]
    assert len(planted) >= 6
    for name in planted:
        other = name.split("-", 1)[1]
        # Of a pair one is kept for the other, or both fell to a third.
        pair = [duplicates[item]["kept_id"] for item in (name, other) if item in duplicates]
        assert pair
        assert len(pair) == 2 or pair[0] in (name, other)
    exact = [row for row in duplicates.values() if row["reason"] == "dedup.exact"]
    assert all(row["similarity"] == 1 for row in exact)


def test_columns_and_ids_survive(curated: tuple[Artifact, dict[str, Any]]) -> None:
    artifact, reports = curated
    for row in rows(artifact):
        assert set(row) == {"id", "text", "source", "url", "language", "language_score", "metadata", "copies"}
        assert row["language"] == "en"
        assert row["language_score"] >= 0.5
        if row["id"] in topics():
            assert row["text"] == topics()[row["id"]]
            assert "n" in json.loads(row["metadata"])
    assert {sample["language"] for sample in reports["document_samples"]} == {"en"}


def test_the_same_bytes_with_one_worker(
    curated: tuple[Artifact, dict[str, Any]], mess: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "resource_limits", ray.data.ExecutionResources.for_limits(cpu=1))
    again, _ = curate(CurateConfig(corpus=str(mess), shard_bytes=100_000), tmp_path)
    assert payload(again) == payload(curated[0])


def test_the_same_documents_with_other_shards(
    curated: tuple[Artifact, dict[str, Any]], mess: Path, tmp_path: Path
) -> None:
    other, _ = curate(CurateConfig(corpus=str(mess), shard_bytes=10_000_000), tmp_path)
    assert len(other.files("documents")) < len(curated[0].files("documents"))
    assert rows(other) == rows(curated[0])
    assert other.read_json("funnel.json") == curated[0].read_json("funnel.json")


def test_a_killed_run_continues_with_the_shards_that_are_missing(mess: Path, tmp_path: Path) -> None:
    config = CurateConfig(corpus=str(mess), shard_bytes=100_000)

    # Ends without a commit, as a killed run does.
    with standalone(STAGE, config, root=tmp_path, name="t") as attempt:
        curate_run.run(config, attempt.stage_run)
    (work,) = (tmp_path / "work").glob("curate-t-*/")
    summaries = sorted(work.glob("shard-*.json"))
    assert len(summaries) > 3
    kept = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    lost = summaries[0]
    lost.unlink()
    with standalone(STAGE, config, root=tmp_path, name="t") as attempt:
        summary = curate_run.run(config, attempt.stage_run)
        untouched = {path.name: path.stat().st_mtime_ns for path in work.iterdir() if path.stem != lost.stem}
        assert untouched == {name: when for name, when in kept.items() if name in untouched}
        assert lost.exists()
        artifact = attempt.commit(summary)
    assert artifact.metrics["documents"] == len(rows(artifact)) > 0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"", "b.jsonl": b"\n\n"}, "is empty: its files hold no documents"),
        ({"a.parquet": b"PAR1 cut short"}, "nothing could be read; a.parquet: "),
        ({"a.jsonl": b'{"body": "x", "title": "y"}\n' * 3}, "a.jsonl at 0: no column 'text'; columns: body, title"),
        ({"a.jsonl": b'{"text": "short"}\n' * 3}, "relax --length.min_characters"),
        ({"a.txt": "Привет, как дела? ".encode() * 20}, "language.keep dropped 1 (for example a document in 'ru')"),
    ],
)
def test_corpora_of_which_nothing_comes(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        curate(CurateConfig(corpus=str(tmp_path / "in")), tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert Store(str(tmp_path / "out")).versions("documents", "t") == []


def test_rules_can_be_relaxed_for_another_language(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Привет, как дела? " * 20)
    config = CurateConfig(
        corpus=str(tmp_path / "a.txt"),
        language=LanguageConfig(keep=()),
        gopher_quality={"enabled": False},
        gopher_repetition={"enabled": False},
    )
    artifact, _ = curate(config, tmp_path / "out")
    assert [(row["id"], row["language"]) for row in rows(artifact)] == [("a.txt", "ru")]


def test_an_error_in_a_task_stays_one_line(mess: Path, tmp_path: Path) -> None:
    config = CurateConfig(corpus=str(mess))
    with standalone(STAGE, config, root=tmp_path, name="t") as attempt:
        attempt.stage_run.work = tmp_path / "not" / "there"
        with pytest.raises(StorageError) as error:
            curate_run.run(config, attempt.stage_run)
    assert str(error.value).startswith(f"cannot write {tmp_path}/not/there: no such file or directory")
    assert "\n" not in str(error.value)


def test_from_s3_to_s3(s3_bucket: str, mess: Path) -> None:
    from tatara import storage

    for file in mess.iterdir():
        storage.write_bytes(f"{s3_bucket}/mess/{file.name}", file.read_bytes())
    config = CurateConfig(corpus=f"{s3_bucket}/mess", shard_bytes=100_000)
    artifact, _ = curate(config, f"{s3_bucket}/root")
    assert artifact.url.startswith("s3://")
    assert artifact.verify() == []
    local, _ = curate(CurateConfig(corpus=str(mess), shard_bytes=100_000), mess.parent / "again")
    assert payload(artifact) == payload(local)


@pytest.mark.slow
def test_the_default_corpus(tmp_path: Path) -> None:
    config = CurateConfig(python_docs=PythonDocsConfig(max_bytes=8_000_000))
    artifact, _ = curate(config, tmp_path)
    found = rows(artifact)
    assert len(found) > 300
    assert len({row["id"] for row in found}) == len(found)
    lost = {row["reason"]: row["documents"] for row in artifact.read_json("funnel.json")["dropped"]}
    assert lost["dedup.exact"] > 50
    assert lost["dedup.fuzzy"] > 50
    texts = {hashlib.sha256(" ".join(row["text"].casefold().split()).encode()).digest() for row in found}
    assert len(texts) == len(found)
