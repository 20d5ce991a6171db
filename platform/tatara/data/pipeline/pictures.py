"""What of a curation people would rather look at than read, as data for the run report."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tatara.data.pipeline.funnel import Funnel

_LANGUAGES = 20


def pictures(funnel: Funnel, figures: Mapping[str, Any], finished: Mapping[str, Any]) -> dict[str, Any]:
    """Report keys to JSON-able data.

    Args:
        funnel: Counts of the run.
        figures: What global steps found, by label.
        finished: What row steps found, by label.
    """
    shown: dict[str, Any] = {}
    histograms = [item for item in (_languages(funnel.languages), _lengths(funnel.lengths)) if item]
    if histograms:
        shown["histograms"] = histograms
    clusters = _clusters(funnel)
    if clusters:
        shown["duplicate_clusters"] = clusters
    tables = []
    for label, found in [*figures.items(), *finished.items()]:
        if not isinstance(found, Mapping):
            continue
        if "table" in found and "examples" not in found:
            tables.append(found["table"])
        if "sources" in found:
            tables.append(_mixture(label, found["sources"]))
        if "false_negatives" in found:
            shown["curve"] = _missed(label, found)
        if "examples" in found:
            shown["contamination"] = {"table": found.get("table"), "examples": found["examples"]}
        if "auc" in found or "accuracy" in found:
            tables.append(_classifier(label, found))
    return {**shown, "table": tables} if tables else shown


def _mixture(label: str, sources: Mapping[str, Any]) -> dict[str, Any]:
    columns = ["source", "weight", "documents before", "after", "tokens before", "after", "share", "epochs"]
    rows = []
    for name, item in sources.items():
        before, after = item["before"], item["after"]
        counts = [before["documents"], after["documents"], before["tokens"], after["tokens"]]
        rows.append([name, item["weight"], *counts, round(after["share"], 4), round(after["epochs"], 3)])
    return {"title": f"Mixture ({label})", "columns": columns, "rows": rows}


def _missed(label: str, found: Mapping[str, Any]) -> dict[str, Any]:
    points = [[similarity, missed] for similarity, missed in found["false_negatives"]]
    name = f"{found['bands']} bands of {found['rows']} rows"
    return {
        "title": f"Near copies that {label} does not see",
        "x": "Jaccard similarity",
        "y": "probability of being missed",
        "series": [{"name": name, "points": points}],
    }


def _classifier(label: str, found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [[key, value] for key, value in found.items() if isinstance(value, int | float | str)]
    return {"title": f"Classifier ({label})", "columns": ["figure", "value"], "rows": rows}


def _languages(languages: Counter[str]) -> dict[str, Any] | None:
    if not languages:
        return None
    bars: list[dict[str, Any]] = [{"label": name, "value": n} for name, n in languages.most_common(_LANGUAGES)]
    rest = sum(languages.values()) - sum(count for _, count in languages.most_common(_LANGUAGES))
    if rest:
        bars.append({"label": "others", "value": rest})
    return {"title": "Languages", "unit": "documents", "bars": bars}


def _lengths(lengths: Counter[int]) -> dict[str, Any] | None:
    if not lengths:
        return None
    first, last = max(min(lengths), 0), max(lengths)
    bars = [{"label": f"{_short(2**power)}+", "value": lengths.get(power, 0)} for power in range(first, last + 1)]
    return {"title": "Length, characters", "unit": "documents", "bars": bars}


def _short(count: int) -> str:
    for unit, size in (("M", 1 << 20), ("k", 1 << 10)):
        if count >= size:
            return f"{count // size}{unit}"
    return str(count)


def _clusters(funnel: Funnel) -> dict[str, Any] | None:
    bins: Counter[int] = Counter()
    for copies, count in funnel.copies.items():
        if copies > 1:
            bins[copies if copies < 4 else 1 << copies.bit_length() - 1] += count
    if not bins:
        return None
    sizes = []
    for start in sorted(bins):
        label = str(start) if start < 4 else f"{start}+"
        sizes.append({"label": label, "value": bins[start]})
    examples = []
    for cluster, members in sorted(funnel.clusters.items()):
        kept = next((item for item in members if "copies" in item), None)
        removed = [item for item in members if "copies" not in item]
        if kept and removed:
            examples.append({"cluster": cluster, "copies": kept["copies"], "kept": kept, "removed": removed})
    return {"sizes": sizes, "examples": examples}
