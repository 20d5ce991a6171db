import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tatara.data import python_docs
from tatara.data.read.config import PythonDocsConfig
from tatara.data.sources import corpus_files, corpus_identity, files_identity
from tatara.errors import DataError


def test_the_default_corpus_is_identified_quickly_and_lightly() -> None:
    code = (
        "import json, sys, time; from tatara.data.sources import corpus_identity;"
        "found = corpus_identity('python-docs');"
        "heavy = [m for m in ('ray', 'torch', 'numpy', 'pyarrow', 'transformers', 'tokenizers') if m in sys.modules];"
        "print(json.dumps([[f.path, f.size, f.sha256] for f in found])); print(json.dumps(heavy))"
    )
    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    found, heavy = (json.loads(line) for line in run.stdout.splitlines())
    assert heavy == []
    assert found == [[file.path, file.size, file.sha256] for file in corpus_identity("python-docs")]
    names = {name for name, _, _ in found}
    assert {"package:python", "package:numpy", "package:pydantic"} <= names
    assert "package:tatara" not in names
    assert "package:pytest" not in names
    assert "package:hypothesis" not in names


def test_another_package_in_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = corpus_identity("python-docs")
    unrelated = tmp_path / "unrelated-1.0.dist-info"
    unrelated.mkdir()
    (unrelated / "METADATA").write_text("Metadata-Version: 2.1\nName: unrelated\nVersion: 1.0\n\nHello.\n")
    (unrelated / "RECORD").write_text("unrelated-1.0.dist-info/METADATA,sha256=x,60\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert corpus_identity("python-docs") == before


def test_a_changed_file_of_a_dependency_changes_the_identity_and_installation_traces_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package named like a root of the corpus, at the front of the path, in three states."""
    monkeypatch.setattr(python_docs, "DISTRIBUTION", "not-installed-here")
    monkeypatch.setattr(python_docs, "ROOTS", ("madeup[extra]",))
    info = tmp_path / "madeup-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: madeup\nVersion: 1.0\nRequires-Dist: numpy; extra == 'extra'\n\nText.\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def found(record: str) -> dict[str, str]:
        (info / "RECORD").write_text(record)
        return {file.path: file.sha256 for file in corpus_identity("python-docs")}

    module = "madeup/__init__.py,sha256=aaa,10\n"
    first = found(module)
    assert set(first) == {"package:python", "package:madeup", "package:numpy"}
    traces = "madeup-1.0.dist-info/INSTALLER,sha256=q,4\n../../../bin/madeup,sha256=z,200\nmadeup/__pycache__/x.py,,\n"
    assert found(module + traces) == first
    assert found(module.replace("aaa", "bbb"))["package:madeup"] != first["package:madeup"]


def test_a_smaller_cap_is_a_subset_and_text_files_are_always_read() -> None:
    def select(max_bytes: int) -> tuple[set[str], set[str]]:
        files = corpus_files("python-docs", PythonDocsConfig(max_bytes=max_bytes)).files
        modules = [file for file in files if file.kind == "python"]
        assert sum(file.size for file in modules) <= max_bytes
        return {file.source for file in modules}, {file.source for file in files if file.kind != "python"}

    small, large = select(1_000_000), select(5_000_000)
    assert small[0]
    assert small[0] < large[0]
    assert small[1] == large[1]
    assert any(source.endswith("/METADATA") for source in small[1])


def test_files_of_the_default_corpus_are_there() -> None:
    files = corpus_files("python-docs", PythonDocsConfig(max_bytes=3_000_000)).files
    for file in files:
        assert os.path.getsize(file.url) == file.size or file.source.startswith("python/")
    assert len({file.source for file in files}) == len(files)


def test_a_directory_of_mixed_files(tmp_path: Path) -> None:
    for name in (
        "b.jsonl.gz",
        "a/one.txt",
        "a/two.MD",
        "c.parquet",
        "x.png",
        "y.parquet.gz",
        ".hidden/z.txt",
        "noname",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = corpus_files(str(tmp_path))
    assert [(file.source, file.kind, file.compression) for file in found.files] == [
        ("a/one.txt", "text", None),
        ("a/two.MD", "text", None),
        ("b.jsonl.gz", "jsonl", "gzip"),
        ("c.parquet", "parquet", None),
    ]
    assert found.skipped == {".png": 1, ".parquet.gz": 1, "no suffix": 1}


def test_a_file_and_a_glob(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "sub/c.txt", "d.rst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.source for file in corpus_files(str(tmp_path / "a.txt")).files] == ["a.txt"]
    assert [file.source for file in corpus_files(str(f"{tmp_path}/*.txt")).files] == ["a.txt", "b.txt"]
    assert [file.source for file in corpus_files(str(f"{tmp_path}/**/*.txt")).files] == [
        "a.txt",
        "b.txt",
        "sub/c.txt",
    ]


def test_identity_of_a_users_files_is_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = corpus_identity(str(tmp_path))
    (tmp_path / "a.txt").touch()
    assert corpus_identity(str(tmp_path)) == first
    (tmp_path / "a.txt").write_text("two")
    assert [file.sha256 for file in corpus_identity(str(tmp_path))] != [file.sha256 for file in first]


def test_on_s3_the_etag_stands_for_the_content(s3_bucket: str) -> None:
    from tatara import storage

    url = f"{s3_bucket}/sources"
    storage.write_bytes(f"{url}/a.jsonl", b'{"text": "x"}\n')
    storage.write_bytes(f"{url}/deep/b.txt", b"y")
    found = corpus_identity(str(url))
    assert [(file.path, file.size) for file in found] == [(f"{url}/a.jsonl", 14), (f"{url}/deep/b.txt", 1)]
    assert [file.source for file in corpus_files(str(f"{url}/*/*.txt")).files] == ["deep/b.txt"]
    storage.write_bytes(f"{url}/deep/b.txt", b"z")
    assert corpus_identity(str(url))[1].sha256 != found[1].sha256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jsonl", "no such file or directory"),
        ("*.jsonl", "no file matches"),
        ("pictures", "no readable file; it holds 1 .png, but .jsonl"),
        ("empty", "no readable file; it holds nothing"),
        ("archive.zip", "no readable file; it holds 1 .zip"),
    ],
)
def test_a_corpus_that_is_not_there(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(b"x")
    (tmp_path / "archive.zip").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        corpus_identity(str(tmp_path / name))
    assert message in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_default_corpus_is_told_its_name() -> None:
    with pytest.raises(DataError, match="or 'python-docs'"):
        corpus_identity("python-doc")


def test_every_known_suffix_has_its_reader(tmp_path: Path) -> None:
    names = {
        "a.ndjson.bz2": "jsonl", "b.json": "json", "c.HTML": "html", "d.xhtml.gz": "html", "e.warc": "warc",
        "f.warc.wet.gz": "warc", "g.wet.zst": "warc", "h.xml.bz2": "wiki", "i.md.xz": "text",
    }  # fmt: skip
    for name in [*names, "j.warc.wat.gz", "k.zip", "l.tar.gz"]:
        (tmp_path / name).write_bytes(b"x")
    found = corpus_files(str(tmp_path))
    assert {file.source: file.kind for file in found.files} == names
    assert found.skipped == {".wat.gz": 1, ".zip": 1, ".tar.gz": 1}


def test_several_locations(tmp_path: Path) -> None:
    for name in ("web/a.txt", "web/b.txt", "wiki/a.txt", "more/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    locations = [f"{tmp_path}/{name}" for name in ("web", "wiki", "more")]
    files = corpus_files(locations).files
    assert [file.source for file in files] == ["b.txt", "c.txt", "web/a.txt", "wiki/a.txt"]
    assert all(Path(file.url).read_text().endswith(file.source) for file in files)
    assert [file.sha256 for file in corpus_identity(locations)] == [
        file.sha256 for location in locations for file in corpus_identity(location)
    ]
    with pytest.raises(DataError, match=r"would both be called web/a\.txt; give the locations names"):
        corpus_files([f"{tmp_path}/web", f"{tmp_path}/web/"])
    with pytest.raises(DataError, match="absent: no such file or directory"):
        corpus_files([f"{tmp_path}/web", f"{tmp_path}/absent"])
    with pytest.raises(DataError, match="no location is given"):
        corpus_files([])


def test_named_locations(tmp_path: Path) -> None:
    for name in ("x/a.txt", "y/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    named = {"wiki": f"{tmp_path}/y", "web": f"{tmp_path}/x/a.txt"}
    assert [file.source for file in corpus_files(named).files] == ["web/a.txt", "wiki/a.txt"]
    renamed = {"wiki": f"{tmp_path}/y", "other": f"{tmp_path}/x/a.txt"}
    assert corpus_identity(named) != corpus_identity(renamed)
    mixed = corpus_files({"docs": "python-docs", "web": f"{tmp_path}/x"}, PythonDocsConfig(max_bytes=1)).files
    assert mixed[-1].source == "web/a.txt"
    assert all(file.source.startswith("docs/") for file in mixed[:-1])
    with pytest.raises(DataError, match="'a/b' cannot name a part"):
        corpus_files({"a/b": str(tmp_path)})


def test_identity_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "lists" / "deep").mkdir(parents=True)
    for name in ("lists/en.txt", "lists/deep/ja", "bench.jsonl"):
        (tmp_path / name).write_text(name)
    found = files_identity([f"{tmp_path}/bench.jsonl", f"{tmp_path}/lists", f"{tmp_path}/*.jsonl"])
    assert [file.path for file in found] == [
        f"{tmp_path}/bench.jsonl", f"{tmp_path}/lists/deep/ja", f"{tmp_path}/lists/en.txt"
    ]  # fmt: skip
    assert found[0].sha256 == hashlib.sha256(b"bench.jsonl").hexdigest()
    assert files_identity([]) == []
    with pytest.raises(DataError, match=r"^/nowhere/x: no such file or directory$"):
        files_identity([f"{tmp_path}/bench.jsonl", "/nowhere/x"])
