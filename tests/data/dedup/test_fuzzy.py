import copy
import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus import topics
from global_steps import cut, make, run
from tatara.data.dedup import signatures
from tatara.data.dedup.candidates import bucket_pairs
from tatara.data.dedup.components import reduce_edges
from tatara.data.dedup.config import FuzzyDedupConfig
from tatara.data.dedup.lsh import candidate_probability, choose_bands, false_negatives
from tatara.data.dedup.signatures import sign
from tatara.data.document import Document, Verdict
from tatara.errors import ConfigError, DataError


def documents(texts: list[str], prefix: str = "d") -> list[Document]:
    return [Document(id=f"{prefix}{i:05d}", text=text, source="s") for i, text in enumerate(texts)]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def jaccard(a: str, b: str) -> float:
    first, second = shingles(a), shingles(b)
    return len(first & second) / len(first | second)


def clusters(verdicts: list[Verdict | None], made: list[Document]) -> list[str]:
    """The id of the document that stands for each."""
    return [each.kept_id or "" if each else document.id for each, document in zip(verdicts, made, strict=True)]


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], list[tuple[int, int]]]:
    """Pieces of real text and, after them, a mutation of each; and the pairs."""
    pick = random.Random(7)
    words = " ".join(topics().values()).split()
    pieces = []
    while len(words) > 400:
        size = pick.randint(30, 400)
        pieces.append(words[:size])
        words = words[size:]
    mutated = []
    for piece in pieces:
        changed = list(piece)
        for _ in range(pick.randint(0, max(1, len(piece) // 15))):
            changed[pick.randrange(len(changed))] = f"edit{pick.randrange(10**6)}"
        mutated.append(changed)
    texts = [" ".join(piece) for piece in pieces + mutated]
    return texts, [(i, i + len(pieces)) for i in range(len(pieces))]


def test_recall_and_precision_against_brute_force(
    tmp_path: Path, planted: tuple[list[str], list[tuple[int, int]]]
) -> None:
    texts, pairs = planted
    made = documents(texts)
    verdicts, _ = run(make("fuzzy_dedup", tmp_path), cut(made, 3))
    found = clusters(verdicts, made)
    truth = {pair: jaccard(texts[pair[0]], texts[pair[1]]) for pair in pairs}
    alike = [pair for pair, value in truth.items() if value >= 0.8]
    unlike = [pair for pair, value in truth.items() if value < 0.65]
    assert len(alike) > 100
    assert len(unlike) > 20
    assert sum(found[a] == found[b] for a, b in alike) / len(alike) >= 0.99
    assert not any(found[a] == found[b] for a, b in unlike)
    place = {document.id: i for i, document in enumerate(made)}
    for i, verdict in enumerate(verdicts):
        if verdict:
            value = jaccard(texts[i], texts[place[str(verdict.kept_id)]])
            # Below the threshold only where a third document is like both.
            assert value > 0.5
            assert verdict.value == pytest.approx(value, abs=0.15)
            assert (verdict.reason, verdict.limit) == ("fuzzy_dedup.threshold", 0.8)
            assert len(made[i].text) <= len(made[place[str(verdict.kept_id)]].text)


DEAD = [5, 17, 300, 401]


@pytest.fixture(scope="module")
def one_shard(
    tmp_path_factory: pytest.TempPathFactory, planted: tuple[list[str], list[tuple[int, int]]]
) -> tuple[list[Document], list[Document], list[Verdict | None]]:
    """Documents, some of them twice, as they were and after they were judged in one shard; and the verdicts."""
    before = documents(planted[0] + planted[0][:40])
    made = copy.deepcopy(before)
    step = make("fuzzy_dedup", tmp_path_factory.mktemp("fuzzy") / "whole")
    whole, _ = run(step, cut(made, 1), dead=[(0, row) for row in DEAD])
    return before, made, whole


@pytest.mark.parametrize(("shards", "memory"), [(1, 300_000), (1, 60_000), (2, 1 << 30), (9, 300_000), (50, 60_000)])
def test_the_result_does_not_depend_on_shards_or_memory(
    tmp_path: Path, one_shard: tuple[list[Document], list[Document], list[Verdict | None]], shards: int, memory: int
) -> None:
    before, made, whole = one_shard
    other = copy.deepcopy(before)
    parts = cut(other, shards)
    where = {document.id: (number, document.row) for number, part in enumerate(parts) for document in part}
    step = make("fuzzy_dedup", tmp_path / "cut")
    verdicts, figures = run(step, parts, memory=memory, dead=[where[made[row].id] for row in DEAD], batch=13)
    assert verdicts == whole
    assert [(each.copies, each.cluster) for each in other] == [(each.copies, each.cluster) for each in made]
    assert figures["removed"] == sum(each is not None for each in whole)


def test_order_does_not_matter(tmp_path: Path, planted: tuple[list[str], list[tuple[int, int]]]) -> None:
    made = documents(planted[0])
    verdicts, _ = run(make("fuzzy_dedup", tmp_path / "a"), cut(made, 2))
    expected = dict(zip((each.id for each in made), clusters(verdicts, made), strict=True))
    shuffled = random.Random(1).sample(made, len(made))
    verdicts, _ = run(make("fuzzy_dedup", tmp_path / "b"), cut(shuffled, 3))
    assert dict(zip((each.id for each in shuffled), clusters(verdicts, shuffled), strict=True)) == expected


@pytest.mark.parametrize("shards", [1, 8])
def test_many_copies_of_one_document_take_linear_time(tmp_path: Path, shards: int) -> None:
    text = "the same text over and over, with some words more"
    made = documents([text] * 20_000)
    verdicts, figures = run(make("fuzzy_dedup", tmp_path), cut(made, shards), memory=2_000_000, batch=5_000)
    assert sum(each is None for each in verdicts) == 1
    assert figures["largest_cluster"] == 20_000


def test_a_large_bucket_of_different_documents_is_joined(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(300)]
    made = documents([" ".join([*words, f"end{i}"]) for i in range(400)])
    for number, shards in enumerate([1, 5]):
        verdicts, _ = run(
            make("fuzzy_dedup", tmp_path / str(number)), cut(made, shards), memory=1 << (30 - number * 12)
        )
        assert sum(each is None for each in verdicts) == 1


def test_a_chain_of_near_duplicates_is_one_cluster(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(600)]
    chain = []
    for step in range(6):
        words = list(words)
        for k in range(6):
            words[step * 100 + k * 15] = f"changed{step}-{k}"
        chain.append(" ".join(words))
    assert jaccard(chain[0], chain[-1]) < 0.7
    verdicts, _ = run(make("fuzzy_dedup", tmp_path), cut(documents(chain), 6))
    assert sum(each is None for each in verdicts) == 1


def test_documents_without_words_stay(tmp_path: Path) -> None:
    made = documents(["...", "!!!", "", "---", "\ud800", "\x00", "x" * 100_000, "漢字" * 1000])
    verdicts, _ = run(make("fuzzy_dedup", tmp_path), cut(made, 2))
    assert verdicts == [None] * 8


def test_a_twin_lives_on_where_the_first_was_removed(tmp_path: Path) -> None:
    # Three documents with one signature; the first of a shard, which alone has band keys, is dead.
    texts = ["one two three four five six seven!", "one two three four five six seven?", "other words in here now"]
    made = documents([*texts, "One two three four five six seven"])
    verdicts, _ = run(make("fuzzy_dedup", tmp_path), cut(made, 2), dead=[(0, 0)])
    assert [each is None for each in verdicts] == [True, True, True, False]


def test_later_runs_drop_what_an_earlier_one_kept(
    tmp_path: Path, planted: tuple[list[str], list[tuple[int, int]]]
) -> None:
    texts, pairs = planted
    half = len(pairs)
    step = make("fuzzy_dedup", tmp_path / "first", keep="shortest")
    first = documents(texts[:half] + texts[:20] + [text + " more" for text in texts[20:40]], "old")
    earlier, _ = run(step, cut(first, 3), dead=[(0, 0)])
    step.publish(tmp_path / "index")
    stays = {document.id for document, verdict in zip(first, earlier, strict=True) if verdict is None} - {"old00000"}
    results: list[Any] = []
    for number, (shards, memory) in enumerate([(1, 1 << 30), (4, 60_000)]):
        later = make("fuzzy_dedup", tmp_path / f"second{number}", against=[str(tmp_path / "index")])
        new = documents(texts[half:], "new")
        verdicts, figures = run(later, cut(new, shards), memory=memory)
        results.append(verdicts)
        assert figures["earlier_documents"] == len(stays)
    assert results[0] == results[1]
    found = 0
    for pair in pairs[1:]:
        verdict = verdicts[pair[1] - half]
        if verdict is not None:
            assert verdict.kept_id in stays
            assert verdict.reason == "fuzzy_dedup.against"
        if jaccard(texts[pair[0]], texts[pair[1]]) >= 0.85:
            assert verdict is not None
            found += 1
    assert found > 80
    with pytest.raises(DataError, match="ngram = 5, this run has ngram = 4"):
        make("fuzzy_dedup", tmp_path / "x", against=[str(tmp_path / "index")], ngram=4).prepare()


def test_signatures_are_pinned() -> None:
    # Another build or version of the library must not silently change which documents are dropped.
    _, signature, _, _ = sign(["the quick brown fox jumps over the lazy dog and runs away"], FuzzyDedupConfig())
    assert signature[0, :4].tolist() == [59732, 50439, 63412, 55383]


def test_signatures_estimate_similarity(planted: tuple[list[str], list[tuple[int, int]]]) -> None:
    texts, pairs = planted
    _, signed, _, _ = sign(texts, FuzzyDedupConfig())
    errors = [(signed[a] == signed[b]).mean() - jaccard(texts[a], texts[b]) for a, b in pairs]
    # A standard error of sqrt(0.8 * 0.2 / 120) = 0.037 at a similarity of 0.8, as of plain MinHash.
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.04


def test_bands_follow_from_the_threshold() -> None:
    assert choose_bands(0.8, 120, 0.998) == (20, 6)
    low, high = choose_bands(0.5, 120, 0.9), choose_bands(0.9, 120, 0.9)
    assert low[1] < high[1]
    # By trying: of 200,000 pairs of signatures that agree in each component with the probability 0.8.
    draws = np.random.default_rng(0).random((200_000, 20, 6)) < 0.8
    assert candidate_probability(0.8, 20, 6) == pytest.approx(draws.all(axis=2).any(axis=1).mean(), abs=0.001)
    assert [miss for _, miss in false_negatives(20, 6, [0.5, 0.8, 1.0])] == pytest.approx([0.7298, 0.0023, 0], abs=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"bands": 20},
        {"bands": 30, "rows": 6},
        {"threshold": 0.04},
        {"keep": "best_score"},
        {"permutations": 1},
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make("fuzzy_dedup", tmp_path, **values)


@pytest.mark.ray
def test_in_ray_tasks_as_in_one_process(
    tmp_path: Path, planted: tuple[list[str], list[tuple[int, int]]], ray_cluster: None
) -> None:
    from tatara.data.shard_map import map_tasks

    made = documents(planted[0])
    here, _ = run(make("fuzzy_dedup", tmp_path / "here"), cut(made, 3))
    for memory in (1 << 30, 100_000):
        there, _ = run(make("fuzzy_dedup", tmp_path / f"ray{memory}"), cut(made, 4), map_tasks, memory=memory)
        assert here == there


@pytest.mark.data
@pytest.mark.parametrize("size", [1000, 2500])
def test_plagiarised_articles_are_found(tmp_path: Path, sample_data: Path, size: int) -> None:
    folder = sample_data / "neardup-minhash-articles"
    lines = gzip.decompress((folder / f"articles_{size}.train.gz").read_bytes()).decode().splitlines()
    made = [Document(id=line.split(" ", 1)[0], text=line.split(" ", 1)[1], source="s") for line in lines]
    pairs = [tuple(line.split()) for line in (folder / f"articles_{size}.truth").read_text().splitlines()]
    text = {document.id: document.text for document in made}
    verdicts, _ = run(make("fuzzy_dedup", tmp_path), cut(made, 4))
    stands = dict(zip(text, clusters(verdicts, made), strict=True))
    assert len(pairs) >= 10
    assert all(stands[a] == stands[b] for a, b in pairs)
    planted = {frozenset(pair) for pair in pairs}
    for document, verdict in zip(made, verdicts, strict=True):
        if verdict:
            pair = frozenset((document.id, str(verdict.kept_id)))
            assert pair in planted or jaccard(*(text[name] for name in pair)) > 0.7


@pytest.mark.data
def test_editions_of_japanese_works(tmp_path: Path, sample_data: Path) -> None:
    folder = sample_data / "aozora"
    with gzip.open(folder / "works.jsonl.gz", "rt", encoding="utf-8") as stream:
        works = [json.loads(line) for line in stream]
    made = documents([work["text"] for work in works])
    verdicts, _ = run(make("fuzzy_dedup", tmp_path), cut(made, 4))
    place = {document.id: i for i, document in enumerate(made)}
    checked = 0
    for i, verdict in enumerate(verdicts):
        if verdict:
            a, b = (
                {*zip(*(text[k:] for k in range(5)), strict=False)}
                for text in (made[i].text, made[place[str(verdict.kept_id)]].text)
            )
            assert len(a & b) / len(a | b) > 0.6
            checked += 1
    print(checked)


def test_bucket_pairs_against_all_pairs() -> None:
    numbers = np.random.default_rng(2)
    key = numbers.integers(0, 400, 2000).astype(np.uint64)
    signature = numbers.integers(0, 1 << 32, 2000).astype(np.uint32)
    node = numbers.permutation(2000).astype(np.uint64)
    found: set[tuple[int, int]] = set()
    for pairs in bucket_pairs(key, signature, node, 100):
        found |= set(pairs.tolist())
    order = np.argsort(node)
    key = key[order]
    assert found == {(i, j) for i in range(2000) for j in range(i + 1, 2000) if key[i] == key[j]}


def test_pairs_of_a_large_bucket_are_linear_and_connected() -> None:
    size = 5000
    key, node = np.ones(size, np.uint64), np.arange(size, dtype=np.uint64)
    signature = np.random.default_rng(3).integers(0, 4000, size).astype(np.uint32)
    pairs = np.concatenate(list(bucket_pairs(key, signature, node, 1 << 20)))
    assert len(pairs) < 4 * size
    assert len(reduce_edges(pairs["first"].copy(), pairs["second"].copy())) == size - 1


def test_a_shard_of_several_parts(
    tmp_path: Path, planted: tuple[list[str], list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = documents(planted[0] + planted[0][:40])
    whole, _ = run(make("fuzzy_dedup", tmp_path / "whole"), cut(made, 1), dead=[(0, 3)])
    monkeypatch.setattr(signatures, "_BATCH_CHARACTERS", 10_000)
    monkeypatch.setattr(signatures, "_PART_DOCUMENTS", 50)
    step = make("fuzzy_dedup", tmp_path / "parts")
    verdicts, _ = run(step, cut(made, 2), dead=[(0, 3)])
    assert len(list((tmp_path / "parts" / "collected" / "000000").glob("bands-*"))) > 3
    assert verdicts == whole
    step.publish(tmp_path / "index")
    later = make("fuzzy_dedup", tmp_path / "later", against=[str(tmp_path / "index")])
    again, _ = run(later, cut(documents(planted[0][:40], "new"), 1))
    assert all(again[:3] + again[4:])
