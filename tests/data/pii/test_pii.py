"""Personal information: recall and precision on labelled text, redaction, and what must never be found."""

import random
from collections import Counter
from pathlib import Path

from tatara.data.pii.config import KINDS, PiiConfig
from tatara.data.pii.pii import Pii

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FULL_WIDTH = str.maketrans("0123456789-", "０１２３４５６７８９－")


def _pii(**settings: object) -> Pii:
    return Pii(PiiConfig(**{"social_security_number": "redact", **settings}), Path())  # type: ignore[arg-type]


def _digits(rng: random.Random, pattern: str) -> str:
    """``#`` is any digit, ``N`` one from 2 to 9, ``Z`` one from 2 to 8."""
    pools = {"#": "0123456789", "N": "23456789", "Z": "2345678"}
    return "".join(rng.choice(pools[mark]) if mark in pools else mark for mark in pattern)


def _with_luhn(prefix: str) -> str:
    """The right last digit by trying all ten, with the textbook's table of doubled digits."""
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    for last in "0123456789":
        numbers = [int(digit) for digit in prefix + last]
        odd, even = numbers[::-1][::2], numbers[::-1][1::2]
        if (sum(odd) + sum(doubled[digit] for digit in even)) % 10 == 0:
            return prefix + last
    raise AssertionError


def _with_my_number(eleven: str) -> str:
    total = 0
    for place in range(1, 12):  # counted from the right, as the ordinance does
        weight = place + 1 if place <= 6 else place - 5
        total += int(eleven[11 - place]) * weight
    rest = total % 11
    return eleven + str(0 if rest <= 1 else 11 - rest)


def _with_iban(country: str, account: str) -> str:
    value = 0
    for character in account + country + "00":
        value = (value * (100 if character.isalpha() else 10) + int(character, 36)) % 97
    return f"{country}{98 - value:02d}{account}"


def _grouped(value: str, sizes: tuple[int, ...], mark: str) -> str:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(value[start : start + size])
        start += size
    return mark.join(piece for piece in [*pieces, value[start:]] if piece)


def _token(rng: random.Random, length: int, pool: str = _LETTERS + "0123456789") -> str:
    return (
        "".join(rng.choice(pool) for _ in range(length - 3)) + rng.choice("ABC") + rng.choice("239") + rng.choice("678")
    )


def _cards(rng: random.Random) -> list[tuple[str, str]]:
    out = []
    for prefix, length in (("4", 16), ("52", 16), ("2345", 16), ("6011", 16), ("3566", 16), ("37", 15), ("305", 14)):
        for mark in ("", " ", "-"):
            number = _with_luhn(_digits(rng, prefix + "#" * (length - 1 - len(prefix))))
            sizes = (4, 4, 4) if length == 16 else (4, 6)
            out.append((f"paid with {{}} on {rng.choice(('Friday', 'May 3'))}", _grouped(number, sizes, mark)))
    return out


