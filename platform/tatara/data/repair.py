"""Bytes to clean text: encodings and mojibake."""

import codecs
import re
from collections.abc import Sequence

DAMAGED = "utf-8, damaged"
_BINARY_SHARE = 0.01
_DAMAGE_SHARE = 0.2
_SAMPLE = 65_536
_TOUCHED_ASCII = re.compile(r"[^\t\n -~]")


def looks_binary(raw: bytes) -> bool:
    """Whether bytes are no text at all: more than 1 % NUL bytes, and no UTF-16 or UTF-32 byte order mark."""
    head = raw[:_SAMPLE]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return False
    return head.count(0) > _BINARY_SHARE * len(head)


def decode(raw: bytes, encodings: Sequence[str]) -> tuple[str, str]:
    """Decode bytes of unknown encoding.

    UTF-8 if it is that, or nearly; else whichever of ``encodings`` charset-normalizer finds the most plausible.

    Args:
        raw: The bytes.
        encodings: Candidates, the preferred one first: it wins ties, and is what undecodable bytes are read as.

    Returns:
        The text, and the name of the encoding used (`DAMAGED` for UTF-8 with some broken bytes).
    """
    try:
        return raw.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        damaged = raw.decode("utf-8-sig", errors="replace")
    if damaged.count("\ufffd") <= _DAMAGE_SHARE * sum(not character.isascii() for character in damaged):
        return damaged, DAMAGED
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


def repair(text: str) -> str:
    """Repair mojibake, entities, control characters and line ends with ftfy; the result is NFC.

    Plain ASCII without control characters and carriage returns is returned as it is, which is what ftfy would return,
    at a hundredth of the time.
    """
    if not _TOUCHED_ASCII.search(text):
        return text
    import ftfy

    # Curly quotes, ligatures and full-width forms are the author's choice, not damage; code samples keep entities.
    return ftfy.fix_text(
        text, uncurl_quotes=False, fix_character_width=False, fix_latin_ligatures=False, unescape_html=False,
        normalization="NFC", explain=False,
    )  # fmt: skip
