"""Where checkpoints are: a directory that all ranks see, or an object store."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tatara import storage
from tatara.train.checkpoint import directories, remote
from tatara.train.checkpoint.directories import Checkpoint


@dataclass(frozen=True)
class Place:
    """A root below which checkpoints are.

    Attributes:
        root: Path or URL.
    """

    root: str

    @property
    def is_local(self) -> bool:
        """Whether it is a directory."""
        return storage.is_local(self.root)

    @property
    def _path(self) -> Path:
        return Path(storage.absolute(self.root))

    def begin(self, step: int) -> Path:
        """A name for a checkpoint in the making; every rank then calls `prepare` with it."""
        return directories.begin(self._path, step) if self.is_local else remote.begin(self.root, step)

    def prepare(self, partial: Path) -> None:
        """Make the directory to write into on this machine."""
        (partial / "model").mkdir(parents=True, exist_ok=True)

    def deliver(self, partial: Path, names: Iterable[str]) -> None:
        """Bring what this rank has written to where it belongs."""
        if not self.is_local:
            remote.upload(self.root, partial, names)

    def publish(
        self, partial: Path, step: int, description: Mapping[str, Any], files: Iterable[Mapping[str, Any]]
    ) -> None:
        """Make it a checkpoint; for one process."""
        if self.is_local:
            directories.publish(partial, step, description, files)
        else:
            remote.publish(self.root, partial, step, description, files)

    def prune(self, keep: int, keep_every: int) -> None:
        """Delete old ones; for one process."""
        if self.is_local:
            directories.prune(self._path, keep, keep_every)
        else:
            remote.prune(self.root, keep, keep_every)

    def discard_after(self, step: int) -> None:
        """Make later ones unusable and delete them; for one process, while none is in the making."""
        if self.is_local:
            directories.discard_after(self._path, step)
        else:
            remote.discard_after(self.root, step)

    def candidates(self, log: Callable[[str], None]) -> Iterable[Checkpoint]:
        """Checkpoints whose files have their sizes, newest first; says what is wrong with others."""
        return directories.candidates(self._path, log) if self.is_local else remote.candidates(self.root, log)
