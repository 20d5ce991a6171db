"""Pipelines as users write them: a crawl against an earlier one, and pages to packed, mixed tokens."""

import gzip
import html
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from corpus import topics
from tatara import config as configs
from tatara.artifact import Artifact
from tatara.data import tokenize_run
from tatara.data.pipeline import run as pipeline_run
from tatara.data.pipeline.config import STAGE, CurateConfig
from tatara.data.tokenize import STAGE as TOKENIZE
from tatara.data.tokenize import TokenizeConfig
from tatara.errors import DataError
from tatara.stage import standalone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def curate(root: Path, name: str, corpus: Any, pipeline: list[Any]) -> Artifact:
    settings = configs.load(CurateConfig, {"corpus": corpus, "pipeline": pipeline})
    with standalone(STAGE, settings, root=root, name=name) as attempt:
        return attempt.commit(pipeline_run.run(settings, attempt.stage_run))


def rows(artifact: Artifact, folder: str = "documents") -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(artifact.local(entry.path)) for entry in artifact.files(folder)]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def write(path: Path, texts: dict[str, str]) -> str:
    path.write_text("\n".join(json.dumps({"id": name, "text": text}) for name, text in texts.items()))
    return str(path)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    long = {name: text for name, text in topics().items() if len(text) > 2000}
    return dict(sorted(long.items()))


def test_a_new_crawl_against_the_index_of_an_earlier_one(texts: dict[str, str], tmp_path: Path) -> None:
    names = list(texts)
    first = write(tmp_path / "first.jsonl", {name: texts[name] for name in names[:25]})
    earlier = curate(tmp_path, "earlier", first, ["exact_dedup", "fuzzy_dedup"])
    new = {f"again-{name}": texts[name] for name in names[10:15]}
    new |= {f"near-{name}": texts[name] + " And one more sentence at the end." for name in names[15:20]}
    new |= {name: texts[name] for name in names[30:]}
    second = write(tmp_path / "second.jsonl", new)
    index = {step: earlier.local(f"index/{step}") for step in ("exact_dedup", "fuzzy_dedup")}
    pipeline = [{step: {"against": [str(path)]}} for step, path in index.items()]
    later = curate(tmp_path, "later", second, pipeline)
    known = set(rows(earlier))
    dropped = rows(later, "decisions")
    for name in names[10:20]:
        found = dropped[f"again-{name}" if f"again-{name}" in new else f"near-{name}"]
        assert found["kept_id"] in known
        assert found["reason"].startswith("exact_dedup" if f"again-{name}" in new else "fuzzy_dedup")
    alone = curate(tmp_path, "alone", second, ["exact_dedup", "fuzzy_dedup"])
    assert set(rows(later)) >= {name for name in rows(alone) if name in texts} - set(dropped)
    with pytest.raises(DataError, match="fuzzy_dedup"):
        curate(tmp_path, "other", second, [{"fuzzy_dedup": {"against": [str(index["fuzzy_dedup"])], "ngram": 4}}])


def archive(path: Path, pages: dict[str, str]) -> str:
    records = []
    for name, text in pages.items():
        paragraphs = "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n"))
        body = f"<html><body><nav><a href=/>Home</a> <a href=/a>All</a></nav><article><h1>{name}</h1>{paragraphs}"
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body.encode()
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://docs.example/{name}\r\n"
            f"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:{name}>\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
        )
        records.append(gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0))
    path.write_bytes(b"".join(records))
    return str(path)


def test_from_pages_to_mixed_and_packed_tokens(texts: dict[str, str], tmp_path: Path) -> None:
    names = list(texts)
    pages = {name: texts[name] for name in names[:30]}
    pages[names[3]] += "\n\nWrite to jane.doe@some-company.com about it, she answers most of the questions on one day."
    crawl = archive(tmp_path / "crawl.warc.gz", pages)
    notes = write(tmp_path / "notes.jsonl", {name: texts[name] for name in names[30:40]})
    weights = {"web": {"match": "web/*", "weight": 0.5}, "notes": {"match": "notes/*", "weight": 0.5, "max_epochs": 3}}
    pipeline = ["extract", "repair", {"language": {"keep": ["en"]}}, "pii", "exact_dedup", "fuzzy_dedup"]
    pipeline += [{"mix": {"sources": weights}}]
    documents = curate(tmp_path, "web", {"web": crawl, "notes": notes}, pipeline)
    kept = rows(documents)
    found = {row["url"]: row for row in kept.values() if row["url"]}
    assert len(found) >= 5
    assert any("<|email|>" in row["text"] for row in found.values()) or f"https://docs.example/{names[3]}" not in found
    assert all("jane.doe" not in row["text"] for row in kept.values())
    funnel = documents.read_json("funnel.json")
    assert funnel["counts"]["pii.email"] >= 1
    shares = {name: item["after"]["share"] for name, item in funnel["steps"]["mix"]["sources"].items()}
    assert shares["web"] == pytest.approx(0.5, abs=0.1)

    config = TokenizeConfig(vocab_size=600, sequence_length=128)
    with standalone(TOKENIZE, config, inputs={"documents": documents}, root=tmp_path, name="web") as attempt:
        tokens = attempt.commit(tokenize_run.run(config, attempt.stage_run))
    plan = pq.read_table(tokens.local("train-packing.parquet")).to_pydict()
    starts: dict[int, int] = {}
    for document, offset in zip(plan["document"], plan["offset"], strict=True):
        starts[document] = starts.get(document, 0) + (offset == 0)
    repeats = sum(row["repeats"] for row in kept.values())
    held_out = tokens.read_json("tokens.json")["validation_documents"]
    most = max(row["repeats"] for row in kept.values())
    assert repeats - most * held_out <= sum(starts.values()) <= repeats
    assert max(starts.values()) == most
