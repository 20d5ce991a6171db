"""Paths and URLs through one code path, on a local disk and on a real S3 server."""

import hashlib
import os
import threading

import pytest

from tatara import storage
from tatara.errors import MissingExtraError, StorageError


def test_files_are_written_listed_hashed_and_removed(any_root: str) -> None:
    url = storage.join(any_root, "a", "b.txt")
    storage.write_bytes(url, b"one")
    storage.write_bytes(storage.join(any_root, "a", "c", "d.txt"), b"four")
    assert storage.exists(url)
    assert storage.read_bytes(url) == b"one"
    assert [(file.path, file.size) for file in storage.list_files(storage.join(any_root, "a"))] == [
        ("b.txt", 3),
        ("c/d.txt", 4),
    ]
    assert storage.list_directories(storage.join(any_root, "a")) == ["c"]
    assert storage.sha256(url) == hashlib.sha256(b"one").hexdigest()
    assert storage.list_files(url)[0].path == "b.txt"
    storage.remove_tree(storage.join(any_root, "a"))
    assert not storage.exists(url)
    assert storage.list_directories(storage.join(any_root, "a")) == []


def test_one_of_many_exclusive_writers_wins(any_root: str) -> None:
    url = storage.join(any_root, "claim")
    won: list[int] = []
    lost: list[int] = []

    def claim(number: int) -> None:
        try:
            storage.write_bytes(url, str(number).encode(), exclusive=True)
            won.append(number)
        except FileExistsError:
            lost.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert storage.read_bytes(url) == str(won[0]).encode()


def test_arrow_reads_what_was_written(any_root: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, path = storage.arrow_filesystem(storage.join(any_root, "t.parquet"))
    fs.create_dir(path.rsplit("/", 1)[0])
    pq.write_table(pa.table({"x": [1, 2]}), path, filesystem=fs)
    assert pq.read_table(path, filesystem=fs)["x"].to_pylist() == [1, 2]


def test_a_file_on_a_web_server_is_listed_and_read(tmp_path) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    (tmp_path / "c.jsonl").write_bytes(b"{}\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/c.jsonl"
        (file,) = storage.list_files(url)
        assert (file.url, file.path, file.size) == (url, "c.jsonl", 3)
        assert storage.read_bytes(url) == b"{}\n"
        assert storage.sha256(url) == hashlib.sha256(b"{}\n").hexdigest()
        server.shutdown()


def test_errors_name_the_url_and_the_fix(any_root: str) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*nothing\.txt: no such file"):
        storage.read_bytes(storage.join(any_root, "nothing.txt"))
    with pytest.raises(StorageError, match="nope://x"):
        storage.exists("nope://x")


@pytest.mark.skipif(os.path.exists("/dev/full") is False, reason="needs /dev/full, which Linux has")
def test_a_full_disk_is_said_in_one_line() -> None:
    with pytest.raises(StorageError, match="the disk is full"):
        with storage.errors_named("/dev/full", "write"), open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")


def test_a_missing_driver_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'tatara\[gs\]'"):
        storage.exists("gs://bucket/x")


def test_a_lock_is_held_by_one_and_freed_by_its_end(tmp_path) -> None:
    path = tmp_path / "deep" / "lock"
    with storage.exclusive_lock(path):
        with pytest.raises(storage.LockHeldError, match=f"process {os.getpid()}"):
            with storage.exclusive_lock(path):
                pass
    with storage.exclusive_lock(path):
        pass
