"""Real prose that every Python installation has, as a small corpus for tests."""

import json
from pathlib import Path


def topics() -> dict[str, str]:
    """The language reference that ``help()`` shows: about 80 documents, 700 kB."""
    from pydoc_data.topics import topics as found

    return dict(found)


def write_corpus(path: Path, documents: int = 40) -> Path:
    """A JSONL file of the longest topics."""
    chosen = sorted(topics().items(), key=lambda item: (-len(item[1]), item[0]))[:documents]
    lines = (json.dumps({"id": name, "text": text}) for name, text in chosen)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
