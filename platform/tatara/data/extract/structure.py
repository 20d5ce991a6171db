"""How a parsed page is stored: what the columns of its arrays are, and what their values mean."""

MAX_DEPTH = 512
"""Elements nested deeper are hung into the one at this depth, as browsers do."""

# Columns of elements.
TAG, PARENT, NAMES, CONTEXT, BLOCK_ELEMENT, LINK, SIGNATURE, HREF, HREF_STOP, FIRST = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
ELEMENT_COLUMNS = 10
# Columns of segments.
KIND, FROM, TO, OWNER = 0, 1, 2, 3
# Kinds of segments.
WORDS, BREAK, MATH, DISPLAY_MATH, RAW_MATH, RAW_DISPLAY_MATH, VERBATIM = 0, 1, 2, 3, 4, 5, 6
# Columns of blocks.
ELEMENT, SEGMENT_FROM, SEGMENT_TO = 0, 1, 2

# Context: what an element is inside of.
SKIP, IN_HIDDEN, IN_PRE, IN_LINK, IN_MATH, IN_BUTTON, IN_BOLD = 1, 2, 4, 8, 16, 32, 64
IN_ARTICLE, IN_MAIN, IN_HEADER, IN_FOOTER, IN_NAV, IN_ASIDE = 128, 256, 512, 1024, 2048, 4096
IN_FORM, IN_TABLE, IN_LIST, IN_FIGURE, IN_QUOTE, IN_HEADING = 8192, 16384, 32768, 65536, 131072, 262144
IN_TEX, IN_SECTION, IN_CODE = 524288, 1048576, 2097152

# State of a parse: numbers that its functions pass on to each other in one array.
DEPTH, OVERFLOW, ELEMENTS, SEGMENTS, BLOCKS, OPEN_FROM, FILLED = 0, 1, 2, 3, 4, 5, 6
MATH_AT, MATH_SEGMENT, TITLE_FROM, TITLE_TO, MATHJAX_SCRIPTS, BREAKS = 7, 8, 9, 10, 11, 12
STATE = 13
SCAN = 64
"""How far up the end of an inline element looks for its start."""
