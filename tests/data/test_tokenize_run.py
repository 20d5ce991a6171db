import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus import topics, write_corpus
from tatara.artifact import Artifact, Store
from tatara.data import curate_run, tokenize_run
from tatara.data.curate import STAGE as CURATE
from tatara.data.curate import CurateConfig
from tatara.data.tokenize import STAGE, TokenizeConfig
from tatara.errors import DataError
from tatara.stage import Stage, standalone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
CONFIG = TokenizeConfig(vocab_size=600, sequence_length=128, validation_fraction=0.05)
DOCUMENTS = Stage(name="by_hand", kind="documents", config=TokenizeConfig, inputs={}, run="")


def write_documents(root: Path | str, texts: dict[str, str], parts: int = 1) -> Artifact:
    """A documents artifact of texts by id, in some number of files."""
    with standalone(DOCUMENTS, CONFIG, root=root, name=f"in{parts}") as attempt:
        folder = attempt.stage_run.output.path / "documents"
        folder.mkdir(parents=True)
        items = list(texts.items())
        for i, chunk in enumerate(np.array_split(np.arange(len(items)), parts)):
            rows = [{"id": items[k][0], "text": items[k][1]} for k in chunk]
            table = pa.Table.from_pylist(rows, pa.schema([("id", pa.string()), ("text", pa.string())]))
            pq.write_table(table, folder / f"part-{i:05d}.parquet")
        return attempt.commit({})


def tokenize(documents: Artifact, root: Path | str, config: TokenizeConfig = CONFIG, name: str = "t") -> Artifact:
    with standalone(STAGE, config, inputs={"documents": documents}, root=root, name=name) as attempt:
        return attempt.commit(tokenize_run.run(config, attempt.stage_run))


def hashes(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in artifact.manifest.files if not entry.path.startswith("_")}


@pytest.fixture(scope="module")
def tokens(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("tokens")
    return tokenize(write_documents(root, topics(), parts=3), root)


def test_megatron_and_hugging_face_read_back_every_document(tokens: Artifact) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokens.local("tokenizer"))
    described = tokens.read_json("tokens.json")
    assert described["vocab_size"] == len(tokenizer) == 600
    assert described["eos_id"] == tokenizer.eos_token_id
    texts = []
    for name in ("train", "validation"):
        data = IndexedDataset(str(tokens.local(f"{name}.bin"))[: -len(".bin")])
        assert described[f"{name}_documents"] == len(data)
        assert described[f"{name}_tokens"] == sum(len(document) for document in data)
        for document in data:
            assert document[-1] == described["eos_id"]
            assert (document[:-1] != described["eos_id"]).all()
            texts.append(tokenizer.decode(document[:-1]))
    assert sorted(texts) == sorted(topics().values())
    size = sum(len(text.encode()) for text in texts)
    contents = described["train_tokens"] + described["validation_tokens"] - len(texts)
    assert described["bytes_per_token"] == pytest.approx(size / contents, abs=1e-4)


def test_the_packing_plan_covers_every_target_once(tokens: Artifact) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    for name in ("train", "validation"):
        table = pq.read_table(tokens.local(f"{name}-packing.parquet"))
        assert [str(field.type) for field in table.schema] == ["int64"] * 4
        plan = {column: table[column].to_numpy() for column in table.column_names}
        data = IndexedDataset(str(tokens.local(f"{name}.bin"))[: -len(".bin")])
        targets = {(d, o + k) for d, o, n in zip(plan["document"], plan["offset"], plan["length"], strict=True)
                   for k in range(1, n)}  # fmt: skip
        assert len(targets) == (plan["length"] - 1).sum() == sum(len(document) - 1 for document in data)
        filled = np.bincount(plan["bin"], weights=plan["length"] - 1)
        assert filled.max() <= CONFIG.sequence_length
        assert tokens.read_json("tokens.json")[f"{name}_sequences"] == len(filled)
        assert (np.diff(plan["bin"]) >= 0).all()


