"""The stage on a real Ray cluster: what is planted is found, and nothing depends on shards, workers or kills."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus import topics
from tatara import config as configs
from tatara.artifact import Artifact, Store
from tatara.data import shard_map
from tatara.data.pipeline import run as pipeline_run
from tatara.data.pipeline.config import STAGE, CurateConfig
from tatara.data.pipeline.explain import explain
from tatara.errors import DataError, StorageError
from tatara.stage import standalone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def config(corpus: Path | str, **values: Any) -> CurateConfig:
    return configs.load(CurateConfig, {"corpus": str(corpus), **values})


def curate(settings: CurateConfig, root: Path | str, name: str = "t") -> tuple[Artifact, dict[str, Any]]:
    with standalone(STAGE, settings, root=root, name=name) as attempt:
        summary = pipeline_run.run(settings, attempt.stage_run)
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
    return curate(config(mess, shard_bytes=100_000), tmp_path_factory.mktemp("curated"))


def test_the_funnel_accounts_for_every_document(curated: tuple[Artifact, dict[str, Any]]) -> None:
    artifact, reports = curated
    funnel = artifact.read_json("funnel.json")
    assert {key: funnel[key] for key in reports["funnel"]} == reports["funnel"]
    there = len(topics()) + 5 + 5 + 3 + 1
    stages = {stage["name"]: stage for stage in funnel["stages"]}
    assert stages["read"]["documents"] == artifact.metrics["documents_read"] == there
    lost = {row["reason"]: row["documents"] for row in funnel["dropped"]}
    assert funnel["unreadable"]["documents"] == artifact.metrics["unreadable"] == len(rows(artifact, "unreadable")) == 3
    kept = rows(artifact)
    last = stages["fuzzy_dedup"]
    assert there - sum(lost.values()) == len(kept) == artifact.metrics["documents"] == last["documents"]
    assert sum(len(row["text"].encode()) for row in kept) == artifact.metrics["bytes"] == last["bytes"]
    assert funnel["encodings"] == {"cp1252": 1}
    assert len({row["id"] for row in kept} | {row["id"] for row in rows(artifact, "decisions")}) == there


def test_every_dropped_document_says_why(curated: tuple[Artifact, dict[str, Any]]) -> None:
    artifact, reports = curated
    dropped = {row["id"]: row for row in rows(artifact, "decisions")}
    assert (dropped["german"]["reason"], dropped["german"]["language"]) == ("language.keep", "de")
    assert (dropped["tiny"]["reason"], dropped["tiny"]["value"]) == ("length.min_characters", 4)
    assert not {row["id"] for row in rows(artifact)} & {"german", "spam", "tiny", "c.txt"}
    for sample in reports["dropped_samples"]:
        assert dropped[sample["id"]]["reason"] == sample["reason"]
    assert {row["source"] for row in rows(artifact, "unreadable")} == {"a.jsonl", "cut.parquet", "empty.txt"}


def test_copies_can_be_audited(curated: tuple[Artifact, dict[str, Any]]) -> None:
    artifact, reports = curated
    kept = {row["id"]: row for row in rows(artifact)}
    removed = {row["id"]: row for row in rows(artifact, "decisions") if "_dedup" in row["reason"]}
    assert not set(kept) & set(removed)
    for row in removed.values():
        # What stays instead of a copy may itself be the copy of a third.
        while row["kept_id"] in removed:
            row = removed[row["kept_id"]]
        assert row["kept_id"] in kept
    assert sum(row["copies"] for row in kept.values()) == len(kept) + len(removed)
    planted = [name for name in (*kept, *removed) if name.startswith(("copy-", "near-"))]
    assert len(planted) >= 6
    for name in planted:
        other = name.split("-", 1)[1]
        # Of a pair one is kept for the other, or both fell to a third.
        pair = [removed[item]["kept_id"] for item in (name, other) if item in removed]
        assert pair
        assert len(pair) == 2 or pair[0] in (name, other)
    for example in reports["duplicate_clusters"]["examples"]:
        assert example["kept"]["id"] in kept
        assert {item["id"] for item in example["removed"]} <= set(removed)


def test_columns_and_ids_survive(curated: tuple[Artifact, dict[str, Any]]) -> None:
    artifact, reports = curated
    for row in rows(artifact):
        assert row["language"] == "en"
        assert row["language_score"] >= 0.5
        if row["id"] in topics():
            assert row["text"] == topics()[row["id"]]
            assert "n" in json.loads(row["metadata"])
    assert {sample["language"] for sample in reports["document_samples"]} == {"en"}
    assert reports["histograms"][0]["bars"] == [{"label": "en", "value": len(rows(artifact))}]


def test_the_same_bytes_with_ray_data_and_one_worker(
    curated: tuple[Artifact, dict[str, Any]], mess: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    monkeypatch.setattr(shard_map, "RAY_DATA_FROM", 0)
    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "resource_limits", ray.data.ExecutionResources.for_limits(cpu=1))
    again, _ = curate(config(mess, shard_bytes=100_000), tmp_path)
    assert payload(again) == payload(curated[0])


def test_the_same_documents_with_other_shards_and_less_memory(
    curated: tuple[Artifact, dict[str, Any]], mess: Path, tmp_path: Path
) -> None:
    other, _ = curate(config(mess, task_memory=32_000_000), tmp_path)
    assert len(other.files("documents")) < len(curated[0].files("documents"))
    for folder in ("documents", "decisions", "unreadable"):
        assert sorted(rows(other, folder), key=str) == sorted(rows(curated[0], folder), key=str)
    assert rows(other) == rows(curated[0])
    assert other.read_json("funnel.json")["stages"] == curated[0].read_json("funnel.json")["stages"]


def test_a_killed_run_goes_on_with_what_is_missing(
    curated: tuple[Artifact, dict[str, Any]], mess: Path, tmp_path: Path
) -> None:
    settings = config(mess, shard_bytes=100_000)
    # Ends without a commit, as a killed run does.
    with standalone(STAGE, settings, root=tmp_path, name="t") as attempt:
        pipeline_run.run(settings, attempt.stage_run)
    [work] = (tmp_path / "work").glob("curate-t-*/shards-*/")
    last = sorted(work.glob("pass-*"))[-1]
    summaries = sorted(last.glob("summary-*"))
    assert len(summaries) > 3
    lost = summaries[0]
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    # What the first pass stored is needed again; a run that was killed in the second still has it.
    first = work / "pass-1"
    for path in first.glob("summary-00000*"):
        path.unlink()
    for path in (work / "pass-2").glob("summary-00000*"):
        path.unlink()
    with standalone(STAGE, settings, root=tmp_path, name="t") as attempt:
        summary = pipeline_run.run(settings, attempt.stage_run)
        assert lost.exists()
        for path, when in before.items():
            if "-00000" not in path.name and path.exists():
                assert path.stat().st_mtime_ns == when, path
        artifact = attempt.commit(summary)
    assert payload(artifact) == payload(curated[0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"b.jsonl": b"\n\n"}, "is empty: its files hold no documents"),
        ({"a.txt": b""}, "nothing could be read; a.txt: "),
        ({"a.parquet": b"PAR1 cut short"}, "nothing could be read; a.parquet: "),
        ({"a.jsonl": b'{"body": "x", "title": "y"}\n' * 3}, "a.jsonl at 0: "),
        ({"a.jsonl": b'{"text": "short"}\n' * 3}, "relax --pipeline.length.min_characters"),
        ({"a.txt": "Привет, как дела? ".encode() * 20}, "language.keep dropped 1 (for example a document in 'ru')"),
        ({"a.html": b"<html><body><p>A page.</p></body></html>"}, "put the step 'extract' first"),
    ],
)
def test_corpora_of_which_nothing_comes(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    settings = config(tmp_path / "in", **({"pipeline": []} if "a.html" in files else {}))
    with pytest.raises(DataError) as error:
        curate(settings, tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert Store(str(tmp_path / "out")).versions("documents", "t") == []


@pytest.mark.parametrize("limit", [0, 1, 0.01])
def test_too_much_that_cannot_be_read_ends_the_run(mess: Path, tmp_path: Path, limit: float) -> None:
    with pytest.raises(DataError, match=r"3 records could not be read, more than read\.max_unreadable .*a\.jsonl at"):
        curate(config(mess, read={"max_unreadable": limit}), tmp_path)


def test_an_error_in_a_task_stays_one_line(mess: Path, tmp_path: Path) -> None:
    settings = config(mess)
    with standalone(STAGE, settings, root=tmp_path, name="t") as attempt:
        (tmp_path / "file").write_text("in the way")
        attempt.stage_run.work = tmp_path / "file" / "below"
        with pytest.raises(StorageError) as error:
            pipeline_run.run(settings, attempt.stage_run)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_from_s3_to_s3(curated: tuple[Artifact, dict[str, Any]], s3_bucket: str, mess: Path) -> None:
    from tatara import storage

    for file in mess.iterdir():
        storage.write_bytes(f"{s3_bucket}/mess/{file.name}", file.read_bytes())
    artifact, _ = curate(config(f"{s3_bucket}/mess", shard_bytes=100_000), f"{s3_bucket}/root")
    assert artifact.url.startswith("s3://")
    assert artifact.verify() == []
    assert payload(artifact) == payload(curated[0])


def test_explaining_documents(curated: tuple[Artifact, dict[str, Any]], mess: Path) -> None:
    artifact, _ = curated
    settings = config(mess)
    said = list(explain(settings, "german", artifact))
    assert any("language: DROPPED by language.keep" in line for line in said)
    assert "german" in said[0]
    fuzzy = next(row for row in rows(artifact, "decisions") if row["step"] == "fuzzy_dedup")
    said = list(explain(settings, fuzzy["id"], artifact))
    assert any("fuzzy_dedup: DROPPED" in line and fuzzy["kept_id"] in line for line in said)
    kept = next(row for row in rows(artifact) if row["copies"] > 1)
    assert list(explain(settings, kept["id"], artifact))[-1].startswith(
        f"kept: stands for {kept['copies']} document(s)"
    )
    assert "run the pipeline first" in "\n".join(explain(settings, kept["id"], None))
    with pytest.raises(DataError, match="no document of the corpus has the id 'nobody'"):
        list(explain(settings, "nobody", artifact))
