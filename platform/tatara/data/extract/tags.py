"""HTML's elements by number, what each does to layout, and the table that finds a number by an element's name.

Compiled code of other modules holds copies of these tables: delete ``__pycache__`` after a change.
"""

import numpy as np
from numpy.typing import NDArray

NAMES = (
    "", "a", "abbr", "address", "annotation", "area", "article", "aside", "audio", "b", "base", "blockquote", "body",
    "br", "button", "canvas", "caption", "center", "cite", "code", "col", "colgroup", "dd", "del", "details", "dialog",
    "div", "dl", "dt", "em", "embed", "fieldset", "figcaption", "figure", "font", "footer", "form", "frameset", "h1",
    "h2", "h3", "h4", "h5", "h6", "head", "header", "hgroup", "hr", "html", "i", "iframe", "img", "input", "ins",
    "kbd", "label", "legend", "li", "link", "main", "map", "mark", "math", "menu", "meta", "mjx-container",
    "mjx-math", "nav", "noembed", "noframes", "noscript", "object", "ol", "optgroup", "option", "p", "param",
    "picture", "pre", "q", "rp", "rt", "ruby", "s", "samp", "script", "search", "section", "select", "small",
    "source", "span", "strong", "style", "sub", "summary", "sup", "svg", "table", "tbody", "td", "template",
    "textarea", "tfoot", "th", "thead", "time", "title", "tr", "track", "tt", "u", "ul", "var", "video", "wbr", "xmp",
    "annotation-xml", "amp-img", "dir", "listing", "marquee", "nobr", "strike", "big", "datalist", "progress",
    "mjx-assistive-mml",
)  # fmt: skip
TAG = {name: number for number, name in enumerate(NAMES)}

# What an element is: bits of `KINDS`.
BLOCK, VOID, RAW, SKIPPED, ROOT, TABLE_PART, BARRIER = 1, 2, 4, 8, 16, 32, 64

_OF = {
    BLOCK: "address article aside blockquote caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr legend li listing main marquee menu nav ol p pre search "
    "section summary table tbody td tfoot th thead tr ul xmp",
    VOID: "area base br col embed hr img input link meta param source track wbr amp-img",
    RAW: "script style textarea title iframe noembed noframes xmp",
    SKIPPED: "audio canvas datalist iframe map mjx-math noembed noframes noscript object option optgroup progress rp "
    "rt script select style svg template textarea title video annotation-xml",
    ROOT: "html head body",
    TABLE_PART: "caption table tbody td tfoot th thead tr",
    BARRIER: "table td th caption",
}
KINDS: NDArray[np.uint8] = np.zeros(len(NAMES), dtype=np.uint8)
for _bit, _names in _OF.items():
    for _name in _names.split():
        KINDS[TAG[_name]] |= _bit


def name_hash(name: str) -> int:
    """The hash that the tokenizer computes of a name's lower-case bytes."""
    value = 0
    for byte in name.encode("ascii"):
        value = (value * 31 + byte) & 0x7FFFFFFF
    return value


def name_table(names: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """An open-addressing table of names: the hashes (-1 for free), and the numbers; 4 times as long, a power of 2."""
    size = 1
    while size < 4 * len(names):
        size *= 2
    keys, numbers = np.full(size, -1, dtype=np.int64), np.zeros(size, dtype=np.int16)
    for number, name in enumerate(names):
        if name:
            place = name_hash(name) % size
            while keys[place] != -1:
                place = (place + 1) % size
            keys[place], numbers[place] = name_hash(name), number
    return keys, numbers


TAG_KEYS, TAG_NUMBERS = name_table(NAMES)
ATTRIBUTES = (
    "", "class", "id", "role", "itemprop", "style", "hidden", "aria-hidden", "type", "encoding", "alt", "alttext",
    "href", "display", "start", "src", "data-testid", "data-component",
)  # fmt: skip
ATTRIBUTE = {name: number for number, name in enumerate(ATTRIBUTES)}
ATTRIBUTE_KEYS, ATTRIBUTE_NUMBERS = name_table(ATTRIBUTES)
