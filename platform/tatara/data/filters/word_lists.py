"""Reads lists of words, domains and addresses from files."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from tatara.errors import DataError


def read_list(path: str | Path) -> Iterator[str]:
    """Entries of a list: its lines, stripped, but for blank ones and those that begin with "#".

    Raises:
        DataError: The file is missing, or not text in UTF-8.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                entry = line.decode("utf-8-sig").strip()
                if entry and not entry.startswith("#"):
                    yield entry
    except FileNotFoundError:
        raise DataError(f"no list at {path}") from None
    except UnicodeDecodeError:
        raise DataError(f"the list {path} is not text in UTF-8: convert it") from None
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read the list {path}: {error}") from None


def existing(directory: str | Path, *names: str) -> list[Path]:
    """The files of these names in a directory, plain or compressed.

    Raises:
        DataError: There is no such directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"no directory of lists at {directory}")
    return [path for name in names for path in (directory / name, directory / f"{name}.gz") if path.is_file()]
