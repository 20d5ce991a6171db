"""Items of evaluations, read from their files."""

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tatara import storage
from tatara.errors import DataError, StorageError

QUESTIONS = (
    "question", "prompt", "problem", "input", "query", "instruction", "text", "turns", "sentence", "sentence1",
    "sentence2", "premise", "hypothesis", "goal", "ctx", "question_stem", "problem_statement",
)  # fmt: skip
"""Keys that hold what is asked, in any letter case."""
SOLUTIONS = (
    "solution", "canonical_solution", "answer", "best answer", "code", "output", "target", "completion", "response",
    "rationale", "explanation",
)  # fmt: skip
"""Keys that hold what is to be found."""
_CHOICE = re.compile(r"(choice|option|ending|sol)s?_?(\d+|[a-h])?")
_IDENTITIES = ("task_id", "question_id", "unique_id", "sentence_pair_id", "q_id", "qid", "id", "key", "uid")
_COLUMNS = {"jsonl", "ndjson", "json", "csv", "tsv", "parquet", "txt"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Item:
    """One item of a benchmark.

    Attributes:
        id: Its own, or its file and number in it, from 0.
        texts: (field, text) of what is checked, each by itself.
        choices: Answers to choose from.
    """

    id: str
    texts: tuple[tuple[str, str], ...]
    choices: tuple[str, ...] = ()

    def with_choices(self, text: str) -> tuple[str, str]:
        """A question together with its choices, bare and lettered, for questions that are too short by themselves."""
        lettered = (f"{letter} {choice}" for letter, choice in zip(_LETTERS, self.choices, strict=False))
        return "\n".join([text, *self.choices]), "\n".join([text, *lettered])


def read_items(name: str, path: str, fields: Sequence[str] = ()) -> list[Item]:
    """Every item of a benchmark.

    Args:
        name: The benchmark's.
        path: File, directory or glob.
        fields: Keys or columns to check, in any letter case; columns of a table without a header are ``0``, ``1``, ...

    Raises:
        DataError: A file is missing, cannot be read or holds no item.
    """
    files = _files(name, path)
    items: list[Item] = []
    for relative, url in files:
        try:
            content = storage.read_bytes(url)
            if url.endswith(".gz"):
                content = gzip.decompress(content)
            records = list(_records(content, _suffix(url), fields))
        except (OSError, EOFError, StorageError, ValueError, csv.Error) as error:
            raise DataError(f"benchmark {name}: cannot read {url}: {_line(error)}") from None
        found = [_item(record, fields, f"{relative}:{number}") for number, record in enumerate(records)]
        items += [item for item in found if item.texts]
    if not items:
        keys = f"field {', '.join(fields)}" if fields else "known field; name its keys under fields"
        raise DataError(f"benchmark {name}: {path} holds no item with text in a {keys}")
    seen: dict[str, int] = {}
    unique = []
    for item in items:
        count = seen[item.id] = seen.get(item.id, 0) + 1
        unique.append(item if count == 1 else Item(f"{item.id}#{count}", item.texts, item.choices))
    return unique


def _files(name: str, path: str) -> list[tuple[str, str]]:
    location = storage.absolute(path)
    try:
        if any(mark in path for mark in "*?[") and not (storage.is_local(location) and os.path.exists(location)):
            fs, pattern = storage.filesystem(location)
            scheme = "" if storage.is_local(location) else location.split("://", 1)[0] + "://"
            found = [(str(url).rsplit("/", 1)[-1], f"{scheme}{url}") for url in sorted(fs.glob(pattern))]
        elif not storage.exists(location):
            raise DataError(f"benchmark {name}: {path}: no such file or directory")
        else:
            found = [(info.path, info.url) for info in storage.list_files(location)]
    except StorageError as error:
        raise DataError(f"benchmark {name}: {error}") from None
    readable = [(relative, url) for relative, url in found if _suffix(url) in _COLUMNS]
    if not readable:
        raise DataError(f"benchmark {name}: {path} has no readable file; known are {', '.join(sorted(_COLUMNS))}")
    return readable


def _suffix(url: str) -> str:
    return url.lower().removesuffix(".gz").rpartition(".")[2]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _records(content: bytes, suffix: str, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    if suffix == "parquet":
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
        except pyarrow.ArrowException as error:
            raise ValueError(_line(error)) from None
        yield from rows
        return
    text = content.decode("utf-8-sig")
    if suffix == "txt":
        yield from ({"text": line} for line in text.splitlines() if line.strip())
    elif suffix in ("csv", "tsv"):
        yield from _table(text, "\t" if suffix == "tsv" else ",", fields)
    else:
        yield from _tree(_json(text, suffix), fields)


def _json(text: str, suffix: str) -> Any:
    if suffix == "json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            # Many a file of this name has an object on each line.
            if "Extra data" not in error.msg:
                raise
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _table(text: str, delimiter: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    lines = io.StringIO(text, newline="")
    if delimiter == "\t":  # Quotation marks mean nothing there.
        rows = list(filter(None, csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)))
    else:
        rows = list(filter(None, csv.reader(lines)))
    if not rows:
        return
    head = [cell.strip() for cell in rows[0]]
    lower = {cell.lower() for cell in head}
    if lower & (set(_lower(fields)) or {*QUESTIONS, *SOLUTIONS}):
        yield from (dict(zip(head, row, strict=False)) for row in rows[1:])
    elif fields:
        yield from ({str(number): cell for number, cell in enumerate(row)} for row in rows)
    else:  # As MMLU has it: question, choices, answer.
        for first, *rest in rows:
            yield {"question": first, "choices": rest[:-1], "answer": rest[-1] if rest else ""}


def _tree(value: Any, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The objects that hold a wanted key, however deep they are."""
    pending = [value]
    wanted = set(_lower(fields)) or {*QUESTIONS, *SOLUTIONS}
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            if any(key.lower() in wanted and _text(child) for key, child in node.items()):
                yield node
            else:
                pending.extend(reversed(list(node.values())))
        elif isinstance(node, list):
            pending.extend(reversed(node))


def _item(record: Mapping[str, Any], fields: Sequence[str], place: str) -> Item:
    by_name = {str(key).lower(): value for key, value in record.items()}
    wanted = _lower(fields) or [*QUESTIONS, *SOLUTIONS]
    texts = tuple((key, text) for key in wanted if (text := _text(by_name.get(key))))
    choices = []
    for key, value in by_name.items():
        if _CHOICE.fullmatch(key):
            choices += [value] if isinstance(value, str) else _strings(value)
    identity = next((by_name[key] for key in _IDENTITIES if isinstance(by_name.get(key), str | int)), None)
    return Item(place if identity is None else str(identity), texts, tuple(choice for choice in choices if choice))


def _text(value: Any) -> str:
    return "\n".join(_strings(value)).strip()


def _strings(value: Any) -> list[str]:
    """Every string in a value, in order; of chat messages only what is said."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        said = [value[key] for key in ("content", "text") if key in value]
        return _strings(said if said else list(value.values()))
    if isinstance(value, list | tuple):
        return [text for child in value for text in _strings(child)]
    return []


def _lower(fields: Sequence[str]) -> list[str]:
    return [field.lower() for field in fields]
