"""Bytes of unknown encoding to text."""

import codecs
from collections.abc import Sequence

DAMAGED = "utf-8, damaged"
"""Name for UTF-8 with some broken bytes."""

_NUL_SHARE = 0.01
_CONTROL_SHARE = 0.05
# All but tabs, line and page ends, backspace, and the escapes of terminals and of ISO-2022.
_CONTROLS = bytes(code for code in range(32) if code not in b"\b\t\n\v\f\r\x0e\x0f\x1b")
_DAMAGE_SHARE = 0.2
_SAMPLE = 65_536
# The mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf_32"), (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"), (codecs.BOM_UTF16_BE, "utf_16"),
)  # fmt: skip


def looks_binary(raw: bytes) -> bool:
    """Whether bytes are no text at all: over 1 % NUL bytes or 5 % control characters, and no mark of UTF-16 or 32."""
    head = raw[:_SAMPLE]
    if head.startswith(tuple(mark for mark, _ in _MARKS)):
        return False
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return head.count(0) > _NUL_SHARE * len(head) or controls > _CONTROL_SHARE * len(head)


def decode(raw: bytes, encodings: Sequence[str]) -> tuple[str, str]:
    """Decode bytes of unknown encoding.

    UTF-8 if it is that, or nearly; else what a byte order mark says; else whichever of ``encodings``
    charset-normalizer finds the most plausible.

    Args:
        raw: The bytes.
        encodings: Candidates, the preferred one first: it wins ties, and is what undecodable bytes are read as.

    Returns:
        The text, and the name of the encoding used (`DAMAGED` for UTF-8 with some broken bytes).
    """
    try:
        return raw.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        pass
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return raw.decode(name, errors="replace"), name
    damaged = raw.decode("utf-8-sig", errors="replace")
    if damaged.count("\ufffd") <= _DAMAGE_SHARE * sum(not character.isascii() for character in damaged):
        return damaged, DAMAGED
    return _guess(raw, encodings)


def _guess(raw: bytes, encodings: Sequence[str]) -> tuple[str, str]:
    import charset_normalizer

    preference = {codecs.lookup(name).name: position for position, name in enumerate(encodings)}
    matches = charset_normalizer.from_bytes(raw[:_SAMPLE], cp_isolation=list(encodings))
    # Short texts are often equally plausible in several code pages; the library alone would take any of them.
    plausible = sorted(
        matches,
        key=lambda match: (
            round(match.chaos, 2), -round(match.coherence, 1), preference.get(codecs.lookup(match.encoding).name, 99)
        ),
    )  # fmt: skip
    for match in plausible:
        try:
            return raw.decode(match.encoding), match.encoding
        except UnicodeDecodeError:
            continue  # only the sample had to decode for it to match
    return raw.decode(encodings[0], errors="replace"), encodings[0]
