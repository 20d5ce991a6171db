from pathlib import Path

import pytest

from reading import documents, quarantined, read
from tatara.data.document import Document


def test_other_encodings_are_read_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Größe und Übermut tun selten gut.".encode("latin-1"))
    (tmp_path / "b.jsonl").write_bytes('{"text": "Größe und Übermut"}\n'.encode("latin-1"))
    first, second = documents(read(tmp_path))
    assert (first.text, first.encoding) == ("Größe und Übermut tun selten gut.", "cp1252")
    assert (second.text, second.encoding) == ("Größe und Übermut", "cp1252")


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\nText")
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "binary.txt").write_bytes(b"\x00\x01" * 100)
    found = read(tmp_path)
    assert documents(found) == [Document("a.md", "# One\n\nText", "a.md")]
    assert [(item.source, item.reason) for item in quarantined(found)] == [("binary.txt", "binary, not text")]


def test_long_text_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * 100 for i in range(40)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    found = documents(read(tmp_path, document_bytes=4096))
    assert len(found) > 3
    content = (tmp_path / "book.txt").read_text()
    for item in found:
        offset = int(item.id.removeprefix("book.txt#"))
        assert content[offset:].startswith(item.text)
        assert item.text.startswith("Paragraph")
    assert "".join("\n\n".join(item.text for item in found).split()) == "".join(content.split())
    assert min(len(item.text) for item in found[:-1]) >= 4096


def test_marks_at_the_beginning_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "marked"}\n')
    (tmp_path / "b.txt").write_bytes("UTF-16 text".encode("utf-16"))
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfUTF-8 text")
    assert [item.text for item in documents(read(tmp_path))] == ["marked", "UTF-16 text", "UTF-8 text"]


def test_large_text_is_read_in_blocks_as_if_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paragraphs = [f"Absatz {i}. " + "größer " * (i % 90) + ("\n \n \t\n" if i % 7 else "\n") for i in range(3000)]
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(paragraphs), newline="")
    for encoding in ("utf-8", "utf-16", "utf-8-sig"):
        path.write_text("\n\n".join(paragraphs), newline="", encoding=encoding)
        whole = read(tmp_path, document_bytes=4096)
        with monkeypatch.context() as patch:
            patch.setattr("tatara.data.read.plain._BLOCK", 5001)
            blocks = read(tmp_path, document_bytes=4096)
        assert len(whole) > 50
        assert blocks == whole


def test_a_text_without_paragraphs_above_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tatara.data.read.plain._BLOCK", 1000)
    (tmp_path / "a.txt").write_text("one\n\n" + "word " * 4000 + "\n\nlast")
    found = read(tmp_path, document_bytes=1024, max_document_bytes=4096)
    assert [item.text for item in documents(found)] == ["last"]
    (bad,) = quarantined(found)
    assert bad.size == len("one\n\n" + "word " * 4000)
