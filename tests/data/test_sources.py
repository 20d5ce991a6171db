import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tatara.data import sources
from tatara.data.curate import CurateConfig, PythonDocsConfig
from tatara.data.sources import corpus_files, identity
from tatara.errors import DataError


def corpus(location: Path | str) -> CurateConfig:
    return CurateConfig(corpus=str(location))


def test_the_default_corpus_is_identified_quickly_and_lightly() -> None:
    code = (
        "import json, sys, time; from tatara.data.curate import CurateConfig; from tatara.data.sources import identity;"
        "found = identity(CurateConfig());"
        "heavy = [m for m in ('ray', 'torch', 'numpy', 'pyarrow', 'transformers', 'tokenizers') if m in sys.modules];"
        "print(json.dumps([[f.path, f.size, f.sha256] for f in found])); print(json.dumps(heavy))"
    )
    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    found, heavy = (json.loads(line) for line in run.stdout.splitlines())
    assert heavy == []
    assert found == [[file.path, file.size, file.sha256] for file in identity(CurateConfig())]
    names = {name for name, _, _ in found}
    assert {"package:python", "package:numpy", "package:pydantic"} <= names
    assert "package:tatara" not in names
    assert "package:pytest" not in names
    assert "package:hypothesis" not in names


def test_another_package_in_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(CurateConfig())
    unrelated = tmp_path / "unrelated-1.0.dist-info"
    unrelated.mkdir()
    (unrelated / "METADATA").write_text("Metadata-Version: 2.1\nName: unrelated\nVersion: 1.0\n\nHello.\n")
    (unrelated / "RECORD").write_text("unrelated-1.0.dist-info/METADATA,sha256=x,60\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert identity(CurateConfig()) == before


def test_a_changed_file_of_a_dependency_changes_the_identity_and_installation_traces_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package named like a root of the corpus, at the front of the path, in three states."""
    monkeypatch.setattr(sources, "DISTRIBUTION", "not-installed-here")
    monkeypatch.setattr(sources, "ROOTS", ("madeup[extra]",))
    info = tmp_path / "madeup-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: madeup\nVersion: 1.0\nRequires-Dist: numpy; extra == 'extra'\n\nText.\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def found(record: str) -> dict[str, str]:
        (info / "RECORD").write_text(record)
        return {file.path: file.sha256 for file in identity(CurateConfig())}

    module = "madeup/__init__.py,sha256=aaa,10\n"
    first = found(module)
    assert set(first) == {"package:python", "package:madeup", "package:numpy"}
    traces = "madeup-1.0.dist-info/INSTALLER,sha256=q,4\n../../../bin/madeup,sha256=z,200\nmadeup/__pycache__/x.py,,\n"
    assert found(module + traces) == first
    assert found(module.replace("aaa", "bbb"))["package:madeup"] != first["package:madeup"]


def test_a_smaller_cap_is_a_subset_and_text_files_are_always_read() -> None:
    def select(max_bytes: int) -> tuple[set[str], set[str]]:
        files = corpus_files(CurateConfig(python_docs=PythonDocsConfig(max_bytes=max_bytes))).files
        modules = [file for file in files if file.kind == "python"]
        assert sum(file.size for file in modules) <= max_bytes
        return {file.source for file in modules}, {file.source for file in files if file.kind != "python"}

    small, large = select(1_000_000), select(5_000_000)
    assert small[0]
    assert small[0] < large[0]
    assert small[1] == large[1]
    assert any(source.endswith("/METADATA") for source in small[1])


def test_files_of_the_default_corpus_are_there() -> None:
    files = corpus_files(CurateConfig(python_docs=PythonDocsConfig(max_bytes=3_000_000))).files
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
    found = corpus_files(corpus(tmp_path))
    assert [(file.source, file.kind, file.compression) for file in found.files] == [
        ("a/one.txt", "text", None),
        ("a/two.MD", "text", None),
        ("b.jsonl.gz", "jsonl", "gzip"),
        ("c.parquet", "parquet", None),
    ]
    assert found.skipped == {".png": 1, ".gz": 1, "no suffix": 1}


def test_a_file_and_a_glob(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "sub/c.txt", "d.rst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.source for file in corpus_files(corpus(tmp_path / "a.txt")).files] == ["a.txt"]
    assert [file.source for file in corpus_files(corpus(f"{tmp_path}/*.txt")).files] == ["a.txt", "b.txt"]
    assert [file.source for file in corpus_files(corpus(f"{tmp_path}/**/*.txt")).files] == [
        "a.txt",
        "b.txt",
        "sub/c.txt",
    ]


def test_identity_of_a_users_files_is_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = identity(corpus(tmp_path))
    (tmp_path / "a.txt").touch()
    assert identity(corpus(tmp_path)) == first
    (tmp_path / "a.txt").write_text("two")
    assert [file.sha256 for file in identity(corpus(tmp_path))] != [file.sha256 for file in first]


def test_on_s3_the_etag_stands_for_the_content(s3_bucket: str) -> None:
    from tatara import storage

    url = f"{s3_bucket}/sources"
    storage.write_bytes(f"{url}/a.jsonl", b'{"text": "x"}\n')
    storage.write_bytes(f"{url}/deep/b.txt", b"y")
    found = identity(corpus(url))
    assert [(file.path, file.size) for file in found] == [(f"{url}/a.jsonl", 14), (f"{url}/deep/b.txt", 1)]
    assert [file.source for file in corpus_files(corpus(f"{url}/*/*.txt")).files] == ["deep/b.txt"]
    storage.write_bytes(f"{url}/deep/b.txt", b"z")
    assert identity(corpus(url))[1].sha256 != found[1].sha256


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
        identity(corpus(tmp_path / name))
    assert message in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_default_corpus_is_told_its_name() -> None:
    with pytest.raises(DataError, match="or 'python-docs'"):
        identity(corpus("python-doc"))
