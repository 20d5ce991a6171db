"""An append-only file of records that survives the death of its writer at any moment.

Each record is a header (length of the body, CRC-32 of the body, CRC-32 of the header before it) and a msgpack body. A
writer that dies leaves at most one record torn at the end, which is cut off: nobody was answered on the strength of it.
Anything else that does not check out is damage, and is said to be.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tatara.errors import StorageError

Record = dict[str, Any]
_FIELDS = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_HEADER = _FIELDS.size + _CRC.size


class Journal:
    """Records on disk, read once when opened and then only added to.

    Attributes:
        path: The file.
    """

    def __init__(self, directory: str | Path):
        """Open the journal in a directory, which is made if it is not there; one process at a time may.

        Raises:
            StorageError: Another process has it open, or the directory cannot be written.
        """
        self.path = Path(directory) / "journal"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path.with_name("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"cannot write a journal in {directory}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StorageError(
                f"another process writes {self.path}: end that run, or give this one its own directory"
            ) from None
        # What a compaction that was cut short left behind.
        self.path.with_name("journal.new").unlink(missing_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def read(self) -> Iterator[Record]:
        """All records from the start; a torn one at the end is cut off.

        Raises:
            StorageError: The file is damaged before its end.
        """
        with open(self.path, "rb") as file:
            while True:
                at = file.tell()
                body = _next_body(file, self.path)
                if body is None:
                    break
                yield _unpack(body)
        os.ftruncate(self._file, at)

    def append(self, records: Sequence[Record], sync: bool = False) -> None:
        """Add records with one write.

        Args:
            records: Plain data: mappings, lists, strings, numbers, bytes.
            sync: Whether they must survive the death of the machine too, not of the process alone.

        Raises:
            StorageError: The disk is full or gone; nothing was added.
        """
        _append(self._file, b"".join(_encode(record) for record in records), self.path)
        if sync:
            os.fsync(self._file)

    def compact(self, snapshot: Record) -> None:
        """Replace all records by one that says the same, in one step.

        Raises:
            StorageError: The disk is full or gone; the former records are still there.
        """
        new = self.path.with_name("journal.new")
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            _append(file, _encode(snapshot), new)
            os.fsync(file)
            new.rename(self.path)
        except (OSError, StorageError):
            os.close(file)
            raise
        sync_directory(self.path.parent)
        os.close(self._file)
        self._file = file

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return os.fstat(self._file).st_size

    def close(self) -> None:
        """Let another process open it."""
        os.close(self._file)
        os.close(self._lock)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive the death of the machine."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _append(file: int, data: bytes, path: Path) -> None:
    size = os.fstat(file).st_size
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(file, view) :]
    except OSError as error:
        os.ftruncate(file, size)
        raise StorageError(f"cannot write {path}: {error.strerror}; make room, the run goes on from there") from None


def _encode(record: Record) -> bytes:
    import msgpack

    body = msgpack.packb(record)
    fields = _FIELDS.pack(len(body), zlib.crc32(body))
    return b"".join((fields, _CRC.pack(zlib.crc32(fields)), body))


def _unpack(body: bytes) -> Record:
    import msgpack

    record: Record = msgpack.unpackb(body, strict_map_key=False)
    return record


def _next_body(file: BinaryIO, path: Path) -> bytes | None:
    """Body of the next record; None: there is none, or it is torn and the last."""
    at = file.tell()
    header = file.read(_HEADER)
    if len(header) < _HEADER:
        return None
    fields = header[: _FIELDS.size]
    if _CRC.unpack(header[_FIELDS.size :])[0] != zlib.crc32(fields):
        # A machine that dies may leave zeros where data should have been written.
        if not any(header) and _only_zeros(file):
            return None
        raise _damaged(path, at)
    length, checksum = _FIELDS.unpack(fields)
    body = file.read(length)
    if len(body) == length and zlib.crc32(body) == checksum:
        return body
    if len(body) == length and not _only_zeros(file):
        raise _damaged(path, at)
    return None


def _only_zeros(file: BinaryIO) -> bool:
    return not any(any(block) for block in iter(lambda: file.read(1 << 20), b""))


def _damaged(path: Path, at: int) -> StorageError:
    return StorageError(
        f"{path} is damaged at byte {at}: restore it from a backup, or delete its directory to go on from the last "
        "checkpoint with new rollouts"
    )
