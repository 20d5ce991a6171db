"""Bytes of a web page to text, the way browsers do it, with a second look where the declaration is wrong.

Labels mean what the WHATWG Encoding Standard (section 4.2) says they mean: pages that declare ``iso-8859-1`` are
windows-1252, ``gb2312`` is a subset of gb18030, and so on.
"""

import codecs
import re

_HEAD = 8_192
_SAMPLE = 131_072
_DAMAGE_SHARE = 0.2
_META = re.compile(rb"<meta\s[^>]{0,400}?charset\s*=\s*[\"']?\s*([a-z0-9_:.-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"^\s{0,20}<\?xml\s[^>]{0,200}?encoding\s*=\s*[\"']([a-z0-9_:.-]{2,40})", re.IGNORECASE)
_HTTP = re.compile(r"charset\s*=\s*[\"']?\s*([a-z0-9_:.-]{2,40})", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_ESCAPES = (b"\x1b$", b"\x1b(")

# Name in the standard to Python's codecs, the first that decodes all bytes being the one that counts: Python splits
# what browsers read as one encoding (vendors' rows of JIS X 0208, Hong Kong's supplement).
_CODECS = {
    "utf-8": ("utf-8",),
    "utf-16-le": ("utf-16-le",),
    "utf-16-be": ("utf-16-be",),
    "shift_jis": ("cp932", "shift_jis_2004"),
    "euc-jp": ("euc_jp", "euc_jis_2004"),
    "iso-2022-jp": ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_2004"),
    "gb18030": ("gb18030",),
    "big5": ("big5hkscs", "cp950"),
    "euc-kr": ("cp949",),
    "macintosh": ("mac_roman",),
    "x-mac-cyrillic": ("mac_cyrillic",),
    "windows-874": ("cp874",),
    "ibm866": ("cp866",),
    "koi8-r": ("koi8_r",),
    "koi8-u": ("koi8_u",),
}
_CODECS |= {f"windows-125{number}": (f"cp125{number}",) for number in range(9)}
_CODECS |= {f"iso-8859-{part}": (f"iso8859_{part}",) for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)}

_LABELS = {
    "utf-8": "utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8",
    "utf-16-le": "utf-16 utf16 utf-16le utf16le unicode ucs-2 csunicode iso-10646-ucs-2 unicodefeff",
    "utf-16-be": "utf-16be utf16be unicodefffe",
    "windows-1252": "ascii us-ascii ansi_x3.4-1968 iso-8859-1 iso8859-1 iso88591 iso_8859-1 latin1 latin-1 l1 "
    "cp1252 cp819 ibm819 x-cp1252 csisolatin1 iso-ir-100 iso_8859-1:1987",
    "windows-1254": "iso-8859-9 iso8859-9 iso88599 iso_8859-9 latin5 l5 cp1254 x-cp1254 csisolatin5",
    "windows-874": "iso-8859-11 iso8859-11 iso885911 tis-620 tis620 dos-874 cp874",
    "shift_jis": "shift-jis sjis x-sjis ms_kanji ms932 windows-31j csshiftjis cp932 shiftjis",
    "euc-jp": "eucjp x-euc-jp x-euc euc_jp cseucpkdfmtjapanese eucjp-win eucjp-ms",
    "iso-2022-jp": "csiso2022jp iso2022jp jis",
    "gb18030": "gb2312 gbk gb_2312 gb_2312-80 x-gbk chinese csgb2312 csiso58gb231280 iso-ir-58 cp936 gb-2312",
    "big5": "big5-hkscs big-5 cn-big5 csbig5 x-x-big5 cp950 big5hkscs",
    "euc-kr": "ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 windows-949 cseuckr korean cp949 uhc euckr iso-ir-149",
    "macintosh": "mac x-mac-roman csmacintosh macroman",
    "x-mac-cyrillic": "x-mac-ukrainian",
    "ibm866": "866 cp866 csibm866",
    "koi8-r": "koi koi8 koi8_r cskoi8r",
    "koi8-u": "koi8-ru",
    "iso-8859-2": "latin2 l2 iso8859-2 iso88592 iso_8859-2 csisolatin2",
    "iso-8859-5": "cyrillic iso8859-5 iso88595 iso_8859-5",
    "iso-8859-6": "arabic iso8859-6 iso88596 iso_8859-6 iso-8859-6-i iso-8859-6-e",
    "iso-8859-7": "greek iso8859-7 iso88597 iso_8859-7 greek8",
    "iso-8859-8": "hebrew visual iso8859-8 iso88598 iso-8859-8-i logical",
    "iso-8859-15": "latin9 l9 iso8859-15 iso885915 iso_8859-15",
}
_NAMES = {label: name for name, labels in _LABELS.items() for label in labels.split()}
_NAMES |= {name: name for name in _CODECS} | {f"cp125{number}": f"windows-125{number}" for number in range(9)}
_NAMES |= {f"x-cp125{number}": f"windows-125{number}" for number in range(9)}
# What detectors return, besides the labels of the standard.
_NAMES |= {"euc_jp": "euc-jp", "euc_kr": "euc-kr", "iso2022_jp": "iso-2022-jp", "utf-8-sig": "utf-8"}
_MULTIBYTE = {"shift_jis", "euc-jp", "gb18030", "big5", "euc-kr", "iso-2022-jp"}


def encoding_of(label: str | None) -> str | None:
    """The encoding that a label stands for; None for one that the standard does not know."""
    return _NAMES.get(label.strip().lower()) if label else None


def declared(content: bytes, content_type: str | None) -> list[str]:
    """The encodings that a page declares, the strongest declaration first: HTTP header, ``<meta>``, XML declaration."""
    found = [encoding_of(match[1]) for match in [_HTTP.search(content_type or "")] if match]
    head = content[:_HEAD]
    for pattern in (_META, _XML):
        match = pattern.search(head)
        if match:
            name = encoding_of(match[1].decode("ascii"))
            # A declaration that can be read as ASCII is not in UTF-16.
            found.append("utf-8" if name and name.startswith("utf-16") else name)
    return list(dict.fromkeys(name for name in found if name))


def decode(content: bytes, content_type: str | None = None) -> tuple[str, str]:
    """Decode a page.

    Bytes that are valid UTF-8 are UTF-8, whatever was declared: text in another encoding hardly ever is. Otherwise
    declarations are tried in their order, then what the bytes look like; what fits none of them is read as the first,
    with replacement characters.

    Args:
        content: The page.
        content_type: The header it came with, such as ``text/html; charset=euc-jp``.

    Returns:
        The text, and the name of the encoding in the WHATWG standard.
    """
    for mark, name in _BOMS:
        if content.startswith(mark):
            return content[len(mark) :].decode(name, errors="replace"), name
    escapes = b"\x1b" in content and any(escape in content for escape in _ESCAPES)
    nul = content.count(0)
    if not escapes and not nul:
        text = _strictly(content, "utf-8")
        if text is not None:
            return text, "utf-8"
    if nul > len(content) // 4:
        # Markup in UTF-16 without a mark: every other byte of ASCII is zero.
        even = content[: 2 * _HEAD : 2].count(0)
        name = "utf-16-be" if even > content[1 : 2 * _HEAD : 2].count(0) else "utf-16-le"
        return content.decode(name, errors="replace"), name
    candidates = declared(content, content_type)
    if escapes and "iso-2022-jp" not in candidates:
        candidates.append("iso-2022-jp")
    detected = _detect(content)
    # A declaration of Latin text is what servers send by default; bytes that pair up as an East Asian encoding do not
    # do so by chance, and a second declaration was put there by somebody who knew.
    if detected in _MULTIBYTE and (not candidates or candidates[0] == "windows-1252"):
        candidates.insert(0, detected)
    elif len(candidates) > 1 and candidates[0] == "windows-1252" and not candidates[1].startswith("utf"):
        candidates.append(candidates.pop(0))
    candidates += [detected] if detected else []
    for name in dict.fromkeys([*candidates, "utf-8"]):
        text = _strictly(content, name)
        if text is not None:
            return text, name
    return _leniently(content, candidates)


def _detect(content: bytes) -> str | None:
    from resiliparse.parse.encoding import detect_encoding

    return encoding_of(detect_encoding(content, max_len=_SAMPLE, html5_compatible=False))


def _strictly(content: bytes, name: str) -> str | None:
    for codec in _CODECS[name]:
        try:
            return content.decode(codec)
        except UnicodeDecodeError:
            continue
    return None


def _leniently(content: bytes, candidates: list[str]) -> tuple[str, str]:
    """The candidate that loses least; UTF-8 where it is nearly that."""
    damaged = content.decode("utf-8", errors="replace")
    foreign = len(damaged) - len(damaged.encode("ascii", errors="ignore"))
    if damaged.count("\ufffd") <= _DAMAGE_SHARE * foreign:
        return damaged, "utf-8"
    read = [(content.decode(_CODECS[name][0], errors="replace"), name) for name in candidates or ["windows-1252"]]
    return min(read, key=lambda each: each[0].count("\ufffd"))
