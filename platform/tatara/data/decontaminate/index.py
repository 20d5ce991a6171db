"""The n-grams of benchmarks, laid out so that tasks map them into memory."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tatara.data.decontaminate.benchmarks import Item
from tatara.data.decontaminate.config import DecontaminateConfig
from tatara.data.decontaminate.tokens import (
    Hashes,
    Places,
    Table,
    Words,
    bitmap_of,
    coarse_bitmap_of,
    folding_table,
    gram_hashes,
    is_unspaced,
    split_words,
)
from tatara.errors import ConfigError

_EXCERPT = 600


@dataclass(frozen=True)
class Arrays:
    """What tasks need of the benchmarks.

    A text is what is looked for: one field of an item, or a question with its choices.

    Attributes:
        item: Item of each text: ``[texts]``.
        bounds: Words of each text: ``[texts + 1]``.
        length: Words of each text's n-grams; 0 where it is not checked: ``[texts]``.
        least: Words of each text that have to match: ``[texts]``.
        words: Hashes of all texts' words, one text after the other: ``[words]``.
        checked: Which words lie in an n-gram that is looked for: ``[words]``.
        grams: Hashes of the n-grams, ascending: ``[n-grams]``.
        coarse: See `find_grams`.
        bitmap: See `find_grams`.
        posts: Where each n-gram occurs in `words`: ``[occurrences]``.
        post_bounds: Which occurrences are an n-gram's: ``[n-grams + 1]``.
        lengths: The lengths there are.
    """

    item: Places
    bounds: Places
    length: Places
    least: Places
    words: Hashes
    checked: NDArray[np.bool_]
    grams: Hashes
    coarse: NDArray[np.uint8]
    bitmap: NDArray[np.uint8]
    posts: Places
    post_bounds: Places
    lengths: Places


@dataclass(frozen=True)
class Names:
    """What the report needs of the benchmarks.

    Attributes:
        benchmarks: Their names.
        benchmark: Benchmark of each item: ``[items]``.
        ids: Id of each item.
        state: ``checked``, ``short`` (too few words) or ``template`` (only words that many items share).
        fields: Field of each text: ``[texts]``.
        excerpts: How each text begins: ``[texts]``.
    """

    benchmarks: list[str]
    benchmark: list[int]
    ids: list[str]
    state: list[str]
    fields: list[str]
    excerpts: list[str]


def build(items: Mapping[str, Sequence[Item]], config: DecontaminateConfig) -> tuple[Arrays, Names]:
    """Index benchmarks.

    Raises:
        ConfigError: They have too many words.
    """
    table = folding_table()
    names = Names(list(items), [], [], [], [], [])
    texts: list[str] = []
    owners: list[int] = []
    for number, (_, of_benchmark) in enumerate(items.items()):
        first = len(names.ids)
        for item in of_benchmark:
            names.benchmark.append(number)
            names.ids.append(item.id)
        found = _texts_of(of_benchmark, table, config)
        owners += [first + item for item, _, _ in found]
        names.fields.extend(field for _, field, _ in found)
        names.excerpts.extend(excerpt(text) for _, _, text in found)
        texts += [text for _, _, text in found]
    words = split_words(texts, table)
    if len(words.hashes) > config.max_index_tokens:
        raise ConfigError(
            f"decontaminate: the benchmarks have {len(words.hashes):,} words, max_index_tokens is "
            f"{config.max_index_tokens:,}: raise it, or leave benchmarks out"
        )
    arrays, short = _arrays(texts, words, np.asarray(owners, np.int64), names, table, config)
    checkable = set(arrays.item[arrays.length > 0].tolist())
    known = set(np.asarray(owners, np.int64)[~short].tolist())
    names.state.extend(
        "checked" if item in checkable else "template" if item in known else "short" for item in range(len(names.ids))
    )
    return arrays, names


def excerpt(text: str) -> str:
    """How a text begins, on one line."""
    begin = " ".join(text[: 2 * _EXCERPT].split())
    return begin if len(begin) <= _EXCERPT and len(text) <= 2 * _EXCERPT else f"{begin[:_EXCERPT]} …"


def _texts_of(items: Sequence[Item], table: Table, config: DecontaminateConfig) -> list[tuple[int, str, str]]:
    """(item, field, text) of what is looked for."""
    first = split_words([item.texts[0][1] for item in items], table)
    found = []
    for number, (item, count) in enumerate(zip(items, np.diff(first.bounds).tolist(), strict=True)):
        found += [(number, field, text) for field, text in item.texts]
        field, question = item.texts[0]
        unspaced = is_unspaced(question, count, table)
        if item.choices and count < (config.min_matched_characters if unspaced else config.min_matched):
            found += [(number, f"{field} with choices", text) for text in item.with_choices(question)]
    return found


def _arrays(
    texts: Sequence[str], words: Words, owners: Places, names: Names, table: Table, config: DecontaminateConfig
) -> tuple[Arrays, NDArray[np.bool_]]:
    counts = np.diff(words.bounds)
    unspaced = np.fromiter(
        (is_unspaced(text, int(count), table) for text, count in zip(texts, counts, strict=True)), bool, len(texts)
    )
    wanted = np.where(unspaced, config.character_ngram, config.ngram)
    least = np.minimum(np.where(unspaced, config.min_characters, config.min_tokens), wanted)
    length = np.where(counts < least, 0, np.minimum(counts, wanted)).astype(np.int64)
    hashes, places = _all_grams(words, length)
    text_of = np.searchsorted(words.bounds, places, side="right") - 1
    benchmark = np.asarray(names.benchmark, np.int64)
    keep = ~_templates(hashes, owners[text_of], benchmark[owners[text_of]], config.max_shared_items)
    hashes, places, text_of = hashes[keep], places[keep], text_of[keep]
    checked = np.zeros(len(words.hashes) + 1, np.int64)
    np.add.at(checked, places, 1)
    np.subtract.at(checked, places + length[text_of], 1)
    alive = np.zeros(len(texts), bool)
    alive[text_of] = True
    grams, first = np.unique(hashes, return_index=True)
    arrays = Arrays(
        item=owners,
        bounds=words.bounds,
        length=np.where(alive, length, 0),
        least=np.where(unspaced, config.min_matched_characters, config.min_matched).astype(np.int64),
        words=words.hashes,
        checked=np.cumsum(checked)[:-1] > 0,
        grams=grams,
        coarse=coarse_bitmap_of(grams),
        bitmap=bitmap_of(grams),
        posts=places,
        post_bounds=np.concatenate((first, [len(places)])).astype(np.int64),
        lengths=np.unique(length[alive]),
    )
    return arrays, length == 0


def _all_grams(words: Words, length: Places) -> tuple[Hashes, Places]:
    """Hash and first word of each n-gram of each text, ordered by both."""
    hashes, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    text_of = np.repeat(np.arange(len(length)), np.diff(words.bounds))
    for size in np.unique(length[length > 0]).tolist():
        every = gram_hashes(words.hashes, size)
        here = text_of[: len(every)]
        starts = np.flatnonzero((length[here] == size) & (np.arange(len(every)) + size <= words.bounds[here + 1]))
        hashes.append(every[starts])
        places.append(starts)
    joined, where = np.concatenate(hashes), np.concatenate(places)
    order = np.lexsort((where, joined))
    return joined[order], where[order]


def _templates(hashes: Hashes, items: Places, benchmark: Places, limit: int) -> NDArray[np.bool_]:
    """Which n-grams more than ``limit`` items of their benchmark share."""
    templates = np.zeros(len(hashes), bool)
    for number in np.unique(benchmark).tolist():
        own = np.flatnonzero(benchmark == number)
        # Hashes ascend; an item that has an n-gram twice counts once.
        pairs = np.unique(np.stack([hashes[own], items[own].astype(np.uint64)], axis=1), axis=0)
        grams, counts = np.unique(pairs[:, 0], return_counts=True)
        templates[own] = counts[np.searchsorted(grams, hashes[own])] > limit
    return templates


def save(directory: Path, arrays: Arrays, names: Names) -> None:
    """Write an index; every file appears whole, and the same index makes the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    for field in fields(Arrays):
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".index.")
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, getattr(arrays, field.name), allow_pickle=False)
        os.replace(temporary, directory / f"{field.name}.npy")
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".index.")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
        json.dump(asdict(names), file)
    os.replace(temporary, directory / "names.json")


def load(directory: Path) -> Arrays:
    """Map an index into memory."""
    return Arrays(**{field.name: np.load(directory / f"{field.name}.npy", mmap_mode="r") for field in fields(Arrays)})


def load_names(directory: Path) -> Names:
    """What an index calls its items."""
    return Names(**json.loads((directory / "names.json").read_text(encoding="utf-8", errors="surrogatepass")))
