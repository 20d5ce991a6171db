"""Concatenated records as one growing buffer that knows where in the file each byte came from."""

import io
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from isal import isal_zlib  # zlib's interface, twice as fast

from tatara.data.read.streams import DamagedError

_BROKEN: type[Exception] = isal_zlib.error  # type: ignore[assignment]
GZIP_MAGIC = b"\x1f\x8b\x08"
_CHUNK = 1 << 18
_PROBE = 1 << 14
_OVERLAP = len(GZIP_MAGIC) - 1


class Buffer(ABC):
    """What has been read and not yet taken."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._taken = 0

    @abstractmethod
    def _more(self) -> bytes | None:
        """The next bytes, possibly none yet; None at the end."""

    def fill(self, size: int) -> bool:
        """Read until ``size`` bytes are there; False if there are fewer.

        Raises:
            DamagedError: What comes next cannot be decompressed.
        """
        while len(self.data) < size:
            more = self._more()
            if more is None:
                return False
            self.data += more
        return True

    def find(self, mark: bytes, limit: int) -> int:
        """Where ``mark`` comes next; -1 if it is not among the next ``limit`` bytes."""
        start = 0
        while True:
            found = self.data.find(mark, start, limit)
            if found >= 0 or len(self.data) >= limit:
                return found
            start = max(0, len(self.data) - len(mark) + 1)
            if not self.fill(len(self.data) + 1):
                return -1

    @abstractmethod
    def complete(self, size: int) -> None:
        """Read until more than ``size`` bytes are there, but not into the next member: its checksum is looked at."""

    def take(self, size: int) -> None:
        """Drop the next bytes; they need not be there yet."""
        while size:
            if not self.fill(1):
                return
            step = min(size, len(self.data))
            del self.data[:step]
            self._taken += step
            size -= step

    @abstractmethod
    def place(self) -> tuple[int, int]:
        """Where the next byte is: an offset in the file as it is stored, and bytes behind that when decompressed."""

    @abstractmethod
    def resume(self, place: int, start: bytes) -> bool:
        """Go on at the first thing from a place on that begins with ``start``; False if there is none."""


class StreamBuffer(Buffer):
    """A stream without marks inside; places are offsets in it."""

    def __init__(self, stream: io.BufferedReader, separator: bytes) -> None:
        super().__init__()
        self._stream = stream
        self._separator = separator
        self._failed = False

    def _more(self) -> bytes | None:
        if self._failed:
            return None
        try:
            return self._stream.read1(_CHUNK) or None
        except DamagedError:
            self._failed = True
            raise

    def complete(self, size: int) -> None:
        """Read until ``size`` bytes are there."""
        self.fill(size)

    def place(self) -> tuple[int, int]:
        """Offset in the stream, 0."""
        return self._taken, 0

    def resume(self, place: int, start: bytes) -> bool:
        """Look for the separator and the beginning of a record."""
        mark = self._separator + start
        while True:
            found = self.data.find(mark)
            if found >= 0:
                self.take(found + len(self._separator))
                return True
            keep = len(mark) - 1
            self.take(max(0, len(self.data) - keep))
            if not self.fill(len(self.data) + 1):
                return False


class GzipBuffer(Buffer):
    """A file of gzip members, mostly one for each record; places are those of members."""

    def __init__(self, raw: io.BufferedReader) -> None:
        super().__init__()
        self._raw = raw
        self._pending = b""
        self._position = 0  # in the file, behind what is pending
        self._machine: Any = None
        self._members: deque[tuple[int, int]] = deque()  # where its content begins, and the member itself

    def _more(self) -> bytes | None:
        if self._machine is None:
            self._pending = self._pending.lstrip(b"\0")
            if not self._pending and not self._load():
                return None
            if self._pending[:1] == b"\0":
                return b""
            self._machine = isal_zlib.decompressobj(isal_zlib.MAX_WBITS | 16)
            self._members.append((self._taken + len(self.data), self._position - len(self._pending)))
        if not self._pending and not self._load():
            rest = self._machine.flush()
            if rest:
                return rest
            raise DamagedError("cut short: the gzip stream ends too early")
        try:
            produced = self._machine.decompress(self._pending, _CHUNK)
        except _BROKEN as error:
            raise DamagedError(f"damaged gzip stream: {error}") from None
        self._pending = self._machine.unconsumed_tail
        if self._machine.eof:
            self._pending, self._machine = self._machine.unused_data, None
        return produced

    def complete(self, size: int) -> None:
        """Read until more than ``size`` bytes are there, or the member is over."""
        while self._machine is not None and len(self.data) <= size:
            self.data += self._more() or b""

    def _load(self) -> bool:
        self._pending = self._raw.read(_CHUNK)
        self._position += len(self._pending)
        return bool(self._pending)

    def place(self) -> tuple[int, int]:
        """Offset of the member in the file, and bytes behind its beginning when decompressed."""
        while len(self._members) > 1 and self._members[1][0] <= self._taken:
            self._members.popleft()
        begins, member = self._members[0] if self._members else (self._taken, self._position)
        return member, self._taken - begins

    def resume(self, place: int, start: bytes) -> bool:
        """Look for a member that begins with a record; what is between is lost."""
        found = self._search(place, start)
        if found is None:
            return False
        self._raw.seek(found)
        self.data.clear()
        self._members.clear()
        self._pending, self._position, self._machine = b"", found, None
        return True

    def _search(self, offset: int, start: bytes) -> int | None:
        self._raw.seek(offset)
        block = self._raw.read(_CHUNK)
        while block:
            found = block.find(GZIP_MAGIC)
            while found >= 0:
                if self._begins(offset + found, start):
                    return offset + found
                found = block.find(GZIP_MAGIC, found + 1)
            offset += max(len(block) - _OVERLAP, 1)
            self._raw.seek(offset)
            block = self._raw.read(_CHUNK)
            if len(block) <= _OVERLAP:
                return None
        return None

    def _begins(self, offset: int, start: bytes) -> bool:
        self._raw.seek(offset)
        try:
            machine = isal_zlib.decompressobj(isal_zlib.MAX_WBITS | 16)
            return bool(machine.decompress(self._raw.read(_PROBE), len(start)) == start)
        except _BROKEN:
            return False
