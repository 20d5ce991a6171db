"""One document through the pipeline again, with every decision said aloud."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tatara import storage
from tatara.artifact import Artifact
from tatara.data.document import Document, Quarantined, Verdict
from tatara.data.pipeline.config import CurateConfig
from tatara.data.pipeline.planning import PlannedStep, plan_steps
from tatara.data.pipeline.shard_pass import selected
from tatara.data.read.reader import read_file
from tatara.data.sources import corpus_files
from tatara.errors import DataError

_SHOWN = 120


def explain(config: CurateConfig, identifier: str, artifact: Artifact | None) -> Iterator[str]:
    """Say what each step makes of a document, line by line.

    Row steps are done again. What a global step decided depends on the whole corpus: it is looked up in the finished
    artifact, if there is one.

    Args:
        config: The pipeline.
        identifier: The document's id.
        artifact: The result of this very configuration; None when it has not been run.

    Raises:
        DataError: No document of the corpus has this id.
    """
    decided = decisions(artifact, identifier) if artifact else {}
    document = find(config, identifier)
    if isinstance(document, Quarantined):
        yield f"{identifier}: set aside while it was read: {document.reason}"
        return
    yield f"{document.id}: from {document.source}, {_size(document)}, read as {document.encoding}"
    steps = plan_steps(config.pipeline)
    with tempfile.TemporaryDirectory(prefix="tatara-explain-") as work:
        for step in steps:
            verdict, line = _one(step, document, Path(work), artifact, decided)
            yield f"{step.position + 1:3d}. {step.label}: {line}"
            if verdict:
                yield f"dropped by {verdict.reason}"
                return
    final = kept(artifact, identifier) if artifact else None
    if final is not None:
        yield f"kept: stands for {final['copies']} document(s), repeated {final['repeats']} time(s)"
    else:
        yield "kept" if artifact else "kept, as far as can be said without a run over the whole corpus"


def _one(
    step: PlannedStep,
    document: Document,
    work: Path,
    artifact: Artifact | None,
    decided: Mapping[str, Verdict],
) -> tuple[Verdict | None, str]:
    if not selected(step.config.only, [document]):
        return None, "does not look at it (only)"
    if step.is_global:
        if artifact is None:
            return None, "decides with the whole corpus in view: run the pipeline first"
        verdict = decided.get(step.label)
        return verdict, _verdict(verdict) if verdict else "passes"
    step.directory(work).mkdir(parents=True, exist_ok=True)
    made = step.make(work)
    made.prepare()
    before = _state(document)
    [verdict] = made.apply([document])
    changes = [f"{name} {before[name]} -> {value}" for name, value in _state(document).items() if before[name] != value]
    changes += [f"{name} {count}" for name, count in document.counts.items()]
    document.counts.clear()
    said = _verdict(verdict) if verdict else "passes"
    return verdict, said + (f" ({'; '.join(changes)})" if changes else "")


def _state(document: Document) -> dict[str, str]:
    return {
        "size": _size(document), "language": f"{document.language} {document.language_score or 0:.2f}",
        "kind": document.kind, "scores": str(document.scores), "labels": str(document.labels),
        "text": f"{document.text[:40]!r}",
    }  # fmt: skip


def _size(document: Document) -> str:
    if document.content is not None:
        return f"{len(document.content):,} bytes of page"
    return f"{len(document.text):,} characters"


def _verdict(verdict: Verdict) -> str:
    measured = "" if verdict.value is None else f", measured {verdict.value:.6g}"
    limit = "" if verdict.limit is None else f" against {verdict.limit:.6g}"
    instead = "" if verdict.kept_id is None else f"; {verdict.kept_id} stays instead"
    return f"DROPPED by {verdict.reason}{measured}{limit}{instead}"


def find(config: CurateConfig, identifier: str) -> Document | Quarantined:
    """The document of an id, as it was read.

    Raises:
        DataError: There is none.
    """
    files = corpus_files(config.corpus, config.read.python_docs).files
    # An id that was made up begins with the name of its file: look there first.
    for file in sorted(files, key=lambda item: not identifier.startswith(item.source)):
        for found in read_file(file, config.read):
            if isinstance(found, Document):
                if found.id == identifier:
                    return found
            elif identifier in (found.source, f"{found.source}#{found.place}"):
                return found
    raise DataError(
        f"no document of the corpus has the id {identifier[:_SHOWN]!r}: ids are the user's own, or file and position, "
        "as the column id of the result has them"
    )


def decisions(artifact: Artifact, identifier: str) -> dict[str, Verdict]:
    """Step to its verdict about a document, as a finished run recorded it."""
    return {
        row["step"]: Verdict(row["reason"], row["value"], row["limit"], row["kept_id"], row["cluster"])
        for row in _rows(artifact, "decisions", identifier)
    }


def kept(artifact: Artifact, identifier: str) -> dict[str, Any] | None:
    """A document's row in the result."""
    return next(_rows(artifact, "documents", identifier), None)


def _rows(artifact: Artifact, folder: str, identifier: str) -> Iterator[dict[str, Any]]:
    for entry in artifact.files(folder):
        fs, path = storage.arrow_filesystem(artifact.file_url(entry.path))
        yield from pq.read_table(path, filesystem=fs, filters=[("id", "=", identifier)]).to_pylist()
