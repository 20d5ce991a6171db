"""What decontamination found, the other way round: how much of each benchmark the corpus holds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara.data.decontaminate.config import DecontaminateConfig
from tatara.data.decontaminate.index import Arrays, Names
from tatara.data.decontaminate.tokens import Places

_EXAMPLES = 20
_COMMON = 10
"""Items found in more documents than this are common text rather than leaks (GPT-3, appendix C, drops such n-grams)."""


def spans(covered: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Which words are covered, as (first, after) of each run."""
    edges = np.diff(covered.astype(np.int8), prepend=0, append=0)
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))


def summarise(
    records: Iterator[tuple[str, dict[str, Any]]],
    arrays: Arrays,
    names: Names,
    checked: Places,
    config: DecontaminateConfig,
) -> dict[str, Any]:
    """What the run report says.

    An item's share is that of its words which n-grams found anywhere in the corpus cover (Llama 3, section 5.1.4), of
    its field with the largest one: ``found`` in all documents, ``left`` in what stays in the corpus.

    Returns:
        ``benchmarks`` (figures for each), ``items`` (benchmark to item to its shares and number of documents; only
        items of which anything was found), ``examples`` (matches), ``table`` (for people), ``thresholds`` and
        ``action``.
    """
    found, left = np.zeros(len(arrays.words), bool), np.zeros(len(arrays.words), bool)
    numbers = {
        (names.benchmarks[benchmark], item): number
        for number, (benchmark, item) in enumerate(zip(names.benchmark, names.ids, strict=True))
    }
    documents = np.zeros(len(names.ids), np.int64)
    hit: list[set[str]] = [set() for _ in names.benchmarks]
    examples: list[list[dict[str, Any]]] = [[] for _ in names.benchmarks]
    for document, record in records:
        for text, first, after in record.get("seen", ()):
            start = int(arrays.bounds[text])
            found[start + first : start + after] = True
            if record.get("stays"):
                left[start + first : start + after] = True
        if "item" in record:
            number = numbers[record["benchmark"], record["item"]]
            documents[number] += 1
            benchmark = names.benchmark[number]
            hit[benchmark].add(document)
            _keep(examples[benchmark], document, record, names.excerpts[record["text"]])
    shares = [_shares(covered, arrays, checked, len(names.ids)) for covered in (found, left)]
    benchmarks = [
        _figures(number, names, documents, shares[0], shares[1], len(hit[number]), config)
        for number in range(len(names.benchmarks))
    ]
    items: dict[str, dict[str, Any]] = {name: {} for name in names.benchmarks}
    for number in np.flatnonzero(shares[0] > 0).tolist():
        items[names.benchmarks[names.benchmark[number]]][names.ids[number]] = {
            "found": round(float(shares[0][number]), 4),
            "left": round(float(shares[1][number]), 4),
            "documents": int(documents[number]),
        }
    return {
        "action": config.action,
        "thresholds": list(config.thresholds),
        "benchmarks": benchmarks,
        "items": items,
        "examples": [example for each in examples for example in each],
        "table": _table(benchmarks, config),
    }


def _keep(examples: list[dict[str, Any]], document: str, record: dict[str, Any], item: str) -> None:
    """The matches least certain come first: they are the ones to look at."""
    shown = {key: value for key, value in record.items() if key not in ("seen", "stays", "text")}
    examples.append({"document": document, **shown, "item_excerpt": item})
    examples.sort(key=lambda example: (example["overlap"], example["document"], example["item"]))
    del examples[_EXAMPLES:]


def _shares(covered: NDArray[np.bool_], arrays: Arrays, checked: Places, items: int) -> NDArray[np.float64]:
    """The largest share of any of an item's texts that is covered: ``[items]``."""
    total = np.concatenate(([0], np.cumsum(covered)))
    counts = total[arrays.bounds[1:]] - total[arrays.bounds[:-1]]
    shares = np.zeros(items)
    np.maximum.at(shares, np.asarray(arrays.item), counts / np.maximum(checked, 1))
    return shares


def _figures(
    benchmark: int,
    names: Names,
    documents: Places,
    found: NDArray[np.float64],
    left: NDArray[np.float64],
    hit: int,
    config: DecontaminateConfig,
) -> dict[str, Any]:
    own = np.flatnonzero(np.asarray(names.benchmark) == benchmark)
    states = [names.state[number] for number in own.tolist()]
    checked = states.count("checked")
    contaminated = int(np.count_nonzero(documents[own]))
    return {
        "benchmark": names.benchmarks[benchmark],
        "items": len(own),
        "checked": checked,
        "too_short": states.count("short"),
        "template": states.count("template"),
        "too_short_items": [names.ids[n] for n, state in zip(own.tolist(), states, strict=True) if state == "short"],
        "contaminated": contaminated,
        "share": round(contaminated / checked, 4) if checked else 0.0,
        "common": int(np.count_nonzero(documents[own] > _COMMON)),
        "documents": hit,
        "found": {f"{limit:g}": int(np.count_nonzero(found[own] >= limit)) for limit in config.thresholds},
        "left": {f"{limit:g}": int(np.count_nonzero(left[own] >= limit)) for limit in config.thresholds},
    }


def _table(benchmarks: list[dict[str, Any]], config: DecontaminateConfig) -> dict[str, Any]:
    limits = [f"{limit:g}" for limit in config.thresholds]
    columns = ["benchmark", "items", "not checked", "contaminated", "share", "documents"]
    columns += [f"≥ {float(limit):.0%} found" for limit in limits]
    columns += [f"≥ {float(limit):.0%} left" for limit in limits]
    rows = [
        [
            row["benchmark"],
            row["items"],
            row["items"] - row["checked"],
            row["contaminated"],
            f"{row['share']:.2%}",
            row["documents"],
            *(row["found"][limit] for limit in limits),
            *(row["left"][limit] for limit in limits),
        ]
        for row in benchmarks
    ]
    return {"title": "Items of each benchmark", "columns": columns, "rows": rows}
