"""Tokens to elements, and to blocks of text: what a browser would lay out as one paragraph, cell or heading."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import lexicon, tags
from tatara.data.extract.attributes import (
    ALT_END,
    CLASS_HASH,
    DISPLAY_BLOCK,
    HIDDEN,
    HREF_END,
    HREF_START,
    IS_TEX,
    NAMED,
    SLOTS,
    START_NUMBER,
    read_attributes,
)
from tatara.data.extract.nesting import close_implied, end_element
from tatara.data.extract.segments import add_break, add_formula, add_raw, add_text, cross_boundary, end_block
from tatara.data.extract.structure import (
    BLOCK_ELEMENT,
    BLOCKS,
    CONTEXT,
    DEPTH,
    DISPLAY_MATH,
    ELEMENT_COLUMNS,
    ELEMENTS,
    FIRST,
    HREF,
    HREF_STOP,
    IN_ARTICLE,
    IN_ASIDE,
    IN_BOLD,
    IN_BUTTON,
    IN_CODE,
    IN_FIGURE,
    IN_FOOTER,
    IN_FORM,
    IN_HEADER,
    IN_HEADING,
    IN_HIDDEN,
    IN_LINK,
    IN_LIST,
    IN_MAIN,
    IN_MATH,
    IN_NAV,
    IN_PRE,
    IN_QUOTE,
    IN_SECTION,
    IN_TABLE,
    IN_TEX,
    LINK,
    MATH,
    MATH_AT,
    MATH_SEGMENT,
    MATHJAX_SCRIPTS,
    MAX_DEPTH,
    NAMES,
    OVERFLOW,
    PARENT,
    SEGMENTS,
    SIGNATURE,
    SKIP,
    STATE,
    TAG,
    TITLE_FROM,
    TITLE_TO,
)
from tatara.data.extract.tokens import END, RAW_TEXT, TEXT

_T = tags.TAG
_KINDS = tags.KINDS
_BLOCK, _VOID, _SKIPPED, _ROOT = tags.BLOCK, tags.VOID, tags.SKIPPED, tags.ROOT
_A, _BR, _IMG, _MATH, _ANNOTATION = (_T[name] for name in ("a", "br", "img", "math", "annotation"))
_CONTEXT_OF = np.zeros(len(tags.NAMES), dtype=np.int32)
for _bit, _names in {
    IN_PRE: "pre listing xmp", IN_LINK: "a", IN_BUTTON: "button label summary", IN_BOLD: "b strong em i",
    IN_ARTICLE: "article", IN_MAIN: "main", IN_HEADER: "header hgroup", IN_FOOTER: "footer", IN_NAV: "nav menu",
    IN_ASIDE: "aside", IN_FORM: "form fieldset", IN_TABLE: "table", IN_LIST: "ul ol dl", IN_FIGURE: "figure figcaption",
    IN_QUOTE: "blockquote", IN_HEADING: "h1 h2 h3 h4 h5 h6", IN_MATH: "math", IN_SECTION: "section",
    IN_CODE: "code samp kbd",
}.items():  # fmt: skip
    for _name in _names.split():
        _CONTEXT_OF[_T[_name]] |= _bit
_LINENO, _KATEX, _MATHJAX, _MATH_IMAGE = (
    1 << lexicon.NAME_BITS[name] for name in ("lineno", "katex_html", "mathjax", "math_image")
)


@njit(cache=True, nogil=True)
def _math(
    element: int, slots: NDArray[np.int64], context: int, segments: NDArray[np.int32], state: NDArray[np.int64]
) -> int:
    """A formula starts: its source is an attribute, or an annotation inside it; what has to be skipped."""
    if context & SKIP:
        return 0
    state[MATH_AT] = element
    state[MATH_SEGMENT] = state[SEGMENTS]
    if slots[ALT_END]:
        add_formula(slots, DISPLAY_MATH if slots[DISPLAY_BLOCK] else MATH, element, segments, state)
        return SKIP
    return 0


@njit(cache=True, nogil=True)
def _own_context(
    tag: int,
    element: int,
    context: int,
    slots: NDArray[np.int64],
    opened: NDArray[np.int32],
    segments: NDArray[np.int32],
    state: NDArray[np.int64],
) -> int:
    """What an element adds to the context of what is in it."""
    kinds = _KINDS[tag]
    own = int(_CONTEXT_OF[tag])
    if kinds & _SKIPPED or slots[NAMED] & (_LINENO | _KATEX) or (slots[NAMED] & _MATHJAX and state[MATHJAX_SCRIPTS]):
        own |= SKIP
    if slots[HIDDEN]:
        # A hidden word inside a paragraph is left out; whether a hidden block counts is judged like any other.
        if kinds & _BLOCK and not context & IN_MATH:
            own |= IN_HIDDEN
        elif not kinds & _BLOCK and opened[_MATH] == 0:
            own |= SKIP
    if tag == _MATH:
        own |= _math(element, slots, context, segments, state)
    elif context & IN_MATH and tag == _ANNOTATION:
        own |= IN_TEX if slots[IS_TEX] else SKIP
    return own


@njit(cache=True, nogil=True)
def _start(
    page: NDArray[np.uint8],
    tag: int,
    alone: int,
    slots: NDArray[np.int64],
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    stack: NDArray[np.int32],
    opened: NDArray[np.int32],
    state: NDArray[np.int64],
) -> None:
    custom = tag < 0
    tag = max(tag, 0)
    kinds = _KINDS[tag]
    if kinds & _ROOT:
        return
    close_implied(tag, elements, segments, blocks, stack, opened, state)
    if tag == _BR:
        add_break(elements, segments, blocks, stack, state)
        return
    cross_boundary(tag, elements, segments, blocks, stack, state)
    parent = stack[state[DEPTH] - 1]
    context = elements[parent, CONTEXT]
    if kinds & _VOID:
        formula = tag == _IMG and slots[NAMED] & _MATH_IMAGE and slots[ALT_END] and not context & SKIP
        if formula and (state[MATH_AT] < parent or parent == 0):  # else it stands for the formula beside it
            add_formula(slots, MATH, parent, segments, state)
        return
    element = state[ELEMENTS]
    state[ELEMENTS] += 1
    own = _own_context(tag, element, context, slots, opened, segments, state)
    elements[element, TAG], elements[element, PARENT] = tag, parent
    elements[element, NAMES], elements[element, CONTEXT] = slots[NAMED], context | own
    block = kinds & _BLOCK or (custom and not context & SKIP)
    elements[element, BLOCK_ELEMENT] = element if block else elements[parent, BLOCK_ELEMENT]
    elements[element, LINK] = element if tag == _A else elements[parent, LINK]
    elements[element, SIGNATURE] = slots[CLASS_HASH]
    elements[element, HREF], elements[element, HREF_STOP] = slots[HREF_START], slots[HREF_END]
    elements[element, FIRST] = slots[DISPLAY_BLOCK] if tag == _MATH else slots[START_NUMBER]
    if kinds & tags.RAW:
        return
    if alone and context & (SKIP | IN_MATH):  # in SVG and MathML a tag can end itself
        return
    if state[DEPTH] >= MAX_DEPTH:
        state[OVERFLOW] += 1
        return
    if custom and not context & SKIP:
        end_block(segments, blocks, elements, state)
    stack[state[DEPTH]] = element
    state[DEPTH] += 1
    opened[tag] += 1


@njit(cache=True, nogil=True)
def build(
    page: NDArray[np.uint8], tokens: NDArray[np.int32], scripts: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], tuple[int, int]]:
    """Build the tree, and cut its text into blocks.

    Args:
        page: ``[bytes]``.
        tokens: Of the page: ``[tokens, 5]``.
        scripts: Whether formulas stand in scripts, so that what MathJax rendered of them must not be read again.

    Returns:
        Elements in the order of their start tags, the first being the page; segments of text and formulas; blocks, each
        a range of segments; where the title is.
    """
    count = tokens.shape[0]
    elements = np.zeros((count + 1, ELEMENT_COLUMNS), dtype=np.int32)
    segments = np.empty((2 * count + 1, 4), dtype=np.int32)
    blocks = np.empty((count + 1, 3), dtype=np.int32)
    stack = np.zeros(MAX_DEPTH, dtype=np.int32)
    opened = np.zeros(_KINDS.size, dtype=np.int32)
    state = np.zeros(STATE, dtype=np.int64)
    state[ELEMENTS], state[DEPTH], state[MATH_AT] = 1, 1, -1
    state[MATHJAX_SCRIPTS] = scripts
    slots = np.zeros(SLOTS, dtype=np.int64)
    elements[0, LINK] = -1
    for index in range(count):
        kind, tag = tokens[index, 0], tokens[index, 1]
        if kind == TEXT:
            add_text(page, tokens[index, 2], tokens[index, 3], elements, segments, stack, state)
        elif kind == RAW_TEXT:
            add_raw(page, tokens[index, 2], tokens[index, 3], tag, elements, segments, stack, state, slots)
        elif kind == END:
            end_element(tag, elements, segments, blocks, stack, opened, state)
        else:
            read_attributes(page, tokens[index, 2], tokens[index, 3], slots)
            _start(page, tag, tokens[index, 4], slots, elements, segments, blocks, stack, opened, state)
    end_block(segments, blocks, elements, state)
    return (
        elements[: state[ELEMENTS]], segments[: state[SEGMENTS]], blocks[: state[BLOCKS]],
        (state[TITLE_FROM], state[TITLE_TO]),
    )  # fmt: skip