def _positives(rng: random.Random) -> dict[str, list[tuple[str, str]]]:
    """Kind to (sentence with a place, what stands in it)."""
    users = (
        "jane.doe",
        "j_smith99",
        "m.o'neil",
        "info",
        "taro-yamada",
        "x",
        "first+tag",
        "A.B.C",
        "user%relay",
        "42nd",
    )
    hosts = ("gmail.com", "mail.co.jp", "uni-bonn.de", "a.b.museum", "corp.io", "sub.dept.univ.ac.uk", "firma.online")
    around = (
        "write to {}.",
        "<{}>",
        "mailto:{}?subject=x",
        "連絡先は{}まで",
        "Name,{},42",
        '"email": "{}",',
        "({})",
        "{}",
    )
    email = [(rng.choice(around), f"{user.replace(chr(39), '')}@{host}") for user in users for host in hosts]
    phone = []
    abroad = ("+81-3-####-####", "+81 90 #### ####", "+1 N##-N##-####", "+1 (NZ#) N##-####", "+44 20 #### ####")
    abroad += ("+49 (0)30 ########", "+33 1 ## ## ## ##", "+861##########", "+91-9####-#####", "+55 11 9####-####")
    for pattern in abroad:
        sentences = ("{}", "call {} now", "({})", "tel:{}", "電話：{}。")
        phone += [(rng.choice(sentences), _digits(rng, pattern)) for _ in range(6)]
    japan = ("03-####-####", "06-####-####", "045-###-####", "0422-##-####", "090-####-####", "080-####-####")
    japan += ("050-####-####", "0120-###-###", "03(####)####", "(03)####-####", "0904#######")
    for pattern in japan:
        sentences = ("電話は{}です", "{}", "TEL {}", "受付（{}）")
        phone += [(rng.choice(sentences), _digits(rng, pattern)) for _ in range(6)]
    phone += [("電話番号は{}まで", _digits(rng, "03-####-####").translate(_FULL_WIDTH)) for _ in range(6)]
    for pattern in ("(NZ#) N##-####", "NZ#-N##-####", "NZ#.N##.####", "1-NZ#-N##-####", "NZ#-N##-####x12"):
        phone += [(rng.choice(("call {}.", "{}", "Fax: {}")), _digits(rng, pattern)) for _ in range(6)]
    for word in ("Tel", "phone", "Mobile"):
        phone += [(word + ": {}", _digits(rng, pattern)) for pattern in ("020 7### ####", "01632 9#####")]
    ip = []
    for i in range(40):
        quad = (81, 2, 69, i) if i % 2 else (rng.choice((45, 104, 185)), 3, 200, i)
        sentences = ("from {} port 22", "{}", "host={};", "[{}]", "http://{}:8080/")
        ip.append((rng.choice(sentences), ".".join(map(str, quad))))
    for i in range(1, 12):
        ip.append(("route to {} is", f"2a02:{rng.randrange(16, 65535):x}:0:{i:x}::{rng.randrange(1, 99):x}"))
    ip += [("dns {}", "2001:4860:4860::8888"), ("{}", "2606:4700:4700:0:0:0:0:1111")]
    ip += [("[{}]:443", "2A00:1450:4001:81b::200e")]
    mine = []
    places = (("-", "番号は{}です"), (" ", "わたしの {} を"), ("", "マイナンバー：{}"), ("", "個人番号 {} 氏名"))
    for mark, sentence in (*places, ("-", "My Number: {}")):
        values = [_with_my_number(_digits(rng, "N##########")) for _ in range(10)]
        mine += [(sentence, _grouped(value, (4, 4), mark)) for value in values]
    account = []
    patterns = {"DE": "#" * 18, "GB": "QWBK" + "#" * 14, "FR": "#" * 20 + "M02", "NO": "#" * 11, "CH": "#" * 17}
    for country, pattern in patterns.items():
        for mark in ("", " "):
            whole = _grouped(_with_iban(country, _digits(rng, pattern)), (4,) * 9, mark)
            account += [("IBAN: {} BIC", whole), ("überweisen auf {}.", whole)]
    social = [(rng.choice(("SSN: {}", "number {} on file")), _digits(rng, "Z##-4#-N###")) for _ in range(20)]
    return {
        "email": email,
        "phone": phone,
        "ip_address": ip,
        "payment_card": _cards(rng) * 2,
        "my_number": mine,
        "iban": account,
        "secret": [case for _ in range(4) for case in _secrets(rng)],
        "social_security_number": social,
    }


def _secrets(rng: random.Random) -> list[tuple[str, str]]:
    amazon = "".join(rng.choice("ABCDEFGHKLMNPQRTVXYZ234567") for _ in range(14))
    block = f"MIIE{_token(rng, 60)}\n{_token(rng, 64)}"
    return [
        ("aws_access_key_id = {}", f"AKIA{amazon}3Q"),
        ("export GH={}", "ghp_" + _token(rng, 36)),
        ("{}", f"github_pat_{_token(rng, 22)}_{_token(rng, 59)}"),
        ("slack: {}", f"xoxb-{_digits(rng, '############')}-{_token(rng, 24)}"),
        ("key={}&x", "AIza" + _token(rng, 35)),
        ("OPENAI={}", "sk-" + _token(rng, 48)),
        ("{}", "sk-proj-" + _token(rng, 60)),
        ("use {} here", "sk-ant-api03-" + _token(rng, 80)),
        ("'{}'", "sk_live_" + _token(rng, 24)),
        ("Authorization: Bearer {}", f"eyJ{_token(rng, 33)}.eyJ{_token(rng, 60)}.{_token(rng, 43)}"),
        ('"api_key": "{}"', _token(rng, 32)),
        ("client_secret={}", _token(rng, 40, "0123456789abcdef").lower()),
        ("AWS_SECRET_ACCESS_KEY={}", _token(rng, 20) + "/" + _token(rng, 19)),
        ("password: {}", _token(rng, 20)),
        ("a\n{}\nb", f"-----BEGIN RSA PRIVATE KEY-----\n{block}\n-----END RSA PRIVATE KEY-----"),
    ]


