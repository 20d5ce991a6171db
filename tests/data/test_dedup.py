import random
from collections.abc import Callable

import numpy as np
import pytest

from corpus import topics
from tatara.data.curate import DedupConfig
from tatara.data.dedup import Clusters, concatenate, find_clusters, make_keys
from tatara.data.shingles import normalise


def clusters(texts: list[str], ids: list[str] | None = None, config: DedupConfig | None = None) -> Clusters:
    config = config or DedupConfig()
    return find_clusters(make_keys(texts, config), ids or [f"{i:06d}" for i in range(len(texts))], config)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() else " " for c in normalise(text)).split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def jaccard(a: str, b: str) -> float:
    first, second = shingles(a), shingles(b)
    return len(first & second) / len(first | second)


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], list[tuple[int, int]]]:
    """Pieces of real text and, after them, a mutation of each; and the pairs."""
    random.seed(7)
    words = " ".join(topics().values()).split()
    pieces = []
    while len(words) > 400:
        size = random.randint(30, 400)
        pieces.append(words[:size])
        words = words[size:]
    mutated = []
    for piece in pieces:
        changed = list(piece)
        for _ in range(random.randint(0, max(1, len(piece) // 15))):
            changed[random.randrange(len(changed))] = f"edit{random.randrange(10**6)}"
        mutated.append(changed)
    texts = [" ".join(piece) for piece in pieces + mutated]
    return texts, [(i, i + len(pieces)) for i in range(len(pieces))]


def test_recall_and_precision_against_brute_force(planted: tuple[list[str], list[tuple[int, int]]]) -> None:
    texts, pairs = planted
    found = clusters(texts)
    truth = {pair: jaccard(texts[pair[0]], texts[pair[1]]) for pair in pairs}
    alike = [pair for pair, value in truth.items() if value >= 0.8]
    unlike = [pair for pair, value in truth.items() if value < 0.7]
    assert len(alike) > 100
    assert len(unlike) > 20
    assert sum(found.kept[a] == found.kept[b] for a, b in alike) / len(alike) >= 0.97
    assert not any(found.kept[a] == found.kept[b] for a, b in unlike)


def test_what_is_dropped_is_like_what_stays_for_it(planted: tuple[list[str], list[tuple[int, int]]]) -> None:
    texts, _ = planted
    found = clusters(texts)
    for i in np.flatnonzero(found.fuzzy):
        value = jaccard(texts[i], texts[found.kept[i]])
        assert value > 0.6
        assert found.similarity[i] == pytest.approx(value, abs=0.15)


def test_the_longest_stays_then_the_smallest_id() -> None:
    base = " ".join(f"word{i}" for i in range(200))
    texts = [base, base + " and more", base, base.upper()]
    found = clusters(texts, ["d", "c", "b", "a"])
    assert found.kept.tolist() == [1, 1, 1, 1]
    exact = clusters([base, base, base.upper()], ["z", "y", "x"])
    assert exact.kept.tolist() == [2, 2, 2]
    assert not exact.fuzzy.any()


def test_a_chain_of_near_duplicates_is_one_cluster() -> None:
    random.seed(0)
    words = [f"w{i}" for i in range(600)]
    chain = []
    for step in range(6):
        words = list(words)
        for k in range(6):
            words[step * 100 + k * 15] = f"changed{step}-{k}"
        chain.append(" ".join(words))
    assert jaccard(chain[0], chain[-1]) < 0.7
    assert len(set(clusters(chain).kept.tolist())) == 1


@pytest.mark.parametrize("cut", [lambda n: [n // 3, n // 2], lambda n: [1], lambda n: list(range(50, n, 50))])
def test_the_result_does_not_depend_on_shards_or_order(
    planted: tuple[list[str], list[tuple[int, int]]], cut: Callable[[int], list[int]]
) -> None:
    texts = planted[0] + planted[0][:40]
    ids = [f"{i:06d}" for i in range(len(texts))]
    config = DedupConfig()
    whole = clusters(texts, ids)
    expected = {ids[i]: ids[int(k)] for i, k in enumerate(whole.kept)}

    order = np.random.default_rng(1).permutation(len(texts))
    shards = np.split(order, cut(len(texts)))
    keys = concatenate([make_keys([texts[i] for i in shard], config) for shard in shards])
    shuffled = [ids[i] for i in order]
    found = find_clusters(keys, shuffled, config)
    assert {shuffled[i]: shuffled[int(k)] for i, k in enumerate(found.kept)} == expected


def test_many_copies_of_one_document_cost_no_pairs() -> None:
    found = clusters(["the same text over and over, with some words more"] * 20_000)
    assert set(found.kept.tolist()) == {0}


def test_a_large_bucket_is_still_joined() -> None:
    words = [f"w{i}" for i in range(300)]
    texts = [" ".join([*words, f"end{i}"]) for i in range(300)]
    assert len(set(clusters(texts).kept.tolist())) == 1


def test_documents_without_words_are_not_near_duplicates() -> None:
    found = clusters(["...", "!!!", "", "---"])
    assert found.kept.tolist() == [0, 1, 2, 3]


def test_either_kind_can_be_turned_off() -> None:
    base = " ".join(f"word{i}" for i in range(200))
    texts = [base, base, base + " x"]
    assert clusters(texts, config=DedupConfig(fuzzy=False)).kept.tolist() == [0, 0, 2]
    assert clusters(texts, config=DedupConfig(exact=False, fuzzy=False)).kept.tolist() == [0, 1, 2]
    assert clusters([]).kept.tolist() == []


def test_signatures_are_pinned() -> None:
    # Another build or version of the library must not silently change which documents are dropped.
    keys = make_keys(["the quick brown fox jumps over the lazy dog and runs away"], DedupConfig())
    assert keys.signature[0, :4].tolist() == [16032, 44844, 10937, 14015]
