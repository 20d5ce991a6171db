"""Environments of the systems that Tatara is measured against: each in a virtual environment of its own, made once."""

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path


def cache_directory() -> Path:
    """Where environments and generated corpora are kept: ``$TATARA_BENCH_CACHE``, else below the user's cache."""
    path = Path(os.environ.get("TATARA_BENCH_CACHE") or Path.home() / ".cache" / "tatara-bench")
    path.mkdir(parents=True, exist_ok=True)
    return path


def python_with(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment that holds some packages; installs it when it is not there.

    Raises:
        subprocess.CalledProcessError: pip failed; its output says why.
    """
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:8]
    directory = cache_directory() / f"env-{name}-{digest}"
    python = directory / "bin" / "python"
    done = directory / "installed"
    if not done.exists():
        print(f"installing {name} into {directory}", flush=True)
        venv.create(directory, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text("\n".join(requirements))
    return python
