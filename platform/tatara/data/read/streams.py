"""Files as bounded streams: opened anywhere, decompressed piece by piece, with an end that says if it is the end."""

import bz2
import contextlib
import io
import lzma
from collections.abc import Iterator
from typing import Any, TypeAlias

from isal import isal_zlib  # zlib's interface, twice as fast

from tatara import storage
from tatara.data.raw_file import RawFile
from tatara.errors import require

Stream: TypeAlias = "io.BufferedReader[Any]"

_BUFFER = 1 << 18
_CHUNK = 1 << 16
# zstd expands a chunk at once, however large it gets: 4 bytes can stand for 128 KiB.
_ZSTD_CHUNK = 1 << 11


# Drivers of object stores and web servers raise errors of their own, some of them without being an OSError.
_NETWORK = {"aiohttp", "aiobotocore", "botocore", "urllib3", "gcsfs"}


class DamagedError(ValueError):
    """A compressed stream is broken or ends too early; everything before was handed out."""


def is_connection_error(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is the connection's, so that it says nothing about the file."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        # An answer of the server is about the file, unless it is one about the server itself.
        if type(error).__module__.split(".")[0] in _NETWORK and getattr(error, "status", 500) >= 500:
            return True
        error = error.__cause__
    return False


class EmptyError(ValueError):
    """A file holds not a single byte."""


@contextlib.contextmanager
def open_stream(file: RawFile) -> Iterator[Stream]:
    """A file's decompressed content.

    Raises:
        EmptyError: There is nothing in it.
    """
    with open_raw(file) as raw:
        stream: Stream = (
            raw if file.compression is None else io.BufferedReader(Decompressed(raw, file.compression), _BUFFER)
        )
        try:
            empty = not stream.peek(1)
        except DamagedError:
            empty = False  # the reader meets it again, and knows what to say of it
        if empty:
            raise EmptyError("empty file")
        yield stream


@contextlib.contextmanager
def open_raw(file: RawFile) -> Iterator[Stream]:
    """A file's bytes as they are stored."""
    fs, path = storage.filesystem(file.url)
    if storage.is_local(file.url):
        with io.BufferedReader(io.FileIO(path), _BUFFER) as local:
            yield local
        return
    with fs.open(path, "rb") as remote, io.BufferedReader(remote, _BUFFER) as stream:
        yield stream


class Decompressed(io.RawIOBase):
    """What a gzip, zstd, bzip2 or xz stream of any number of members holds.

    Unlike the readers of the standard library it hands out all there is before it says that the rest is missing.
    """

    def __init__(self, raw: io.BufferedIOBase, compression: str) -> None:
        self._raw = raw
        self._compression = compression
        self._machine: Any = None
        self._pending = b""
        self._ready = memoryview(b"")
        self._failure: DamagedError | None = None

    def readable(self) -> bool:
        """It can only be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or a part of it; 0 at the end.

        Raises:
            DamagedError: What comes next cannot be decompressed, or is missing.
        """
        while not self._ready:
            if self._failure:
                raise self._failure
            produced = self._produce(len(buffer))
            if produced is None:
                return 0
            self._ready = memoryview(produced)
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _produce(self, size: int) -> bytes | None:
        """The next bytes, possibly none yet; None at the end."""
        if self._machine is None:
            self._pending = (self._pending or self._read()).lstrip(b"\0")  # tapes are padded
            if not self._pending:
                # Padding may go on for more than one chunk.
                self._pending = self._read()
                return b"" if self._pending else None
            self._machine = _machine(self._compression)
        hungry = getattr(self._machine, "needs_input", True)
        if hungry and not self._pending:
            self._pending = self._read()
            if not self._pending:
                self._failure = DamagedError(f"cut short: the {self._compression} stream ends too early")
                return self._machine.flush() if self._compression == "gzip" else b""
        return self._step(size)

    def _read(self) -> bytes:
        return self._raw.read(_ZSTD_CHUNK if self._compression == "zstd" else _CHUNK)

    def _step(self, size: int) -> bytes:
        machine, given = self._machine, self._pending
        try:
            if self._compression == "gzip":
                produced = machine.decompress(given, size)
                self._pending = machine.unconsumed_tail
            elif self._compression == "zstd":
                produced, self._pending = machine.decompress(given), b""
            else:
                produced, self._pending = machine.decompress(given, size), b""
        except Exception as error:  # each library has its own
            self._failure = DamagedError(f"damaged {self._compression} stream: {' '.join(str(error).split())}")
            return b""
        if machine.eof:
            self._pending, self._machine = machine.unused_data, None
        return bytes(produced)


def _machine(compression: str) -> Any:
    if compression == "gzip":
        return isal_zlib.decompressobj(isal_zlib.MAX_WBITS | 16)
    if compression == "bzip2":
        return bz2.BZ2Decompressor()
    if compression == "xz":
        return lzma.LZMADecompressor()
    return require("zstandard", "data").ZstdDecompressor(max_window_size=1 << 27).decompressobj()
