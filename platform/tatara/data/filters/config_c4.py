"""Parameters of the rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2) and of its list of bad words."""

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from tatara.config import Config
from tatara.data.filters.per_language import CHARACTERS_PER_WORD, PerLanguage
from tatara.data.steps import StepConfig

_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class C4LinesRules(Config):
    """C4's rules for lines, as in tensorflow_datasets' ``text/c4_utils.py``."""

    terminal_punctuation: tuple[str, ...] = (".", "?", "!", '"')
    """What a line must end with one of; empty asks for nothing. A line that ends with an ellipsis goes in any case."""
    ellipses: tuple[str, ...] = ("...",)
    """Endings that do not count as terminal punctuation."""
    min_words: int = Field(default=5, ge=0)
    """Fewest words in a line (5 in the paper and its code; 3 in datatrove)."""
    max_word_length: int = Field(default=1000, gt=0)
    """Longest word in a line, characters."""
    drop_phrases: tuple[str, ...] = ("javascript", *_POLICY)
    """A line that holds one of these goes; lower case."""
    drop_citations: bool = True
    """Take ``[1]``, ``[edit]`` and ``[citation needed]`` out of lines."""


def _built_in_lines() -> dict[str, dict[str, Any]]:
    rules: dict[str, dict[str, Any]] = {
        code: {"min_words": int(5 * scale), "terminal_punctuation": ()} for code, scale in CHARACTERS_PER_WORD.items()
    }
    policy = (
        "プライバシーポリシー", "個人情報保護方針", "利用規約", "cookieを使用", "クッキーを使用", "cookieポリシー",
        "無断転載",
    )  # fmt: skip
    rules["ja"] |= {
        "terminal_punctuation": ("。", "！", "？", "．", "!", "?", ".", "」", "』", "）", '"', "”"),
        "ellipses": ("...", "…", "・・・", "。。。"),
        "drop_phrases": ("javascript", *policy, *_POLICY),
    }
    rules["zh"] |= {
        "terminal_punctuation": ("。", "！", "？", "!", "?", ".", "”", "」", "）", '"'),
        "ellipses": ("...", "…"),
    }
    rules["my"]["terminal_punctuation"] = ("။", "?", "!")
    rules["km"]["terminal_punctuation"] = ("។", "?", "!")
    rules["ko"] = {"min_words": 3}
    rules["ar"] = {"terminal_punctuation": (".", "?", "!", '"', "؟")}
    rules["hi"] = {"terminal_punctuation": (".", "?", "!", '"', "।")}
    return rules


class C4LinesConfig(PerLanguage[C4LinesRules], C4LinesRules):
    """Line rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2), which change texts.

    Counted as ``c4_lines.lines`` (dropped) and ``c4_lines.citations``. A document without a line left is dropped.
    """

    step: ClassVar[str] = "c4_lines"
    implementation: ClassVar[str] = "tatara.data.filters.c4_lines:C4Lines"
    rules: ClassVar[type[Config]] = C4LinesRules
    built_in: ClassVar[dict[str, dict[str, Any]]] = _built_in_lines()


class C4Rules(Config):
    """C4's rules for documents."""

    min_sentences: int = Field(default=3, ge=0)
    """Fewest sentences (3 in C4's code; 5 in datatrove). A sentence ends with one of . ! ? and white space after it, or
    with a mark such as 。"""
    drop_lorem_ipsum: bool = True
    """Drop documents that hold the placeholder text "lorem ipsum"."""
    drop_curly_bracket: bool = False
    """Drop documents that hold "{", as C4 does to be rid of code. Off: documentation shows code on purpose."""


class C4Config(PerLanguage[C4Rules], C4Rules):
    """Document rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2)."""

    step: ClassVar[str] = "c4"
    implementation: ClassVar[str] = "tatara.data.filters.c4:C4"
    light: ClassVar[bool] = True
    rules: ClassVar[type[Config]] = C4Rules
    # Thai and Lao have no mark at the end of a sentence.
    built_in: ClassVar[dict[str, dict[str, Any]]] = {"th": {"min_sentences": 0}, "lo": {"min_sentences": 0}}


