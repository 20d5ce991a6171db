"""What a sandboxed program sees of the file system: libraries, one interpreter, and a directory of its own."""

import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache

_LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM = (*_LIBRARIES, "/etc/ld.so.cache", "/usr/share/zoneinfo")


@dataclass(frozen=True)
class View:
    """Paths that exist inside, beside ``/tmp`` and a few devices; there is no ``/proc``, ``/sys`` or ``/home``."""

    python: str
    """The interpreter: that of this process, out of its virtual environment."""
    binds: tuple[str, ...]
    """Files and directories, read-only, at the same place as outside."""
    links: tuple[tuple[str, str], ...]
    """Symbolic links and where they point to."""
    search: tuple[str, ...]
    """Directories of installed packages."""


@cache
def view(packages: bool) -> View:
    """The view of a program of the Python that runs this.

    Args:
        packages: Whether installed packages can be imported, not only the standard library.
    """
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    prefix = os.path.realpath(sys.base_prefix)
    installed = [os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib")] if packages else []
    search = tuple(dict.fromkeys(installed))
    links: list[tuple[str, str]] = []
    binds: list[str] = []
    for path in (*_SYSTEM, f"{prefix}/lib", f"{prefix}/lib64", python, *search):
        if os.path.islink(path) and path in _LIBRARIES:
            links.append((path, os.readlink(path)))
        # A path through another link would lead nowhere inside.
        elif os.path.exists(path) and os.path.realpath(path) == path and not _within(path, binds):
            binds.append(path)
    return View(python, tuple(binds), tuple(links), search)


def _within(path: str, directories: list[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in directories)
