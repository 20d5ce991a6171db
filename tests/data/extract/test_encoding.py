"""Encodings of pages: what is declared, what browsers make of it, and what the bytes are."""

import tarfile

import pytest

from tatara.data.extract.encoding import declared, decode, encoding_of

JAPANESE = (
    "これは日本語で書かれた文章です。漢字とひらがなとカタカナが混ざっています。"
    "東京都は日本の首都であり、人口は約千四百万人です。"
)
CHINESE = "这是一个用中文写的句子，用来测试网页编码的检测。北京是中华人民共和国的首都，人口超过两千万。"
TAIWANESE = "這是一個用中文寫的句子，用來測試網頁編碼的偵測。臺北是臺灣最大的城市之一，人口超過兩百萬。"
KOREAN = "이것은 한국어로 작성된 문장입니다. 서울은 대한민국의 수도이며 인구는 약 천만 명입니다."
RUSSIAN = "Это предложение написано на русском языке, чтобы проверить определение кодировки страницы."
GERMAN = "Übergröße: Die Straße führt über eine Brücke – „schön“ für Fußgänger, 5 €."


def page(text: str, head: str = "") -> str:
    return f"<html><head>{head}<title>{text[:8]}</title></head><body><p>{text}</p><p>{text[::-1]}</p></body></html>"


CASES = [
    (JAPANESE, "shift_jis", "cp932", "shift_jis"),
    (JAPANESE, "x-sjis", "cp932", "shift_jis"),
    (JAPANESE, "EUC-JP", "euc_jp", "euc-jp"),
    (JAPANESE, "iso-2022-jp", "iso2022_jp", "iso-2022-jp"),
    (CHINESE, "gb2312", "gb18030", "gb18030"),
    (TAIWANESE, "big5", "big5", "big5"),
    (KOREAN, "ks_c_5601-1987", "cp949", "euc-kr"),
    (RUSSIAN, "windows-1251", "cp1251", "windows-1251"),
    (RUSSIAN, "koi8-r", "koi8_r", "koi8-r"),
    (GERMAN, "iso-8859-1", "cp1252", "windows-1252"),
    (GERMAN, "us-ascii", "cp1252", "windows-1252"),
    (JAPANESE, "utf-8", "utf-8", "utf-8"),
]


@pytest.mark.parametrize(("text", "label", "codec", "name"), CASES)
@pytest.mark.parametrize("where", ["header", "meta", "equiv", "xml"])
def test_a_declaration_counts_wherever_it_stands(text, label, codec, name, where):
    head = {"meta": f'<meta charset="{label}">', "xml": "", "header": "",
            "equiv": f"<meta http-equiv='Content-Type' content='text/html; charset={label}'>"}[where]  # fmt: skip
    written = page(text, head)
    if where == "xml":
        written = f'<?xml version="1.0" encoding="{label}"?>' + written
    raw = written.encode(codec)
    assert decode(raw, f'text/html; charset="{label}"' if where == "header" else "text/html") == (written, name)


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [(text, codec, name) for text, _, codec, name in CASES if codec not in ("cp1252", "utf-8", "gb18030", "big5")],
)
def test_what_nobody_declares_is_detected(text, codec, name):
    written = page(text * 4)
    assert decode(written.encode(codec)) == (written, name)


@pytest.mark.parametrize("codec", ["cp932", "euc_jp", "utf-8"])
def test_a_servers_default_charset_does_not_garble_japanese(codec):
    written = page(JAPANESE * 3)
    assert decode(written.encode(codec), "text/html; charset=ISO-8859-1")[0] == written


def test_meta_beats_a_servers_default():
    written = page(RUSSIAN, '<meta charset="windows-1251">')
    assert decode(written.encode("cp1251"), "text/html; charset=iso-8859-1") == (written, "windows-1251")


def test_vendor_characters_of_japanese_encodings():
    for codec, label in (("cp932", "shift_jis"), ("euc_jis_2004", "euc-jp"), ("iso2022_jp_2004", "iso-2022-jp")):
        written = page("丸付き数字①と②を含む文章です。" * 3, f'<meta charset="{label}">')
        assert "①と②" in decode(written.encode(codec))[0]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_marks_and_utf_16(codec):
    text, name = decode(page(GERMAN).encode(codec))
    assert text == page(GERMAN)
    assert name == {"utf-16": "utf-16-le", "utf-8-sig": "utf-8"}.get(codec, codec)


def test_nearly_utf_8_is_utf_8_with_replacements():
    raw = page(JAPANESE * 5).encode()
    text, name = decode(raw[:300] + b"\xff\xfe" + raw[300:])
    assert name == "utf-8"
    assert 1 <= text.count("\ufffd") <= 4


@pytest.mark.parametrize(
    "raw", [b"", b"\x00", b"\xff", b"\x1b$", b"\xef\xbb\xbf", bytes(range(256)) * 50, b"\x80" * 999]
)
def test_nothing_raises(raw):
    text, name = decode(raw, "text/html; charset=klingon")
    assert isinstance(text, str)
    assert encoding_of(name) == name


def test_labels():
    assert encoding_of(" Latin1 ") == "windows-1252"
    assert encoding_of("GB2312") == "gb18030"
    assert encoding_of("klingon") is None
    assert declared(b'<meta charset="utf-16">', None) == ["utf-8"]
    assert declared(b"<meta charset=sjis>", "text/html;charset=euc-jp") == ["euc-jp", "shift_jis"]


@pytest.mark.data
def test_real_books_in_shift_jis(sample_data):
    with tarfile.open(sample_data / "aozora" / "raw_sjis_sample.tar.gz") as archive:
        raws = [archive.extractfile(member).read() for member in archive if member.name.endswith(".txt")]
    assert raws
    for raw in raws:
        # As a page: undeclared, and with a declaration that is wrong.
        for head, header in ((b"", None), (b'<meta charset="iso-8859-1">', "text/html; charset=iso-8859-1")):
            text, name = decode(head + raw, header)
            assert name == "shift_jis"
            assert text == head.decode() + raw.decode("cp932", errors="replace")
