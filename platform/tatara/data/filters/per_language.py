"""Parameters that differ between languages: a base, and what each language overrides."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import pydantic
from pydantic import Field, field_validator, model_validator

from tatara.config import Config, nearest
from tatara.data.steps import StepConfig

Rules = TypeVar("Rules", bound=Config)


CHARACTERS_PER_WORD = {"ja": 2.0, "zh": 1.5, "th": 4.0, "lo": 4.0, "my": 4.0, "km": 4.0}
"""Mean characters of a word in languages where every character counts as one, by ISO 639-1 code. Limits in words are
multiplied by it, limits per word divided."""


class PerLanguage(StepConfig, Generic[Rules]):
    """Base of a step whose parameters have values of their own for some languages.

    A subclass derives from its rules too, ``class FooConfig(PerLanguage[FooRules], FooRules)``, so that the base values
    are keys of the step itself.
    """

    rules: ClassVar[type[Config]]
    """The parameters a language may override."""
    built_in: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Language to its overrides, before the user's."""

    by_language: dict[str, dict[str, Any] | None] = Field(default={})
    """ISO 639-1 code to the parameters that differ for that language. They are laid over the built-in ones key by key,
    both over the step's own keys; ``null`` for a language takes its built-in ones away."""

    @field_validator("by_language", mode="before")
    @classmethod
    def _over_built_in(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        merged: dict[Any, Any] = {language: dict(values) for language, values in cls.built_in.items()}
        for language, values in given.items():
            # What is no mapping is left to be refused.
            merged[language] = {**merged.get(language, {}), **values} if isinstance(values, Mapping) else values
        return merged

    @model_validator(mode="after")
    def _known_parameters(self) -> Self:
        for language, values in self.by_language.items():
            for key in values or ():
                if key not in self.rules.model_fields:
                    known = nearest(key, self.rules.model_fields)
                    raise ValueError(f"by_language.{language}.{key}: unknown key; {known}")
            try:
                self._resolved(language)
            except pydantic.ValidationError as error:
                first = error.errors(include_url=False)[0]
                place = ".".join(["by_language", language, *map(str, first["loc"])])
                raise ValueError(f"{place}: {first['msg']}, got {first['input']!r}") from None
        return self

    def _resolved(self, language: str | None) -> Config:
        base = {name: getattr(self, name) for name in self.rules.model_fields}
        return self.rules.model_validate({**base, **(self.by_language.get(language or "") or {})})

    @cached_property
    def _every(self) -> dict[str | None, Config]:
        return {language: self._resolved(language) for language in (None, *self.by_language)}

    def parameters(self, language: str | None) -> Rules:
        """The parameters that hold for documents of a language; the base ones where it is not known."""
        every = self._every
        return cast(Rules, every.get(language) or every[None])
