"""Files of the sample data that benchmarks take when none are named."""

import os
from pathlib import Path


def sample(*names: str) -> list[Path]:
    """Files below ``$TATARA_SAMPLE_DATA``.

    Raises:
        SystemExit: It is not set, or they are not there.
    """
    root = os.environ.get("TATARA_SAMPLE_DATA")
    found = [Path(root) / name for name in names] if root else []
    missing = [path for path in found if not path.exists()]
    if not found or missing:
        wanted = ", ".join(map(str, missing or names))
        raise SystemExit(f"name the files to measure with, or set TATARA_SAMPLE_DATA to a directory with {wanted}")
    return found
