"""What the steps ``quality`` and ``topics`` share: a model that is trained once and loaded in every task."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tatara import storage
from tatara.data.quality.config import QualityConfig, TopicsConfig
from tatara.data.quality.model import TextModel, load_model, train
from tatara.data.quality.samples import read_samples
from tatara.data.steps import RowStep

_MODEL, _KEY = "model.npz", "model.key"


class Classifier(RowStep):
    """A step with a model; `samples` says what it is trained on."""

    config: QualityConfig | TopicsConfig

    @abstractmethod
    def samples(self) -> Mapping[str, str]:
        """Class to its sample files."""

    def prepare(self) -> None:
        """Train the model, or copy the one that was given; nothing where it was done with the same configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(json.dumps(self.config.identity(), sort_keys=True).encode()).hexdigest()
        done = self.directory / _KEY
        if done.exists() and done.read_text() == key:
            return
        if self.config.model is not None:
            content = load_model(self.config.model).save()
        else:
            training = self.config.training
            samples = {name: read_samples(name, files, training) for name, files in self.samples().items()}
            content = train(samples, training).save()
        storage.replace_bytes(self.directory / _MODEL, content)
        storage.replace_bytes(done, key.encode())

    @cached_property
    def model(self) -> TextModel:
        """The model; loaded where it is first needed."""
        return load_model(str(self.directory / _MODEL))

    def finish(self, records: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """What the held-out samples say of the model."""
        return {"label": self.config.label, "classes": list(self.model.classes), **self.model.metrics}

    def publish(self, output: Path) -> None:
        """Write the model, so that a later run can be given it as ``model``."""
        target = storage.join(str(output), f"{self.config.label}.npz")
        storage.write_bytes(target, (self.directory / _MODEL).read_bytes())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "model"}
