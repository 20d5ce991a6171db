"""The journal: what is cut off, what is damage, and what a new process reads."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.errors import StorageError
from tatara.rl.journal import Journal

RECORDS = [{"event": "one", "bytes": b"\x00\x01"}, {"event": "two", "counts": {3: 4}}, {"event": "three", "x": 0.1}]


def written(directory) -> Journal:
    journal = Journal(directory)
    journal.append(RECORDS[:1])
    journal.append(RECORDS[1:])
    return journal


def reread(directory) -> list:
    journal = Journal(directory)
    try:
        return list(journal.read())
    finally:
        journal.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    directory = tmp_path_factory.mktemp("journal")
    written(directory).close()
    assert reread(directory) == RECORDS
    return (directory / "journal").read_bytes()


def test_a_record_torn_anywhere_is_cut_off_and_what_follows_is_read(whole, tmp_path):
    for cut in range(len(whole)):
        directory = tmp_path / str(cut)
        directory.mkdir()
        (directory / "journal").write_bytes(whole[:cut])
        journal = Journal(directory)
        found = list(journal.read())
        assert found == RECORDS[: len(found)]
        journal.append([{"event": "after"}])
        journal.close()
        assert reread(directory) == [*found, {"event": "after"}]
    assert len(found) == 2


@given(st.data())
def test_a_flipped_bit_before_the_last_record_is_damage(whole, tmp_path_factory, data):
    last = whole.rindex(b"\x82\xa5event\xa5three") - 16
    place, bit = data.draw(st.integers(0, last - 1)), data.draw(st.integers(0, 7))
    broken = bytearray(whole)
    broken[place] ^= 1 << bit
    directory = tmp_path_factory.mktemp("broken")
    (directory / "journal").write_bytes(broken)
    with pytest.raises(StorageError, match=r"journal is damaged at byte \d+: restore it from a backup, or delete"):
        reread(directory)
    assert (directory / "journal").read_bytes() == broken, "nothing is lost that could be repaired"


def test_zeros_that_a_dead_machine_left_are_cut_off(whole, tmp_path):
    (tmp_path / "journal").write_bytes(whole + bytes(5000))
    assert reread(tmp_path) == RECORDS


def test_compaction_replaces_all_in_one_step(tmp_path):
    journal = written(tmp_path)
    journal.compact({"state": [1, 2]})
    journal.append([{"event": "later"}])
    journal.close()
    # A compaction that was cut short leaves its file.
    (tmp_path / "journal.new").write_bytes(b"half of a snapsh")
    assert reread(tmp_path) == [{"state": [1, 2]}, {"event": "later"}]
    assert not (tmp_path / "journal.new").exists()


def test_a_full_disk_changes_nothing(tmp_path, whole):
    limited = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
from tatara.errors import StorageError
from tatara.rl.journal import Journal
journal = Journal({str(tmp_path)!r})
journal.append({RECORDS!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
for write in (lambda: journal.append([dict(event="big", x="x" * 8000)]), lambda: journal.compact(dict(x="x" * 8000))):
    try:
        write()
    except StorageError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True)
    assert done.stdout.count("File too large; make room") == 2
    assert reread(tmp_path) == RECORDS


def test_two_writers_are_refused_until_the_first_is_gone(tmp_path):
    journal = written(tmp_path)
    with pytest.raises(StorageError, match=r"another process writes .*journal"):
        Journal(tmp_path)
    journal.close()
    assert reread(tmp_path) == RECORDS


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write a journal in"):
        Journal(tmp_path / "file" / "inside")
