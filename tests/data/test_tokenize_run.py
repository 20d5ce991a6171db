import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from corpus import topics
from tatara.artifact import Artifact, Store
from tatara.data import tokenize_run
from tatara.data.tokenize import STAGE, TokenizeConfig
from tatara.data.tokenizer import parts
from tatara.errors import ConfigError, DataError
from tatara.stage import Stage, standalone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
CONFIG = TokenizeConfig(vocab_size=600, sequence_length=128, validation_fraction=0.05)
DOCUMENTS = Stage(name="by_hand", kind="documents", config=TokenizeConfig, inputs={}, run="")


def write_documents(
    root: Path | str, texts: dict[str, str], files: int = 1, more: dict[str, list[Any]] | None = None
) -> Artifact:
    """A documents artifact of texts by id, in some number of files, with more columns where they are given."""
    with standalone(DOCUMENTS, CONFIG, root=root, name=f"in{files}") as attempt:
        folder = attempt.stage_run.output.path / "documents"
        folder.mkdir(parents=True)
        items = list(texts.items())
        for i, chunk in enumerate(np.array_split(np.arange(len(items)), files)):
            rows = [{"id": items[k][0], "text": items[k][1]} for k in chunk]
            table = pa.Table.from_pylist(rows, pa.schema([("id", pa.string()), ("text", pa.string())]))
            for name, values in (more or {}).items():
                table = table.append_column(name, pa.array([values[k] for k in chunk]))
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
    return tokenize(write_documents(root, topics(), files=3), root)


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


def test_documents_keep_their_ids(tokens: Artifact) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokens.local("tokenizer"))
    named = {}
    for name in ("train", "validation"):
        data = IndexedDataset(str(tokens.local(f"{name}.bin"))[: -len(".bin")])
        table = pq.read_table(tokens.local(f"{name}-documents.parquet"))
        assert table["number"].to_pylist() == list(range(len(data)))
        assert set(table["source"].to_pylist()) == {"unknown"}
        named |= {id: tokenizer.decode(data[number][:-1]) for number, id in enumerate(table["id"].to_pylist())}
    assert named == topics()


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
    def held_out(texts: dict[str, str], files: int) -> set[str]:
        documents = write_documents(tmp_path / f"{len(texts)}-{files}", texts, files)
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
    again = tokenize(write_documents(tmp_path, topics(), files=7), tmp_path)
    assert hashes(again) == hashes(tokens)


