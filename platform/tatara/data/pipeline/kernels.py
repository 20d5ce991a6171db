"""Steps' compiled kernels: compiled once on each machine, while the other workers wait, and cached from then on."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import tatara
from tatara.data.document import Document
from tatara.data.steps import RowStep

_TEXT = (
    "The furnace is fed with iron sand and charcoal for three days. On the fourth it is broken down.\n\n"
    "What is left is steel. It has been made in this way for more than a thousand years, and people still do it.\n"
)
_PAGE = f"<html><head><title>Steel</title></head><body><article><p>{_TEXT * 3}</p></article></body></html>"


def compile_once(steps: Sequence[RowStep]) -> None:
    """Take a small page through row steps, unless a process of this machine did before.

    Compiling takes up to half a minute of CPU time. Without this, every worker of a new machine would do it at once.
    """
    import numba

    known = [numba.__version__, str(Path(tatara.__file__).parent), *sorted({type(step).__module__ for step in steps})]
    name = f"tatara-kernels-{os.getuid()}-{hashlib.sha256(repr(known).encode()).hexdigest()[:16]}"
    marker = Path(tempfile.gettempdir()) / name
    if marker.exists():
        return
    with open(f"{marker}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists():
            return
        document = Document("kernels", _TEXT * 3, "kernels", language="en")
        document.content, document.content_type = _PAGE.encode(), "text/html"
        for step in steps:
            # What fails here fails on documents too, where it is said of which.
            with suppress(Exception):
                step.apply([document])
        marker.touch()