def _negatives(rng: random.Random) -> list[str]:
    """Sentences that hold nothing personal but look it."""
    year = rng.randrange(1950, 2030)
    card = _with_luhn(_digits(rng, "4##############"))
    card = card[:-1] + str((int(card[-1]) + 1) % 10)
    four = [_digits(rng, "####") for _ in range(7)]
    long = _digits(rng, "1" + "#" * 17)
    return [
        f"On {year}-10-11 12:30:45.123456 the 2012-2015 season (2012/10/11) ended 10-7, 24-17, 31-28.",
        "ISBN 978-3-16-148410-0 and ISBN 0-306-40615-2",
        "version 1.2.3.4, v10.4.100.7, release 81.2.69.142",
        "3.1415926535897932384626433832795",
        f"order number {long[:10]}, order no. 212-555-{four[0]}",
        f"{' '.join(four)} and {' '.join(number + '.25' for number in four)}",
        f"sha256={_token(rng, 64, '0123456789abcdef').lower()}",
        f"commit {_token(rng, 40, '0123456789abcdef').lower()}",
        f"uuid 123e4567-e89b-12d3-a456-42661417{four[1]}",
        " ".join(_digits(rng, "##") for _ in range(30)),
        "1,234,567,890 and 12 345 678 901",
        "see @user, @property, logo@2x.png, vue@2.6.14, pkg@latest, a @ b, me@localhost",
        "git clone git@github.com:owner/project.git",
        "std::vector<a::b>::iterator; 12:34:56; de:ad:be:ef:00:11; A::B",
        "192.168.0.1, 10.1.2.3, 127.0.0.1, 172.16.254.1, 203.0.113.7, fe80::1, ::1, 2001:db8::1",
        "section 3.2.1.4 and 1.3.6.1.4.1.311, support@example.com",
        f"card {card[:4]} {card[4:8]} {card[8:12]} {card[12:]}",
        "http://host/2012/10/20121011123456789/a_long_path-name-2/index-3.html",
        f"id: {long}, tweet {long[1:]}1",
        "api_key = YOUR_API_KEY_HERE_1234, token: xxxxxxxxxxxxxxxxxxxxxxxx1",
        "secret_key_base_configuration_value_2 = load()",
        "x = [[1, 2, 3], [4, 5, 6]] 100 200 300 400 500 600 700",
        "1994-95 2001-02 2010-2011 2019-20 1998–2003",
        "DE00 1234 5678 9012 3456 78, AB12 3456 7890 1234",
        f"price 1 {four[0][1:]} {four[1][1:]} {four[2][1:]} yen; 0.{long[:12]}",
        "$2,500-3,000-4,000 (1990) 2010-555 1-2-3-4-5-6-7-8-9-10",
        "f(a)@b.T @ c; user@host; x@y.z; data@self.weight",
        f"配列 {' '.join(f'{row}{four[row][1:]}' for row in range(1, 6))} 行",
        "2024年10月11日 12時30分 03-04号 第1234-5678号",
        "000-00-0000 and 666-12-3456 and 987-65-4321",
        "ObjectIdentifier('1.3.101.113') and 4633730048000000*t**14 +1.12345679+1.12345679j",
        "RFC 2606, port 65535, 0x7fffffffffff, 6.02214076e23",
    ]


def test_recall_and_precision_of_every_kind_on_labelled_text() -> None:
    rng = random.Random(5)
    pii = _pii()
    positives = _positives(rng)
    hits: Counter[str] = Counter()
    wrong: list[tuple[str, str]] = []
    missed: list[tuple[str, str]] = []
    for kind, cases in positives.items():
        for sentence, value in cases:
            text = "It was a long day of rain. " + sentence.format(value) + " 雨の日が続いた。\nNothing more"
            place = text.index(value)
            found = pii.find(text)
            good = [each for each in found if each == (kind, place, place + len(value))]
            hits[kind] += len(good)
            wrong += [(each[0], text[each[1] : each[2]]) for each in found if each not in good]
            if not good:
                missed.append((kind, value))
    for _ in range(10):
        for text in _negatives(rng):
            wrong += [(kind, text[start:end]) for kind, start, end in pii.find(text)]
    falsely = Counter(kind for kind, _ in wrong)
    assert set(positives) == set(KINDS)
    for kind, cases in positives.items():
        assert hits[kind] / len(cases) >= 0.95, (kind, missed)
        assert hits[kind] / (hits[kind] + falsely[kind]) >= 0.95, (kind, wrong)