def stored(artifact: Artifact) -> dict[str, dict[str, np.ndarray]]:
    """Each split's documents' lengths and how often the plan has each of them, by counting targets."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    found = {}
    for name in ("train", "validation"):
        data = IndexedDataset(str(artifact.local(f"{name}.bin"))[: -len(".bin")])
        # A copy: what it shows goes away with the data set.
        lengths = data.sequence_lengths.copy()
        plan = pq.read_table(artifact.local(f"{name}-packing.parquet")).to_pandas()
        pairs = np.bincount(plan["document"], weights=plan["length"] - 1, minlength=len(lengths))
        found[name] = {"lengths": lengths, "times": pairs / np.maximum(lengths - 1, 1)}
    return found


def test_documents_are_repeated_in_training_alone(tmp_path: Path) -> None:
    texts = topics()
    repeats = [i % 4 for i in range(len(texts))]
    documents = write_documents(tmp_path, texts, 3, {"repeats": repeats, "source": ["a/x.md"] * len(texts)})
    packing = {"long_documents": [{"min_tokens": 2000, "repeat": 3, "sources": ["a/*"]}]}
    config = TokenizeConfig.model_validate({**CONFIG.model_dump(), "packing": packing})
    found = stored(tokenize(documents, tmp_path, config))
    out = np.concatenate([part.held_out for part in tokenize_run.split(documents, config)])
    expected = np.array(repeats)[~out] * np.where(found["train"]["lengths"] >= 2000, 3, 1)
    assert (found["train"]["lengths"] >= 2000).any()
    assert found["train"]["times"].tolist() == expected.tolist()
    assert (found["validation"]["times"] == 1).all()


@pytest.mark.parametrize("strategy", ["concatenate", "length_bucketed"])
def test_other_ways_to_pack_are_read_by_training(tmp_path: Path, strategy: str) -> None:
    from tatara.train.feed.batches import PackedTokens

    config = TokenizeConfig.model_validate({**CONFIG.model_dump(), "packing": {"strategy": strategy}})
    artifact = tokenize(write_documents(tmp_path, topics()), tmp_path, config)
    packed = PackedTokens(Path(artifact.local()), "train", 128)
    assert packed.packing.num_targets == artifact.metrics["train_tokens"] - artifact.metrics["train_documents"]
    assert artifact.metrics["train_fill"] > 0.999
    assert packed.batch([0]).loss_weights.all()


def test_bytes_per_token_by_language_and_source(tmp_path: Path) -> None:
    texts = {**topics(), **{f"ja{i}": "日本語の文章がここにある。" * (i + 1) for i in range(30)}}
    languages = ["ja" if name.startswith("ja") else "en" for name in texts]
    sources = [f"{language}-docs/{i}.txt" for i, language in enumerate(languages)]
    artifact = tokenize(write_documents(tmp_path, texts, 4, {"language": languages, "source": sources}), tmp_path)
    found = artifact.read_json("tokens.json")["compression"]
    assert set(found["language"]) == {"en", "ja"}
    assert set(found["source"]) == {"en-docs", "ja-docs"}
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact.local("tokenizer") / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    mine = [text for text, language in zip(texts.values(), languages, strict=True) if language == "ja"]
    tokens = sum(len(tokenizer.encode(text).ids) for text in mine)
    size = sum(len(text.encode()) for text in mine)
    expected = {"documents": 30, "bytes": size, "tokens": tokens, "bytes_per_token": round(size / tokens, 4)}
    assert found["language"]["ja"] == found["source"]["ja-docs"] == expected


def test_a_given_tokenizer_is_used_and_extended(tokens: Artifact, tmp_path: Path) -> None:
    given = str(tokens.local("tokenizer"))
    documents = write_documents(tmp_path, topics(), files=2)
    same = tokenize(documents, tmp_path, CONFIG.model_copy(update={"tokenizer": given}), "given")
    described_apart = {"tokens.json", "sources.jsonl"}
    assert {path: digest for path, digest in hashes(same).items() if path not in described_apart} == {
        path: digest for path, digest in hashes(tokens).items() if path not in described_apart
    }
    more = tokenize(documents, tmp_path, CONFIG.model_copy(update={"tokenizer": given, "extend_to": 900}), "more")
    described = more.read_json("tokens.json")
    assert described["vocab_size"] == 900
    assert described["eos_id"] == tokens.read_json("tokens.json")["eos_id"]
    counts = described["compression"]["language"]["unknown"]
    assert (
        counts["tokens"]
        < counts["tokens_before"]
        == tokens.read_json("tokens.json")["compression"]["language"]["unknown"]["tokens"]
    )


def test_sources_share_a_tokenizer_by_an_input(tokens: Artifact, tmp_path: Path) -> None:
    documents = write_documents(tmp_path, {f"x{i}": f"furnace number {i} makes steel" for i in range(40)})
    inputs = {"documents": documents, "tokenizer": tokens}
    with standalone(STAGE, CONFIG, inputs=inputs, root=tmp_path, name="shared") as attempt:
        shared = attempt.commit(tokenize_run.run(CONFIG, attempt.stage_run))
    name = "tokenizer/tokenizer.json"
    assert shared.local(name).read_bytes() == tokens.local(name).read_bytes()
    assert shared.read_json("tokens.json")["tokenizer_sha256"] == tokens.read_json("tokens.json")["tokenizer_sha256"]
    given = str(tokens.local("tokenizer"))
    twice = CONFIG.model_copy(update={"tokenizer": given})
    with standalone(STAGE, twice, inputs=inputs, root=tmp_path, name="twice") as attempt:
        with pytest.raises(ConfigError, match="and the input tokenizer=tokens/t@1: give one of them"):
            tokenize_run.run(twice, attempt.stage_run)


def test_both_engines_write_the_same_bytes(tokens: Artifact, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"engine": "huggingface"})
    assert hashes(tokenize(write_documents(tmp_path, topics(), 2), tmp_path, config)) == hashes(tokens)


def test_the_tokenizer_is_trained_on_chosen_languages(tmp_path: Path) -> None:
    texts = topics()
    languages = ["en" if i % 3 else "fr" for i in range(len(texts))]
    documents = write_documents(tmp_path, texts, 2, {"language": languages})
    config = CONFIG.model_copy(update={"training_languages": ("fr",)})
    chosen = np.concatenate([part.for_training for part in tokenize_run.split(documents, config)])
    assert chosen.any()
    assert not (chosen & (np.array(languages) == "en")).any()
    with pytest.raises(DataError, match="no document for training the tokenizer is in xx"):
        tokenize_run.split(documents, CONFIG.model_copy(update={"training_languages": ("xx",)}))


def test_documents_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    texts = ["x" * 3_000_000, "", "日本" * 10, *["small"] * 1000, "y" * 30_000_000, "end"]
    pq.write_table(pa.table({"id": list(map(str, range(len(texts)))), "text": texts}), path)
    chosen = np.ones(len(texts), bool)
    chosen[5] = False
    arrays = list(parts.texts(str(path), chosen))
    assert [text for array in arrays for text in array.to_pylist()] == [*texts[:5], *texts[6:]]
    assert max(sum(map(len, array.to_pylist()[:-1])) for array in arrays) <= 8_000_000


@pytest.mark.parametrize(
    "values",
    [
        {"vocab_size": 300, "reserved_tokens": 100},
        {"extend_to": 1000},
        {"tokenizer": "x", "special_tokens": ["<a>"]},
        {"special_tokens": ["<a>", "<a>"]},
    ],
)
def test_a_wrong_vocabulary_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TokenizeConfig.model_validate(values)


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
        found = tokenize_run.split(documents, config)
        chosen = [
            name
            for part in found
            for name, yes in zip(pq.read_table(part.url)["id"].to_pylist(), part.for_training, strict=True)
            if yes
        ]
        assert chosen
        assert sum(sizes[name] for name in chosen) <= max(limit, max(sizes.values()))


def test_from_documents_on_s3_to_tokens_on_s3(tokens: Artifact, s3_bucket: str) -> None:
    root = f"{s3_bucket}/tokenize"
    remote = tokenize(write_documents(root, topics(), files=2), root)
    assert remote.verify() == []
    assert hashes(remote) == hashes(tokens)


def test_the_report_and_the_manifest_have_the_figures(ray_cluster: None, tmp_path: Path) -> None:
    documents = write_documents(tmp_path, topics())
    with standalone(STAGE, CONFIG, inputs={"documents": documents}, root=tmp_path, name="t") as attempt:
        summary = tokenize_run.run(CONFIG, attempt.stage_run)
        reports: dict[str, Any] = dict(attempt.stage_run.reports)
    assert json.loads(json.dumps(summary)) == summary
    table, *others = reports["table"]
    assert all(len(row) == len(other["columns"]) for other in others for row in other["rows"])
    assert [row[0] for row in table["rows"]] == ["train", "validation"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert 0.9 < summary["train_fill"] <= 1
