from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.data.packing.config import LongDocuments, PackingConfig
from tatara.data.packing.plan import PackingPlan, chunk, pack
from tatara.data.packing.repeats import occurrences

LENGTHS = st.lists(st.integers(0, 200), max_size=60)
CAPACITIES = st.integers(1, 64)
STRATEGIES = st.sampled_from(["best_fit", "concatenate", "length_bucketed"])


def arrays(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


@given(data=st.data(), lengths=LENGTHS, sequence_length=CAPACITIES, strategy=STRATEGIES, min_chunk=st.integers(1, 80))
def test_every_target_exactly_as_often_as_the_document(
    data: st.DataObject, lengths: list[int], sequence_length: int, strategy: str, min_chunk: int
) -> None:
    times = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    config = PackingConfig.model_validate({"strategy": strategy, "min_chunk": min_chunk})
    plan = pack(arrays(lengths), sequence_length, config, None if times is None else arrays(times))
    targets: Counter[tuple[int, int]] = Counter()
    for document, offset, length in zip(plan.document, plan.offset, plan.length, strict=True):
        assert length >= 2
        targets.update((int(document), position) for position in range(offset + 1, offset + length))
    expected = Counter(
        {
            (document, position): 1 if times is None else times[document]
            for document, length in enumerate(lengths)
            for position in range(1, length)
        }
    )
    assert targets == +expected


@given(lengths=LENGTHS, sequence_length=CAPACITIES, strategy=STRATEGIES)
def test_no_bin_overflows_and_bins_have_no_gaps(lengths: list[int], sequence_length: int, strategy: str) -> None:
    plan = pack(arrays(lengths), sequence_length, PackingConfig.model_validate({"strategy": strategy}))
    used: dict[int, int] = defaultdict(int)
    for number, length in zip(plan.bin, plan.length, strict=True):
        used[int(number)] += int(length) - 1
    assert all(filled <= sequence_length for filled in used.values())
    assert sorted(used) == list(range(plan.bins))
    assert (np.diff(plan.bin) >= 0).all()
    assert plan.pairs == sum(used.values())
    if plan.bins:
        assert plan.fill == plan.pairs / (plan.bins * sequence_length)
    if strategy != "best_fit":
        assert all(used[number] == sequence_length for number in range(plan.bins - 1))


@given(lengths=LENGTHS, sequence_length=st.integers(1, 40))
def test_bins_are_those_of_best_fit_decreasing_by_exhaustive_search(lengths: list[int], sequence_length: int) -> None:
    pieces = []
    for length in lengths:
        pairs = max(length - 1, 0)
        pieces += [sequence_length] * (pairs // sequence_length)
        pieces += [pairs % sequence_length] if pairs % sequence_length else []
    rooms: list[int] = []
    for piece in sorted(pieces, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= piece]
        if fitting:
            best = min(fitting, key=lambda i: rooms[i])
            rooms[best] -= piece
        else:
            rooms.append(sequence_length - piece)
    plan = pack(arrays(lengths), sequence_length, PackingConfig(min_chunk=1))
    filled = np.bincount(plan.bin, weights=plan.length - 1) if plan.bins else np.zeros(0)
    assert sorted(filled) == sorted(sequence_length - room for room in rooms)


@given(lengths=LENGTHS, sequence_length=CAPACITIES, min_chunk=st.integers(1, 80))
def test_best_fit_cuts_only_what_is_too_long_and_leaves_no_small_tail(
    lengths: list[int], sequence_length: int, min_chunk: int
) -> None:
    document, offset, length = chunk(arrays(lengths), sequence_length, min_chunk)
    chunks: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, first, tokens in zip(document.tolist(), offset.tolist(), length.tolist(), strict=True):
        chunks[number].append((first, tokens - 1))
    least = min(min_chunk, max(sequence_length // 2, 1))
    for number, found in chunks.items():
        pairs = lengths[number] - 1
        assert len(found) == -(-pairs // sequence_length), "no more chunks than without the rule"
        assert [first for first, _ in found] == [sum(size for _, size in found[:i]) for i in range(len(found))]
        assert all(size == sequence_length for _, size in found[:-2])
        if len(found) > 1:
            assert min(size for _, size in found) >= least
            tail = pairs - sequence_length * (len(found) - 1)
            assert found[-1][1] == max(tail, least)


def test_consecutive_chunks_overlap_by_one_token() -> None:
    plan = pack(arrays([25]), 10, PackingConfig(min_chunk=1))
    assert sorted(zip(plan.offset.tolist(), plan.length.tolist(), strict=True)) == [(0, 11), (10, 11), (20, 5)]
    plan = pack(arrays([22]), 10, PackingConfig(min_chunk=3))
    assert sorted(zip(plan.offset.tolist(), plan.length.tolist(), strict=True)) == [(0, 11), (10, 9), (18, 4)]


@pytest.mark.parametrize("strategy", ["best_fit", "concatenate", "length_bucketed"])
def test_documents_without_a_pair_are_left_out(strategy: str) -> None:
    config = PackingConfig.model_validate({"strategy": strategy})
    assert pack(arrays([0, 1, 2]), 10, config).document.tolist() == [2]
    for nothing in ([], [1]):
        plan = pack(arrays(nothing), 10, config)
        assert (plan.bins, plan.fill) == (0, 1.0)
        assert plan.figures(arrays(nothing))["sequences"] == 0
    assert pack(arrays([5, 5]), 10, config, arrays([0, 0])).bins == 0


def test_sequences_hold_documents_of_similar_length() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1.5, 5000).astype(np.int64)
    plan = pack(lengths, 4096, PackingConfig(strategy="length_bucketed"))
    octave = np.floor(np.log2(np.maximum(lengths - 1, 1)))[plan.document]
    spread = [np.ptp(octave[plan.bin == number]) for number in range(plan.bins)]
    assert np.mean(np.array(spread) == 0) > 0.9
    assert (np.diff(octave) <= 0).all()


@pytest.mark.parametrize("sequence_length", [4096, 131_072])
def test_real_looking_lengths_fill_the_bins(sequence_length: int) -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 60_000).astype(np.int64)
    first, second = pack(lengths, sequence_length), pack(lengths, sequence_length)
    assert first.fill > 0.995
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("bin", "document", "offset"))


def test_copies_of_a_document_are_spread_over_sequences() -> None:
    plan = pack(np.full(400, 101), 1000, repeats=np.full(400, 5))
    worst = max(Counter(zip(plan.bin.tolist(), plan.document.tolist(), strict=True)).values())
    assert plan.pairs == 400 * 5 * 100
    assert worst == 1


def test_the_figures_count_what_brute_force_counts() -> None:
    lengths = np.random.default_rng(3).integers(0, 90, 200)
    for strategy in ("best_fit", "concatenate"):
        config = PackingConfig.model_validate({"strategy": strategy, "min_chunk": 8})
        plan: PackingPlan = pack(lengths, 50, config)
        rows = list(zip(plan.bin.tolist(), plan.document.tolist(), plan.length.tolist(), strict=True))
        pieces = [length - 1 for _, document, length in rows if length < lengths[document]]
        figures = plan.figures(lengths)
        assert figures["cut"] == len({d for _, d, n in rows if n < lengths[d] and lengths[d] - 1 <= 50})
        assert (figures["cut"] == 0) == (strategy == "best_fit")
        assert figures["longer_than_a_sequence"] == (lengths > 51).sum()
        assert figures["smallest_piece"] == min(pieces)
        groups: Counter[str] = Counter()
        names = {1: "1", 2: "2", 3: "3-4", 4: "3-4", **dict.fromkeys(range(5, 9), "5-8")}
        names |= dict.fromkeys(range(9, 17), "9-16")
        groups.update(names[count] for count in Counter(number for number, _, _ in rows).values())
        assert figures["sequences_by_segments"] == dict(groups)


def test_long_documents_of_chosen_sources_are_repeated() -> None:
    rules = [
        LongDocuments(min_tokens=100, repeat=3, sources=("books/*",)),
        LongDocuments(min_tokens=50, repeat=2),
        LongDocuments(min_tokens=10, repeat=0, sources=("web",)),
    ]
    sources = ["books/a", "web", "code"]
    lengths = arrays([200, 60, 20, 200, 60, 20, 200, 9])
    source = arrays([0, 0, 0, 1, 1, 1, 2, 1])
    repeats = arrays([1, 1, 1, 2, 1, 1, 0, 1])
    assert occurrences(rules, lengths, repeats, source, sources).tolist() == [3, 2, 1, 4, 2, 0, 0, 1]
    assert occurrences([], lengths, repeats, source, sources).tolist() == repeats.tolist()
