"""Wikitext to plain text, in time linear in its length.

Text, headings, lists, tables, code and formulas stay; templates, references, pictures, categories and markup go.
Headings become ``## Heading``, list items ``- item``, rows of tables ``cell | cell``, code a fenced block or, inside a
line, back ticks, and formulas TeX between dollar signs.
"""

import html
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from tatara.data.read.wikilines import tidy

_TOKEN = re.compile(r"\{\{|\}\}|\[\[|\]\]|<!--|<(/?)([A-Za-z][A-Za-z0-9]*)((?:\s[^<>]*)?/?)>")
# What MediaWiki does not parse inside.
_RAW = {
    "math", "chem", "ce", "syntaxhighlight", "source", "code", "pre", "nowiki", "ref", "gallery", "timeline", "score",
    "imagemap", "graph", "hiero", "templatedata", "mapframe", "maplink", "inputbox",
}  # fmt: skip
_CODE_MARKS = {"code": "`", "nowiki": "", "pre": "```", "source": "```", "syntaxhighlight": "```"}
_BREAKS = {"br", "p", "div", "hr", "li", "tr", "blockquote", "center"}
_LANGUAGE = re.compile(r"\blang\s*=\s*[\"']?([\w+#-]{1,30})")
_BLOCK = re.compile(r"\bdisplay\s*=\s*[\"']?block")
_MAX_DEPTH = 100
# Templates whose content is text: name to the positional arguments that are shown, and what stands between them.
_TEXT_TEMPLATES: dict[str, tuple[tuple[int, ...], str]] = {
    **dict.fromkeys(("lang", "lang-x", "transl", "transliteration"), ((2,), "")),
    **dict.fromkeys(
        ("nowrap", "nobr", "math", "mvar", "var", "code", "em", "strong", "small", "big", "abbr", "nihongo",
         "smallcaps", "sc", "tt", "mono", "big math", "quote", "blockquote", "cquote", "poemquote",
         "仮リンク", "ruby", "読み仮名"),
        ((1,), ""),
    ),
    **dict.fromkeys(("convert", "cvt"), ((1, 2), " ")),
    **dict.fromkeys(("val", "formatnum", "gaps", "num"), ((1,), "")),
    **dict.fromkeys(("sfrac", "frac", "fraction"), ((1, 2), "/")),
    "flag": ((1,), ""), "lang2": ((2,), ""), "link-interwiki": ((1,), ""),
}  # fmt: skip
_CONSTANT_TEMPLATES = {
    "!": "|", "=": "=", "pi": "π", "spaced ndash": " – ", "snd": " – ", "ndash": "–", "mdash": "—", "spnd": " – ",
    "nbsp": " ", "·": " · ", "dot": " · ", "times": "×", "minus": "−", "'": "'", "\"": '"',
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_SCRIPTED = re.compile(r"<(sup|sub)>([0-9+\-−=()n]{1,12})</\1>")
_GUARDED = re.compile("\x00([0-9]+)\x00")


@dataclass
class _Frame:
    """A template or link that is open."""

    opening: str
    parts: list[str] = field(default_factory=list)


def plain_text(wikitext: str, dropped_prefixes: Collection[str] = ()) -> str:
    """The text that a page of a wiki shows.

    Args:
        wikitext: The page's source.
        dropped_prefixes: Lower-case names of the namespaces whose links show no text (pictures, categories), in the
            wiki's own language; the English ones are always known.
    """
    parser = _Parser(frozenset(map(str.lower, dropped_prefixes)) | {"file", "image", "media", "category"})
    shown = parser.parse(wikitext.replace("\x00", ""))
    return _GUARDED.sub(lambda match: parser.guarded[int(match[1])], html.unescape(tidy(shown))).strip()


class _Parser:
    def __init__(self, dropped: frozenset[str]) -> None:
        self.guarded: list[str] = []
        self._dropped = dropped
        self._stack: list[_Frame] = [_Frame("")]
        self._open = {"{{": 0, "[[": 0}
        self._unclosed: set[str] = set()

    def parse(self, text: str) -> str:
        """Resolve templates, links and tags; what is left is structured by its lines alone."""
        text = _SCRIPTED.sub(_script, text)
        position, search = 0, _TOKEN.search
        while match := search(text, position):
            start, end = match.span()
            parts = self._stack[-1].parts
            if start > position:
                parts.append(text[position:start])
            token = match[0]
            if token in self._open:
                if len(self._stack) < _MAX_DEPTH:
                    self._stack.append(_Frame(token))
                    self._open[token] += 1
            elif token == "}}" or token == "]]":
                self._close("{{" if token == "}}" else "[[", token)
            elif token == "<!--":
                end = self._after(text, end, "-->")
            else:
                end = self._tag(text, end, match)
            position = end
        self._stack[-1].parts.append(text[position:])
        return "".join(part for frame in self._stack for part in frame.parts)

    def _close(self, opening: str, token: str) -> None:
        if not self._open[opening]:
            self._stack[-1].parts.append(token)
            return
        # What is still open inside was never closed: its content is text.
        index = len(self._stack) - 1
        while self._stack[index].opening != opening:
            self._open[self._stack[index].opening] -= 1
            index -= 1
        content = "".join(part for frame in self._stack[index:] for part in frame.parts)
        del self._stack[index:]
        self._open[opening] -= 1
        shown = self._template(content) if opening == "{{" else self._link(content)
        if shown:
            self._stack[-1].parts.append(shown)

    def _after(self, text: str, position: int, closing: str) -> int:
        """Behind the next ``closing``, or where we are if there is none; the whole text is searched only once."""
        if closing in self._unclosed:
            return position
        found = text.find(closing, position)
        if found < 0:
            self._unclosed.add(closing)
            return position
        return found + len(closing)

    def _tag(self, text: str, position: int, match: re.Match[str]) -> int:
        closing, name, rest = match[1], match[2].lower(), match[3]
        if name in _RAW and not closing:
            return position if rest.endswith("/") else self._raw(text, position, name, rest)
        if name in _BREAKS:
            self._stack[-1].parts.append("\n")
        return position

    def _raw(self, text: str, position: int, name: str, attributes: str) -> int:
        end = self._after(text, position, f"</{name}>")
        if end == position:
            return position
        body = text[position : end - len(name) - 3]
        shown = ""
        if name in {"math", "chem", "ce"}:
            mark = "$$" if _BLOCK.search(attributes) else "$"
            shown = f"{mark}{' '.join(body.split())}{mark}" if body.strip() else ""
        elif name in _CODE_MARKS:
            shown = _code(name, attributes, body)
        if shown:
            self.guarded.append(shown)
            self._stack[-1].parts.append(f"\x00{len(self.guarded) - 1}\x00")
        return end

    def _template(self, content: str) -> str:
        name, *arguments = content.split("|")
        name = name.strip().lower().replace("_", " ")
        if name in _CONSTANT_TEMPLATES:
            return _CONSTANT_TEMPLATES[name]
        known = _TEXT_TEMPLATES.get("lang-x" if name.startswith("lang-") else name)
        if known is None:
            return ""
        positional = [item.removeprefix("1=") for item in arguments if "=" not in item or item.startswith("1=")]
        numbers, between = known
        if name.startswith("lang-"):
            numbers = (1,)
        return between.join(positional[number - 1].strip() for number in numbers if number <= len(positional))

    def _link(self, content: str) -> str:
        target, bar, label = content.partition("|")
        prefix, colon, _ = target.partition(":")
        prefix = prefix.strip().lower()
        # A colon in front makes a link of what would otherwise be shown or filed.
        if colon and prefix in self._dropped:
            return ""
        if colon and not bar and 2 <= len(prefix) <= 3 and prefix.isascii() and prefix.isalpha():
            return ""  # the same page in another language
        if bar and label:
            return label
        shown = target.lstrip(":").strip()
        return shown.split("(")[0].rstrip() if bar else shown.replace("_", " ")


def _code(name: str, attributes: str, body: str) -> str:
    mark = _CODE_MARKS[name]
    body = html.unescape(body)
    if mark != "```":
        return f"{mark}{body}{mark}"
    if "\n" not in body.strip("\n") and "inline" in attributes:
        return f"`{body}`"
    language = _LANGUAGE.search(attributes)
    text = body.strip("\n")
    return f"\n```{language[1] if language else ''}\n{text}\n```\n"


def _script(match: re.Match[str]) -> str:
    return match[2].translate(_SUPERSCRIPTS if match[1] == "sup" else _SUBSCRIPTS)
