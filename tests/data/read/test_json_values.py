import gzip
import json
from pathlib import Path

import pytest

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.reader import read_file

RECORDS = [
    {"id": f"ä{i}", "text": f'größer {i} " ] , }}' + "x" * (i * 37 % 5000), "n": [i, {"a": "]"}]} for i in range(300)
]
WANTED = [(record["id"], record["text"], {"n": record["n"]}) for record in RECORDS]


def read(path: Path, content: bytes | str, **config: object) -> list[Document | Quarantined]:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(raw)
    return list(read_file(RawFile(str(path), path.name, "json", len(raw)), ReadConfig(**config)))


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", ["array", "one after the other", "lines"])
def test_every_way_to_write_records(tmp_path: Path, form: str, indent: int | None, ascii_only: bool) -> None:
    written = [json.dumps(record, indent=indent, ensure_ascii=ascii_only) for record in RECORDS]
    content = json.dumps(RECORDS, indent=indent, ensure_ascii=ascii_only) if form == "array" else "\n".join(written)
    for name, raw in (("a.json", content.encode()), ("a.json.gz", gzip.compress(content.encode()))):
        found = read(tmp_path / name, raw)
        assert [(item.id, item.text, item.metadata) for item in found if isinstance(item, Document)] == WANTED
        assert len(found) == 300


def test_ids_are_byte_offsets(tmp_path: Path) -> None:
    content = '\ufeff[\n {"text": "größer"},\n {"text": "b"}]\n'
    found = read(tmp_path / "a.json", content)
    raw = content.encode().removeprefix(b"\xef\xbb\xbf")
    assert [item.id for item in found if isinstance(item, Document)] == [
        f"a.json#{raw.index(mark)}" for mark in (b'{"text": "gr', b'{"text": "b')
    ]


def test_what_is_wrong_is_set_aside(tmp_path: Path) -> None:
    found = read(tmp_path / "a.json", '[{"text": "a"}, 5, {"body": 1}, {"text": "b"}, {"text": }, {"text": "c"}]')
    assert [item.text for item in found if isinstance(item, Document)] == ["a", "b"]
    aside = [item for item in found if isinstance(item, Quarantined)]
    assert [item.place for item in aside] == [16, 19, 47]
    assert aside[0].reason == "a JSON int where an object is needed"
    assert aside[2].reason.startswith("not JSON from here on: Expecting value")


def test_cut_short_and_too_large(tmp_path: Path) -> None:
    found = read(tmp_path / "a.json", '[{"text": "a"}, {"text": "b')
    assert [type(item) for item in found] == [Document, Quarantined]
    found = read(tmp_path / "a.json", '[{"text": "a"}, {"text": "' + "b" * 400_000 + '"}]', max_document_bytes=2000)
    assert [type(item) for item in found] == [Document, Quarantined]
    deep = read(tmp_path / "a.json", "[" * 100_000)
    assert [type(item) for item in deep] == [Quarantined]
