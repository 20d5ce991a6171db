"""Languages that their script gives away: Japanese, Korean, and Chinese where it differs from Japanese."""

import re

_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff9d]+")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_MIN_KANA_SHARE = 0.05
"""Of the kana and Han characters: Chinese text quotes a Japanese name now and then."""


def by_script(text: str) -> tuple[str, float] | None:
    """The language that more than half of a text's letters give away, and their share; None for all others.

    ``han`` stands for Chinese characters without kana.
    """
    if text.isascii():
        return None
    han, kana, hangul = (_count(pattern, text) for pattern in (_HAN, _KANA, _HANGUL))
    letters = max(_count(_LETTERS, text), han + kana + hangul)
    if 2 * hangul > letters:
        return "ko", (hangul + han) / letters
    if 2 * (han + kana) > letters:
        if kana > _MIN_KANA_SHARE * (han + kana):
            return "ja", (han + kana) / letters
        if kana + hangul == 0:
            return "han", han / letters
    return None


def chinese_or_japanese(text: str) -> str | None:
    """``zh`` or ``ja`` if Han characters in a text belong to only one's national character sets; else None.

    Simplified characters are missing from JIS X 0208; those that were simplified in Japan alone from GB 2312 and Big5.
    """
    characters = "".join(_HAN.findall(text))
    foreign_to_japanese = _missing(characters, "shift_jis")
    foreign_to_chinese = min(_missing(characters, "gb2312"), _missing(characters, "big5"))
    if foreign_to_japanese == foreign_to_chinese:
        return None
    return "zh" if foreign_to_japanese > foreign_to_chinese else "ja"


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))


def _missing(text: str, charset: str) -> int:
    return len(text) - len(text.encode(charset, errors="ignore")) // 2
