from collections import Counter, defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.data.packing import pack

LENGTHS = st.lists(st.integers(0, 200), max_size=60)


@settings(deadline=None)
@given(lengths=LENGTHS, sequence_length=st.integers(1, 64))
def test_every_target_exactly_once(lengths: list[int], sequence_length: int) -> None:
    plan = pack(np.array(lengths, np.int64), sequence_length)
    targets: Counter[tuple[int, int]] = Counter()
    for document, offset, length in zip(plan.document, plan.offset, plan.length, strict=True):
        assert length >= 2
        targets.update((int(document), position) for position in range(offset + 1, offset + length))
    expected = {(document, position) for document, length in enumerate(lengths) for position in range(1, length)}
    assert set(targets) == expected
    assert all(count == 1 for count in targets.values())


@settings(deadline=None)
@given(lengths=LENGTHS, sequence_length=st.integers(1, 64))
def test_no_bin_overflows_and_bins_have_no_gaps(lengths: list[int], sequence_length: int) -> None:
    plan = pack(np.array(lengths, np.int64), sequence_length)
    room: dict[int, int] = defaultdict(int)
    for number, length in zip(plan.bin, plan.length, strict=True):
        room[int(number)] += int(length) - 1
    assert all(filled <= sequence_length for filled in room.values())
    assert sorted(room) == list(range(plan.bins))
    assert (np.diff(plan.bin) >= 0).all()
    assert plan.pairs == sum(room.values())
    if plan.bins:
        assert plan.fill == plan.pairs / (plan.bins * sequence_length)


@settings(deadline=None)
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
    plan = pack(np.array(lengths, np.int64), sequence_length)
    filled = np.bincount(plan.bin, weights=plan.length - 1) if plan.bins else np.zeros(0)
    assert sorted(filled) == sorted(sequence_length - room for room in rooms)


def test_consecutive_chunks_overlap_by_one_token() -> None:
    plan = pack(np.array([25]), 10)
    chunks = sorted(zip(plan.offset.tolist(), plan.length.tolist(), strict=True))
    assert chunks == [(0, 11), (10, 11), (20, 5)]


def test_documents_without_a_pair_are_left_out() -> None:
    plan = pack(np.array([0, 1, 2]), 10)
    assert plan.document.tolist() == [2]
    assert pack(np.array([], np.int64), 10).bins == 0
    assert pack(np.array([1]), 10).fill == 1.0


def test_real_looking_lengths_fill_the_bins_and_order_does_not_depend_on_chance() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 20_000).astype(np.int64)
    first, second = pack(lengths, 4096), pack(lengths, 4096)
    assert first.fill > 0.999
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("bin", "document", "offset"))