class BadWordsRules(Config):
    """When bad words drop a document."""

    max_density: float | None = Field(default=0.01, ge=0)
    """Most bad words per word (per character in languages without word spaces); 0 drops on any; null leaves it to
    ``max_matches``."""
    max_matches: int | None = Field(default=None, ge=0)
    """Most bad words; 0 drops on any, as C4 does; null for no limit."""
    keep_fraction: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the documents to be dropped that stay, chosen by a hash of their id (C4 for other languages than
    English, Xue et al. 2021, keeps none; its released code lets one choose)."""
    allow: tuple[str, ...] = ()
    """Entries of the list that are no bad words, for they are common inside others."""


class BadWordsConfig(PerLanguage[BadWordsRules], BadWordsRules):
    """Words from lists that the user names.

    C4 (Raffel et al. 2020, section 2.2) drops pages that hold any word of the LDNOOBW list; ``max_matches: 0`` does so.
    A limit on the density spares medicine, news and law.
    """

    step: ClassVar[str] = "bad_words"
    implementation: ClassVar[str] = "tatara.data.filters.bad_words:BadWords"
    rules: ClassVar[type[Config]] = BadWordsRules
    # tensorflow_datasets' text/c4_utils.py: each of these drops over 10 % of the documents in its language.
    built_in: ClassVar[dict[str, dict[str, Any]]] = {
        "ja": {"allow": ("sm", "グロ", "女の子")},
        "zh": {"allow": ("性",)},
    }

    lists: str | None = None
    """Directory with a list for each language, ``<ISO 639-1 code>.txt`` or ``<code>``, one word or phrase per line (the
    layout of LDNOOBW). Documents in a language without a list pass."""
    language_lists: dict[str, tuple[str, ...]] = Field(default={})
    """ISO 639-1 code to further files with words of that language; ``"*"`` holds for every document."""
    seed: int = 0
    """Which documents ``keep_fraction`` chooses."""

    @model_validator(mode="after")
    def _has_lists(self) -> Self:
        if self.lists is None and not self.language_lists:
            raise ValueError("bad_words needs word lists: set lists to a directory, or language_lists")
        return self

    def files(self) -> tuple[str, ...]:
        """The word lists."""
        return (
            *([self.lists] if self.lists else []),
            *(name for names in self.language_lists.values() for name in names),
        )


class LengthConfig(StepConfig):
    """Documents too short to judge. Counted in characters, so that it holds for languages without word spaces."""

    step: ClassVar[str] = "length"
    implementation: ClassVar[str] = "tatara.data.filters.length:Length"
    light: ClassVar[bool] = True

    min_characters: int = Field(default=100, ge=0)
    """Shortest document kept, characters."""
    max_characters: int | None = Field(default=None, gt=0)
    """Longest document kept, characters; null for no limit."""


class UrlFilterConfig(StepConfig):
    """Blocked domains, addresses and words in addresses.

    The rules are those of RefinedWeb (Penedo et al. 2023, arXiv:2306.01116, appendix G.1).
    All lists come from files, plain or ``.gz``; documents without an address pass.
    """

    step: ClassVar[str] = "url_filter"
    implementation: ClassVar[str] = "tatara.data.filters.url_filter:UrlFilter"
    light: ClassVar[bool] = True

    domains: tuple[str, ...] = ()
    """Files of blocked domains, one per line, or in the format of hosts files. A domain blocks its subdomains too."""
    urls: tuple[str, ...] = ()
    """Files of blocked addresses, one per line, compared without scheme, ``www.``, fragment and closing slash."""
    categories: tuple[str, ...] = ()
    """Directories in the layout of the lists of the University of Toulouse (UT1): each with ``domains``, ``urls`` or
    both (``.gz`` too)."""
    strict_words: tuple[str, ...] = ()
    """Files of words of which one in the address is enough (a word is a run of letters and digits)."""
    soft_words: tuple[str, ...] = ()
    """Files of words of which it takes ``max_soft_words`` and one more."""
    max_soft_words: int = Field(default=1, ge=0)
    """Most different soft words in an address that stays (RefinedWeb drops at 2)."""
    substrings: tuple[str, ...] = ()
    """Files of words that are sought anywhere in the address once all but letters and digits is taken out."""
    allow: tuple[str, ...] = ()
    """Files of domains that pass whatever else is listed, with their subdomains."""

    @model_validator(mode="after")
    def _has_lists(self) -> Self:
        if not any((self.domains, self.urls, self.categories, self.strict_words, self.soft_words, self.substrings)):
            raise ValueError(
                "url_filter needs lists: set domains, urls, categories, strict_words, soft_words or substrings"
            )
        return self

    def files(self) -> tuple[str, ...]:
        """The lists."""
        found = [*self.domains, *self.urls, *self.strict_words, *self.soft_words, *self.substrings, *self.allow]
        return (*found, *self.categories)
