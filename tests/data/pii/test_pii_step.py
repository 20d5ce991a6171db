"""What becomes of personal information that was found, of clean text, and of input that is made to hurt."""

import gzip
import time
from pathlib import Path

import pytest

from tatara import config as configuration
from tatara.data.document import Document
from tatara.data.pii import scan
from tatara.data.pii.config import PiiConfig
from tatara.data.pii.pii import Pii
from tatara.errors import ConfigError

_TEXT = "Ann (ann.lee@mail.de, 03-5555-1234) logs in from 81.2.69.142. ＴＥＬ：０３−１２３４−５６７８ 以上"


def _judge(text: str, **settings: object) -> tuple[Document, object]:
    document = Document("a", text, "s")
    return document, Pii(PiiConfig(**settings), Path()).judge(document)  # type: ignore[arg-type]


def test_redaction_replaces_what_was_found_and_nothing_else() -> None:
    document, verdict = _judge(_TEXT)
    assert verdict is None
    assert document.text == "Ann (<|email|>, <|phone|>) logs in from <|ip_address|>. ＴＥＬ：<|phone|> 以上"
    assert document.counts == {"pii.email": 1, "pii.phone": 2, "pii.ip_address": 1}
    again, _ = _judge(document.text)
    assert again.text == document.text
    assert not again.counts


def test_each_kind_has_its_own_action_and_replacement() -> None:
    document, _ = _judge(
        _TEXT, email="keep", phone="off", replacement="[{kind}]", replacements={"ip_address": "0.0.0.0"}
    )
    assert document.text == _TEXT.replace("81.2.69.142", "0.0.0.0")
    assert document.counts == {"pii.email": 1, "pii.ip_address": 1}
    document, verdict = _judge(_TEXT, phone="drop")
    assert (verdict.reason, verdict.value, verdict.limit) == ("pii.phone", 2, 0)  # type: ignore[attr-defined]


def test_a_list_of_people_is_dropped() -> None:
    text = "\n".join(f"person{i}@firm.com" for i in range(40))
    _, verdict = _judge(text)
    assert (verdict.reason, verdict.value, verdict.limit) == ("pii.max_per_kcharacter", 40, 10)  # type: ignore[attr-defined]
    document, verdict = _judge(text, max_per_kcharacter=None)
    assert verdict is None
    assert document.text == "\n".join(["<|email|>"] * 40)


def test_private_addresses_and_reserved_domains_are_personal_only_on_request() -> None:
    text = "192.168.7.40 fe80::1ff:fe23:4567:890a me@example.com"
    assert _judge(text)[0].text == text
    document, _ = _judge(text, private_addresses=True, public_domains=())
    assert document.text == "<|ip_address|> <|ip_address|> <|email|>"


def test_an_unknown_kind_among_the_replacements_is_refused() -> None:
    with pytest.raises(ConfigError, match="no kind 'mail'; known: secret, email"):
        configuration.load(PiiConfig, {"replacements": {"mail": "x"}})


def test_plain_text_has_the_length_of_the_text() -> None:
    text = "０９０－１２３４ー５６７８\u3000\ud800é😀\x00ＡＢ＠ｃ．ｄ–1"
    assert scan.plain(text) == "090-1234-5678 \x7fe\x7f\x00AB@c.d-1"


def test_odd_text_survives() -> None:
    for text in ("", "\ud800 a@b.com \udfff", "\x00" * 1000 + "a@bc.com", "@", "1", ":" * 99, "-----BEGIN", "+"):
        document, verdict = _judge(text)
        assert verdict is None
        assert document.text == text.replace("a@b.com", "<|email|>").replace("a@bc.com", "<|email|>")


def test_position_in_the_text_does_not_matter() -> None:
    value = "bob.smith@mail.de 4111 1111 1111 1111 +81-90-1234-5678 2001:4860:4860::8888"
    expected = [(kind, start, end) for kind, start, end in Pii(PiiConfig(), Path()).find(value)]
    assert len(expected) == 4
    for before in (0, 1, 63, 500, 70_000):
        text = "x " * before + value + " y" * 9
        found = Pii(PiiConfig(), Path()).find(text)
        assert [(kind, start - 2 * before, end - 2 * before) for kind, start, end in found] == expected


_KEY = "-----BEGIN PRIVATE KEY-----"
_HURTFUL = (
    "a",
    "1",
    "1 ",
    "1-",
    "1.",
    "@",
    "a@",
    "a.",
    "a@a.",
    ":",
    "1:",
    "a:",
    "-",
    _KEY,
    "0" * 15 + " ",
    "GB29 A123 ",
)
_HURTFUL += ("GB29 ", "+1 ", "(0", "sk-", "٣", "あ", "１", "1" * 19 + "-", "xoxb-1", "eyJhbGciOi1.eyJ", "api_key=")


@pytest.mark.parametrize("unit", _HURTFUL)
def test_time_is_linear_in_the_length_of_the_text(unit: str) -> None:
    pii = Pii(PiiConfig(max_per_kcharacter=None), Path())
    small = unit * (40_000 // len(unit))

    def best(text: str) -> float:
        times = []
        for _ in range(2):
            started = time.process_time()
            pii.find(text)
            times.append(time.process_time() - started)
        return min(times)

    # Quadratic time would be 64 times as much, every time; a busy machine is slow now and then.
    assert any(best(small * 8) < 24 * best(small) + 0.02 for _ in range(4))


@pytest.mark.data
def test_books_encyclopedias_and_mathematics_hold_next_to_nothing_personal(sample_data: Path) -> None:
    pii = Pii(PiiConfig(), Path())
    characters = found = 0
    for folder in ("wikitext2-valid-test", "wagahai-ja", "docs-rust-book", "math500", "tinyshakespeare"):
        for path in sorted((sample_data / folder).rglob("*")):
            if path.is_file():
                raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
                text = raw.decode("utf-8", errors="replace")
                characters += len(text)
                found += len(pii.find(text))
    assert characters > 4_000_000
    assert found <= characters / 1_000_000
