"""``tatara consumed``: from a checkpoint's manifest to the documents of a step, and back."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tatara.artifact import Artifact, Draft, InputEntry, Store
from tatara.cli.command import call
from tatara.train.feed.consumed import consumed
from tatara.train.feed.phases import Phase, Skip
from tatara.train.feed.sources import open_sources, source_sizes
from tatara.train.pretrain import PretrainConfig
from train.feed.feed_cases import write_source

CONFIG = PretrainConfig(
    steps=9, global_batch_size=8, num_workers=1, seed=3, phases=(Phase(), Phase(from_step=5, weights={"more": 1.0}))
)
SKIPS = [Skip(at_step=2, steps=2)]


def commit(store: Store, kind: str, name: str, payload: Path, inputs: dict[str, Artifact] | None = None) -> Artifact:
    entries = {
        label: InputEntry(reference=each.reference, url=each.url, fingerprint=each.fingerprint)
        for label, each in (inputs or {}).items()
    }
    stage, config = ("pretrain", CONFIG.dump()) if kind == "checkpoint" else ("tokenize", {})
    attempt = store.begin(Draft(kind, name, 1, stage, name, config, inputs=entries))
    shutil.copytree(payload, attempt.path, dirs_exist_ok=True)
    return attempt.commit({}, 1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store with a checkpoint of a run over two sources, and where their payloads are."""
    root = tmp_path_factory.mktemp("consumed")
    sources = {"tokens": write_source(root / "a", 60, 1), "more": write_source(root / "b", 15, 2)}
    table = pa.table({"number": range(15), "id": [f"doc-{number}" for number in range(15)], "source": ["x"] * 15})
    pq.write_table(table, sources["more"] / "train-documents.parquet")
    store = Store(root / "store")
    inputs = {name: commit(store, "tokens", name, payload) for name, payload in sources.items()}
    (root / "c").mkdir()
    (root / "c" / "training.json").write_text(json.dumps({"skips": [skip.dump() for skip in SKIPS]}))
    commit(store, "checkpoint", "run", root / "c", inputs)
    return store, sources


def lines(capsys, *arguments):
    assert call(["consumed", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_step_lists_its_documents(run, capsys):
    store, directories = run
    sources = open_sources(directories)
    plan = CONFIG.plan(source_sizes(sources)).with_skips(SKIPS)
    packings = {name: source.packing for name, source in sources.items()}
    for step in (1, 3, 6, 9):
        found = lines(capsys, "checkpoint/run", "--root", store.root, "--step", str(step))
        expected = [
            (each.row, each.source, f"doc-{each.document}" if each.source == "more" else str(each.document))
            for each in consumed(plan, packings, step - 1)
        ]
        assert [(row["row"], row["source"], row["document"]) for row in found] == expected
        assert {row["step"] for row in found} == {step}


def test_a_document_lists_its_steps(run, capsys):
    store, _ = run
    every = [
        row
        for step in range(1, 10)
        for row in lines(capsys, "checkpoint/run", "--root", store.root, "--step", str(step))
    ]
    mine = [row for row in every if row["document"] == "doc-7"]
    assert len(mine) > 1
    assert lines(capsys, "checkpoint/run", "--root", store.root, "--document", "doc-7") == mine
    first = mine[0]["step"]
    narrowed = lines(capsys, "checkpoint/run", "--root", store.root, "--document", "doc-7", "--step", str(first))
    assert narrowed == [row for row in mine if row["step"] == first]


def test_people_get_a_table(run, capsys):
    store, _ = run
    assert call(["consumed", "checkpoint/run", "--root", store.root, "--step", "9", "--source", "more"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["step", "row", "source", "document", "offset", "length", "epoch"]
    assert rows
    assert all(row.split()[2] == "more" for row in rows)
    assert call(["consumed", "checkpoint/run", "--root", store.root, "--step", "9", "--source", "tokens"]) == 0
    assert capsys.readouterr().out == "nothing: this was not trained on\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["checkpoint/run"], "say --step N, --document ID, or both"),
        (["checkpoint/run", "--step", "10"], "the run has 9 steps"),
        (["checkpoint/run", "--document", "doc-99"], "no document of more, tokens has this id"),
        (["checkpoint/run", "--step", "1", "--source", "x"], "the run has more, tokens"),
        (["tokens/more", "--step", "1"], "tokens/more@1 was made by tokenize, not by pretrain"),
    ],
)
def test_wrong_questions_get_one_line(run, arguments, expected, capsys):
    store, _ = run
    assert call(["consumed", *arguments, "--root", store.root]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
