"""Bytes to clean text: encodings and mojibake."""

import codecs
import re

_BINARY_SHARE = 0.01
_SAMPLE = 65_536


def looks_binary(raw: bytes) -> bool:
    """Whether bytes are no text at all: more than 1 % NUL bytes, and no UTF-16 or UTF-32 byte order mark."""
    head = raw[:_SAMPLE]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return False
    return head.count(0) > _BINARY_SHARE * len(head)


def decode(raw: bytes, fallback: str = "cp1252") -> tuple[str, str]:
    """Decode bytes of unknown encoding.

    UTF-8 if it is that; else what charset-normalizer detects; else ``fallback`` with undecodable bytes replaced.

    Returns:
        The text and the name of the encoding used.
    """
    try:
        return raw.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        pass
    import charset_normalizer

    # Detection looks at a sample; the whole must then decode with what it found.
    best = charset_normalizer.from_bytes(raw[:_SAMPLE]).best()
    if best is not None:
        try:
            return raw.decode(best.encoding), best.encoding
        except (UnicodeDecodeError, LookupError):
            pass
    return raw.decode(fallback, errors="replace"), fallback


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


_TOUCHED_ASCII = re.compile(r"[^\t\n -~]")


