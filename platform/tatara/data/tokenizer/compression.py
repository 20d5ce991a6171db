"""How many bytes a token stands for, by language and by source."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_SHOWN = 30
_COUNTS = ("documents", "bytes", "tokens", "tokens_before")


class Columns(Protocol):
    """What is known of documents: bytes, and language and source as numbers of names."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of text: ``[documents]``."""

    @property
    def language(self) -> NDArray[np.int64]:
        """Number of the language: ``[documents]``."""

    @property
    def languages(self) -> list[str]:
        """Name of each language."""

    @property
    def source(self) -> NDArray[np.int64]:
        """Number of the source: ``[documents]``."""

    @property
    def sources(self) -> list[str]:
        """Name of each source."""


class Compression:
    """Sums of documents, bytes and tokens, by language and by source."""

    def __init__(self, extended: bool) -> None:
        self._extended = extended
        self._sums: dict[str, dict[str, NDArray[np.int64]]] = {"language": {}, "source": {}}

    def add(self, columns: Columns, lengths: NDArray[np.int64], before: NDArray[np.int64]) -> None:
        """Count documents.

        Args:
            columns: What is known of them.
            lengths: Tokens of each, the end-of-text token included: ``[documents]``.
            before: The same with the tokenizer that was extended: ``[documents]``.
        """
        # A source is a file; where corpora have names, or lie in directories, those are what is told apart.
        places = [name.split("/")[0] for name in columns.sources]
        for key, codes, names in (
            ("language", columns.language, columns.languages),
            ("source", columns.source, places),
        ):
            weights = (np.ones(len(codes), np.int64), columns.sizes, lengths - 1, before - 1)
            sums = np.zeros((len(_COUNTS), len(names)), np.int64)
            for row, values in zip(sums, weights, strict=True):
                np.add.at(row, codes, values)
            for number, name in enumerate(names):
                self._sums[key][name] = self._sums[key].get(name, np.zeros(len(_COUNTS), np.int64)) + sums[:, number]

    def literals(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By ``language`` and ``source``, then by name, largest first: counts and bytes per token."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for key, sums in self._sums.items():
            found[key] = {}
            for name, counts in sorted(sums.items(), key=lambda item: (-int(item[1][1]), item[0])):
                if counts[0]:
                    values: dict[str, Any] = dict(zip(_COUNTS, counts.tolist(), strict=True))
                    values["bytes_per_token"] = round(values["bytes"] / max(values["tokens"], 1), 4)
                    if not self._extended:
                        del values["tokens_before"]
                    found[key][name] = values
        return found

    def tables(self) -> list[dict[str, Any]]:
        """The same as tables of the run report, the largest rows of each."""
        columns = ["documents", "bytes", "tokens", "bytes_per_token", *(["tokens_before"] * self._extended)]
        tables = []
        for key, values in self.literals().items():
            rows = [[name, *(counts[column] for column in columns)] for name, counts in list(values.items())[:_SHOWN]]
            title = f"Bytes per token by {key}" + (f", the {_SHOWN} largest" if len(values) > _SHOWN else "")
            tables.append({"title": title, "columns": [key, *(c.replace("_", " ") for c in columns)], "rows": rows})
        return tables

    def summary(self) -> str:
        """The languages with most text, in words."""
        found = list(self.literals()["language"].items())
        shown = [
            f"{name} {values['bytes_per_token']:.2f}"
            + (f", {values['tokens'] / max(values['tokens_before'], 1) - 1:+.1%} tokens" if self._extended else "")
            for name, values in found[:5]
        ]
        return "; ".join(shown) + (f" and {len(found) - 5} more languages" if len(found) > 5 else "")
