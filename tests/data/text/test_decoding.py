import codecs
import random

import pytest

from tatara.data.read.config import ReadConfig
from tatara.data.text.decoding import DAMAGED, decode, looks_binary

ENCODINGS = ReadConfig().encodings


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Größe und Übermut tun selten gut; die Straße ist schön.", "latin-1"),
        ("It’s “quoted” and costs £5 to see the café, every day of the week.", "cp1252"),
        ("naïve", "cp1252"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", "shift_jis"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", "euc_jp"),
        ("Привет, как дела? Сегодня хорошая погода.", "cp1251"),
        ("Привет, как дела? Сегодня хорошая погода.", "koi8_r"),
        ("Zwei Zeilen\nin UTF-16", "utf_16"),
        ("Zwei Zeilen\nin UTF-32, größer", "utf_32"),
    ],
)
def test_other_encodings_are_recognised(text: str, encoding: str) -> None:
    decoded, found = decode(text.encode(encoding), ENCODINGS)
    assert decoded == text
    assert codecs.lookup(found).name != "utf-8"


def test_utf8_with_and_without_a_mark() -> None:
    assert decode("früh".encode(), ENCODINGS) == ("früh", "utf-8")
    assert decode(codecs.BOM_UTF8 + b"x", ENCODINGS) == ("x", "utf-8")


def test_one_broken_byte_does_not_turn_utf8_into_mojibake() -> None:
    text, encoding = decode("Übermäßig größere Häuser für Schüler".encode() + b"\xff", ENCODINGS)
    assert text == "Übermäßig größere Häuser für Schüler\ufffd"
    assert encoding == DAMAGED


def test_utf16_that_ends_in_half_a_character() -> None:
    assert decode("text".encode("utf-16")[:-1], ENCODINGS) == ("tex\ufffd", "utf_16")


def test_what_fits_nothing_is_read_as_the_first_encoding() -> None:
    raw = bytes(range(128, 256)) * 3
    text, encoding = decode(raw, ["ascii"])
    assert encoding == "ascii"
    assert text == "\ufffd" * len(raw)


def test_binary_is_told_from_text() -> None:
    assert looks_binary(b"\x7fELF" + bytes(100))
    assert looks_binary(random.Random(0).randbytes(5000))
    assert not looks_binary("ä".encode() * 100)
    assert not looks_binary("text".encode("utf_16"))
    assert not looks_binary("日本語の文章".encode("iso2022_jp") * 50)
    assert not looks_binary(b"\x1b[31mred\x1b[0m\r\n" * 50)
    assert not looks_binary(b"")
