import random
import time
from pathlib import Path

import ftfy
import pytest

from tatara.data.document import Document
from tatara.data.text.config import RepairConfig
from tatara.data.text.repair import RepairStep, repair

SETTINGS = {
    "uncurl_quotes": False, "fix_character_width": False, "fix_latin_ligatures": False, "unescape_html": False,
    "normalization": "NFC", "explain": False,
}  # fmt: skip
SENTENCES = [
    "Größe und Übermut tun selten gut.", "l’humanité — c’est ça, à 5 °C…", "吾輩は猫である。名前はまだ無い。",
    "Привет, как дела?",
    "Zażółć gęślą jaźń", "Đây là tiếng Việt", "यह हिंदी है", "Œuvre, œ, cœur", "Ελληνικά γράμματα", "plain ASCII",
    "Ø Å × ² №", "한국어 문장",
    "السلام عليكم", "“curly” ‘quotes’ £5 €3 ½",
]  # fmt: skip
ALPHABET = "".join(map(chr, range(0x20, 0x180))) + "œ²³вЂГў€āÃÂ \xa0\u2028\x85\ufeff\u0301\u3099\r\n\n\x1b[31m\0…—™"


def test_mojibake_is_repaired_and_choices_are_left_alone() -> None:
    assert repair("l’humanitÃ©") == "l’humanité"
    assert repair("a\r\nb") == "a\nb"
    assert repair("\x1b[31mred\x1b[0m") == "red"
    assert repair("“curly”, １２ and if a &lt; b") == "“curly”, １２ and if a &lt; b"
    assert repair("か\u3099") == "が"
    assert repair("\ud83d\ude00 \ud800") == "😀 \ufffd"
    assert repair("") == ""


def test_the_short_way_leads_where_ftfy_leads() -> None:
    """On clean lines, on mojibake of nine code pages, and on random strings of suspicious characters."""
    generator = random.Random(5)
    pages = ["latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1257", "mac_roman", "cp437"]

    def line() -> str:
        text, chance = generator.choice(SENTENCES), generator.random()
        if chance < 0.3:
            return text.encode().decode(generator.choice(pages), errors="replace")
        if chance < 0.6:
            place = generator.randrange(len(text))
            return text[:place] + generator.choice(ALPHABET) + text[place:]
        if chance < 0.8:
            return "".join(generator.choices(ALPHABET, k=generator.randrange(20)))
        return text

    changed = 0
    for _ in range(4000):
        text = "\n".join(line() for _ in range(generator.randrange(1, 4)))
        expected = ftfy.fix_text(text, **SETTINGS)
        assert repair(text) == expected, repr(text)
        changed += expected != text
    assert 1000 < changed < 3500


@pytest.mark.data
def test_on_real_text_too(sample_data: Path) -> None:
    checked = 0
    for path in sorted(sample_data.glob("**/*.txt"))[::3]:
        text = path.read_text(encoding="utf-8", errors="replace")[:30_000]
        assert repair(text) == ftfy.fix_text(text, **SETTINGS), path
        checked += not text.isascii()
    assert checked > 10


def test_the_step_counts_what_it_changed(tmp_path: Path) -> None:
    step = RepairStep(RepairConfig(), tmp_path)
    documents = [
        Document("1", "humanitÃ©", "s"),
        Document("2", "humanité", "s"),
        Document("3", "", "s", content=b"<p>"),
    ]
    assert step.apply(documents) == [None, None, None]
    assert [item.text for item in documents] == ["humanité", "humanité", ""]
    assert [item.counts["repair.changed"] for item in documents] == [1, 0, 0]


UNITS = {
    "marks": "\u0301\u0316", "mojibake": "Ã©", "ligature": "œ ", "surrogate": "\ud800", "NUL": "\0", "escape": "\x1b[",
    "ø": "Ø ",
    "decomposed": "か\u3099", "hangul": "\u1100\u1161", "euro": "â€", "marks in mojibake": "Ì\x81Ì–", "lines": "é\r\n",
}  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_length_alone(unit: str) -> None:
    def seconds(count: int) -> float:
        text = "a" + UNITS[unit] * count
        best = float("inf")
        for _ in range(2):
            start = time.process_time()
            repair(text)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(20_000) < 16 * seconds(2_500) + 0.1


def test_runs_of_combining_marks_are_broken_as_unicode_says() -> None:
    assert repair("a" + "\u0316\u0301" * 20) != repair("a" + "\u0316\u0301" * 15)
    assert repair("e" + "\u0301" * 31).count("\u034f") == 1
    assert repair("e\u0301") == "é"
