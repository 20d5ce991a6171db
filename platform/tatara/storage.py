"""Paths and URLs (local, s3://, gs://): the only module that knows fsspec and pyarrow.fs."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tatara.errors import MissingExtraError, StorageError

_CHUNK = 1 << 20
_EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs"}


_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEARLY_NOTHING = 1_000_000


class LockHeldError(StorageError):
    """Another process holds a lock; the message is who."""


@dataclass(frozen=True)
class FileInfo:
    """One file below a URL.

    Attributes:
        url: The full path or URL.
        path: Relative to the URL that was listed, with forward slashes.
        size: Bytes.
        etag: What an object store says of the content; None on a local disk.
    """

    url: str
    path: str
    size: int
    etag: str | None = None


def is_local(url: str) -> bool:
    """Whether a path or URL is on this machine's file system."""
    return "://" not in url or url.startswith("file://")


def absolute(url: str | Path) -> str:
    """A local path made absolute, with ``~`` expanded; a remote URL without its trailing slash."""
    text = str(url)
    if is_local(text):
        return os.path.abspath(os.path.expanduser(text.removeprefix("file://")))
    return text.rstrip("/")


def join(url: str, *parts: str) -> str:
    """Append path components to a path or URL."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts if part)])


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL and the path on it.

    Remote credentials and endpoints come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...).

    Raises:
        MissingExtraError: The driver of this kind of URL is not installed.
        StorageError: The scheme is unknown.
    """
    import fsspec  # Here, because it brings asyncio: `tatara --help` must not wait for that.

    url = absolute(url)
    scheme = "file" if is_local(url) else url.split("://", 1)[0]
    path = url if scheme in {"file", "http", "https"} else url.split("://", 1)[1]
    try:
        # Listings are never cached: another process may commit at any time.
        return fsspec.filesystem(scheme, use_listings_cache=False), path
    except ImportError as error:
        extra = _EXTRAS.get(scheme, scheme)
        raise MissingExtraError(f"{scheme}:// needs a driver: pip install 'tatara[{extra}]' ({error})") from None
    except ValueError as error:
        raise StorageError(f"{url}: {error}") from None


def arrow_filesystem(url: str) -> tuple[Any, str]:
    """The same as `filesystem`, as a ``pyarrow.fs`` file system for Ray Data and Parquet."""
    import pyarrow.fs

    fs, path = filesystem(url)
    if is_local(absolute(url)):
        return pyarrow.fs.LocalFileSystem(), path
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path


@contextlib.contextmanager
def errors_named(url: str, action: str) -> Iterator[None]:
    """Turn an OS or object-store error into one line that names the URL and the fix."""
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError:
        raise StorageError(f"cannot {action} {url}: no such file or directory") from None
    except PermissionError:
        raise StorageError(f"cannot {action} {url}: permission denied; choose another place with --root") from None
    except OSError as error:
        if error.errno in _FULL:
            raise _full(url, action) from None
        raise StorageError(f"cannot {action} {url}: {error.strerror or error}") from None


@contextlib.contextmanager
def full_disk_named(directory: str) -> Iterator[None]:
    """Turn whatever a full disk looks like, to whoever was writing below a directory, into one line.

    Libraries that write (numpy, for one) report a short write without the system's error number.
    """
    try:
        yield
    except OSError as error:
        short = error.errno is None and shutil.disk_usage(directory).free < _NEARLY_NOTHING
        if error.errno in _FULL or short:
            raise _full(directory, "write") from None
        raise


def _full(url: str, action: str) -> StorageError:
    return StorageError(f"cannot {action} {url}: the disk is full; free some space and run again")


def exists(url: str) -> bool:
    """Whether a file or directory is there."""
    fs, path = filesystem(url)
    with errors_named(url, "look at"):
        return bool(fs.exists(path))


def read_bytes(url: str) -> bytes:
    """The whole content of a file.

    Raises:
        StorageError: It is missing or cannot be read.
    """
    fs, path = filesystem(url)
    with errors_named(url, "read"):
        return bytes(fs.cat_file(path))


def write_bytes(url: str, data: bytes, *, exclusive: bool = False) -> None:
    """Write a file whole.

    Args:
        url: Where to.
        data: The content.
        exclusive: Fail when something is there already. One winner among concurrent writers: ``O_EXCL`` on a local
            disk, a conditional put (``If-None-Match: *``) on an object store.

    Raises:
        FileExistsError: ``exclusive`` and the file is there.
        StorageError: It cannot be written.
    """
    fs, path = filesystem(url)
    with errors_named(url, "write"):
        if is_local(absolute(url)):
            make_directory(os.path.dirname(path))
            with open(path, "xb" if exclusive else "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        else:
            fs.pipe_file(path, data, mode="create" if exclusive else "overwrite")


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a local file that has its name only when it is whole, and takes the place of one that is there."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with errors_named(str(path), "write"):
        partial.write_bytes(data)
        os.replace(partial, path)


def make_directory(url: str) -> None:
    """Make a local directory and its parents; nothing to do on an object store."""
    if is_local(url):
        with errors_named(url, "make the directory"):
            os.makedirs(absolute(url), exist_ok=True)


def list_directories(url: str) -> list[str]:
    """Names of the directories right below a URL, sorted; empty when it does not exist."""
    fs, path = filesystem(url)
    with errors_named(url, "list"):
        try:
            entries = fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
    return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")


def list_files(url: str) -> list[FileInfo]:
    """Every file below a URL (or the file itself), sorted by path."""
    fs, path = filesystem(url)
    with errors_named(url, "list"):
        # A web server lists nothing: there a URL is one file, whose size it need not tell.
        web = path.startswith(("http://", "https://"))
        found = {path: fs.info(path)} if web else fs.find(path, detail=True)
    scheme = "" if web or is_local(absolute(url)) else url.split("://", 1)[0] + "://"
    files = []
    for name, info in found.items():
        relative = name[len(path.rstrip("/")) + 1 :] if name != path else name.rsplit("/", 1)[-1]
        etag = info.get("ETag") or info.get("etag")
        files.append(
            FileInfo(f"{scheme}{name}", relative, int(info["size"] or 0), str(etag).strip('"') if etag else None)
        )
    return sorted(files, key=lambda file: file.path)


def remove_tree(url: str) -> None:
    """Delete a directory and what is below it; nothing when it is not there."""
    fs, path = filesystem(url)
    with errors_named(url, "delete"), contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def sha256(url: str) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    fs, path = filesystem(url)
    digest = hashlib.sha256()
    with errors_named(url, "read"), fs.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_all(urls: list[str]) -> list[str]:
    """SHA-256 of many files, read by a few threads (hashing releases the interpreter lock)."""
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(sha256, urls))


def upload(directory: Path, url: str) -> None:
    """Copy a local directory's content below a URL."""
    fs, path = filesystem(url)
    for file in sorted(item for item in directory.rglob("*") if item.is_file()):
        with errors_named(url, "write"):
            fs.put_file(str(file), f"{path.rstrip('/')}/{file.relative_to(directory).as_posix()}")


def download(url: str, target: Path) -> None:
    """Copy a remote file to a local path, through a temporary name so that a torn copy is never taken for it."""
    fs, path = filesystem(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    with errors_named(url, "read"):
        fs.get_file(path, str(partial))
    os.replace(partial, target)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs; the lock dies with the process, however it ends.

    Raises:
        LockHeldError: Another process holds it; the message says which.
    """
    make_directory(str(path.parent))
    with errors_named(str(path), "write"):
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            raise LockHeldError(holder or "another process") from None
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)
