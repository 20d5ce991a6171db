"""The lines of a wiki page whose templates, links and tags are resolved: headings, lists, tables."""

import re

_QUOTES = re.compile(r"'{2,5}")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:|//)[^\s\[\]]*+[ \t]*+([^\[\]\n]*+)\]")
_SWITCHES = re.compile(r"__[A-Z]{2,30}__")
_SPACES = re.compile(r"[ \t\u00a0]{2,}")
_EMPTY_BRACKETS = re.compile(r"[ ]?\([\s,;:]*\)|（[\s、，；：]*）")
_BRACKET_START = re.compile(r"([(（])[\s,;、，；]+")
_MARKS = "*#:;"
_MAX_LEVEL = 6


def tidy(text: str) -> str:
    """Turn line markup into plain lines; sections without text go."""
    lines: list[str] = []
    table: list[str] | None = None
    for raw in text.split("\n"):
        line = raw.strip()
        if table is not None or line.startswith("{|") or line.lstrip(":").startswith("{|"):
            table = _table_line(line.lstrip(":") if table is None else line, table, lines)
            continue
        lines.append(_line(line))
    if table:
        lines.append(" | ".join(table))
    return _sections(lines)


def _line(line: str) -> str:
    if not line:
        return ""
    if line[0] == "=" and line[-1] == "=" and (title := line.strip("=").strip()):
        level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), _MAX_LEVEL)
        return f"{'#' * level} {_inline(title)}"
    if line[0] in _MARKS:
        text = line.lstrip(_MARKS)
        depth = len(line) - len(text)
        shown = _inline(text.strip())
        if not shown:
            return ""
        # Indented lines are no items.
        return f"{'  ' * (depth - 1)}- {shown}" if line[depth - 1] in "*#" else shown
    return _inline(line)


def _inline(text: str) -> str:
    if "''" in text:
        text = _QUOTES.sub("", text)
    if "[" in text:
        text = _EXTERNAL.sub(r"\1", text)
    if "__" in text:
        text = _SWITCHES.sub("", text)
    if "(" in text or "（" in text:
        # What a template showed there, such as how a word is pronounced, is gone.
        text = _BRACKET_START.sub(r"\1", _EMPTY_BRACKETS.sub("", text))
    return _SPACES.sub(" ", text).strip()


def _table_line(line: str, row: list[str] | None, lines: list[str]) -> list[str] | None:
    """Take one line of a table; the row that is being filled, None behind the table."""
    if row is None or line.startswith("{|"):
        return row or []
    if line.startswith(("|}", "|-", "|+")):
        if row:
            lines.append(" | ".join(row))
        if line.startswith("|+") and (caption := _cell(line[2:])):
            lines.append(caption)
        if line.startswith("|}"):
            lines.append("")
            return None
        return []
    if line.startswith(("|", "!")):
        cells = line[1:].replace("!!", "||").split("||") if line[0] == "!" else line[1:].split("||")
        row.extend(cell for cell in map(_cell, cells) if cell)
    elif line:
        row.append(_line(line))
    return row


def _cell(cell: str) -> str:
    # Attributes stand before a bar.
    attributes, bar, text = cell.partition("|")
    return _inline(text if bar and "=" in attributes else cell)


def _sections(lines: list[str]) -> str:
    """Join lines, at most one blank line between them, without headings that nothing follows."""
    kept: list[str] = []
    below = 0  # level of the heading that comes next with nothing between; a deeper one is no text
    for line in reversed(lines):
        level = len(line) - len(line.lstrip("#")) if line.startswith("#") else 0
        if level and line[level : level + 1] == " ":
            if (below and level >= below) or not any(kept):
                continue
            kept += ["", line, ""]
            below = level
        elif line or (kept and kept[-1]):
            kept.append(line)
            below = below if not line else 0
    text = "\n".join(reversed(kept))
    return re.sub(r"\n{3,}", "\n\n", text).strip()