def test_held_out_documents_stay_the_same_when_others_come(tokens: Artifact, tmp_path: Path) -> None:
    def held_out(texts: dict[str, str], parts: int) -> set[str]:
        documents = write_documents(tmp_path / f"{len(texts)}-{parts}", texts, parts)
        found = tokenize_run.split(documents, CONFIG)
        ids = [pq.read_table(part.url)["id"].to_pylist() for part in found]
        assert not any((part.held_out & part.for_training).any() for part in found)
        return {
            id
            for names, part in zip(ids, found, strict=True)
            for id, out in zip(names, part.held_out, strict=True)
            if out
        }

    whole = held_out(topics(), 1)
    assert len(whole) == tokens.metrics["validation_documents"]
    half = dict(list(topics().items())[::2])
    assert held_out(half, 4) == whole & set(half)


def test_the_same_bytes_for_any_number_of_files_and_tasks(tokens: Artifact, tmp_path: Path) -> None:
    again = tokenize(write_documents(tmp_path, topics(), parts=7), tmp_path)
    assert hashes(again) == hashes(tokens)


def test_a_spelt_out_special_token_does_not_end_a_document(tmp_path: Path) -> None:
    texts = {"a": "before <|endoftext|> after", "b": "plain text"}
    artifact = tokenize(write_documents(tmp_path, texts), tmp_path)
    stored = np.concatenate([np.fromfile(artifact.local(f"{name}.bin"), np.uint16) for name in ("train", "validation")])
    assert (stored == artifact.read_json("tokens.json")["eos_id"]).sum() == 2


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_there_is_always_something_on_both_sides(tmp_path: Path, fraction: float) -> None:
    config = CONFIG.model_copy(update={"validation_fraction": fraction})
    documents = write_documents(tmp_path, {"a": "one text here", "b": "another text there", "c": "a third"})
    artifact = tokenize(documents, tmp_path, config)
    assert {artifact.metrics["train_documents"], artifact.metrics["validation_documents"]} == {1, 2}


@pytest.mark.parametrize("texts", [{}, {"a": "only one"}])
def test_too_few_documents(tmp_path: Path, texts: dict[str, str]) -> None:
    documents = write_documents(tmp_path, texts)
    with pytest.raises(DataError, match=f"holds {len(texts)} document.* at least 2 are needed"):
        tokenize(documents, tmp_path)
    assert Store(str(tmp_path)).versions("tokens", "t") == []


def test_the_tokenizer_is_trained_on_no_more_than_it_may(tmp_path: Path) -> None:
    documents = write_documents(tmp_path, topics(), 2)
    sizes = {name: len(text.encode()) for name, text in topics().items()}
    for limit in (1, 50_000, 10**9):
        config = CONFIG.model_copy(update={"training_bytes": limit})
        parts = tokenize_run.split(documents, config)
        chosen = [
            name
            for part in parts
            for name, yes in zip(pq.read_table(part.url)["id"].to_pylist(), part.for_training, strict=True)
            if yes
        ]
        assert chosen
        assert sum(sizes[name] for name in chosen) <= max(limit, max(sizes.values()))


def test_from_a_corpus_on_s3_to_tokens_on_s3(s3_bucket: str, tmp_path: Path) -> None:
    from tatara import storage

    url = f"{s3_bucket}/tokenize"
    storage.write_bytes(f"{url}/in.jsonl", write_corpus(tmp_path / "in.jsonl").read_bytes())
    config = CurateConfig(corpus=f"{url}/in.jsonl")
    with standalone(CURATE, config, root=f"{url}/root", name="t") as attempt:
        documents = attempt.commit(curate_run.run(config, attempt.stage_run))
    remote = tokenize(documents, f"{url}/root")
    assert remote.verify() == []

    local_config = CurateConfig(corpus=str(tmp_path / "in.jsonl"))
    with standalone(CURATE, local_config, root=tmp_path / "root", name="t") as attempt:
        local = attempt.commit(curate_run.run(local_config, attempt.stage_run))
    assert hashes(tokenize(local, tmp_path / "root")) == hashes(remote)


def test_the_report_and_the_manifest_have_the_figures(ray_cluster: None, tmp_path: Path) -> None:
    documents = write_documents(tmp_path, topics())
    with standalone(STAGE, CONFIG, inputs={"documents": documents}, root=tmp_path, name="t") as attempt:
        summary = tokenize_run.run(CONFIG, attempt.stage_run)
        reports: dict[str, Any] = dict(attempt.stage_run.reports)
    assert json.loads(json.dumps(summary)) == summary
    table = reports["table"]
    assert [row[0] for row in table["rows"]] == ["train", "validation"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert 0.9 < summary["train_fill"] <= 1
