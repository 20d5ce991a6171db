"""Phone, card, account and identity numbers among groups of digits.

Every function gets the text in ASCII (`scan.plain`), bounds of a candidate and the text before it, and yields
(kind, start, end). All patterns are bounded in length, so that the time is linear in the length of the candidate.
"""

import re
from collections.abc import Iterator

Finding = tuple[str, int, int]

_CONTEXT = 40
_PHONE_WORDS = re.compile(
    r"\b(?:tel|telephone|phones?|fax|mobile|mob|cell|cellphone|call|dial|hotline|contact|whatsapp|sms|text us|ph)\b"
    r"|電話|でんわ|℡|☎|📞|携帯|ファックス|ファクス|ＴＥＬ|ＦＡＸ|連絡先|フリーダイヤル|電話番号",
    re.IGNORECASE,
)
_SHORT = re.compile(rf"(?:{_PHONE_WORDS.pattern})(?: (?:number|no\.?|us|at))?\W{{0,3}}$", re.IGNORECASE)
_EXTENSION = r"(?:x\d{1,6}|(?: ?ext\.? ?\d{1,6})|(?![\w-])(?!\.\d))"
_IDENTIFIERS = re.compile(
    r"(?:\b(?:isbn(?:-1[03])?|issn|doi|ean|upc|asin|order|invoice|serial|part|patent|model|ref|case|tracking)"
    r"(?: (?:number|no\.?))?|(?:\b|_)id)[ :#=\"']*$",
    re.IGNORECASE,
)
_INTERNATIONAL = re.compile(r"(?<![\w+)])(\+[1-9]\d{0,3}(?:[ .()/-]{0,3}\d{1,14}){1,8})" + _EXTENSION)
_JAPANESE = re.compile(
    r"(?<![\w.+=#/-])(?<!\d[ (])(?:"
    r"0[5789]0([- ])\d{4}\1\d{4}"  # mobile, IP telephony
    r"|0120([- ])\d{3}\2\d{3}|0120([- ])\d{2}\3\d{4}|0(?:800|570)([- ])\d{3}\4\d{3,4}"  # free, shared cost
    r"|0[1-9]([- ])\d{4}\5\d{4}|0[1-9]\d([- ])\d{3}\6\d{4}|0[1-9]\d\d([- ])\d{2}\7\d{4}|0[1-9]\d{3}([- ])\d\8\d{4}"
    r"|(?:0[1-9]|0[1-9]\d|0[1-9]\d\d|0[5789]0)\(\d{2,4}\)\d{4}"
    r"|\(0[1-9]\d{0,3}\) ?\d{1,4}[- ]\d{4}"
    r"|0[789]0[1-9]\d{7}"
    r")(?![\w-])(?!\.\d)"
)
_AMERICAN = re.compile(
    r"(?<![\w.+=#/$)-])(?<!\d[ (])(?:(?:\\+|00)?1[ .-])?"
    rf"(?:\([2-9]\d\d\)[ ]?[2-9]\d\d[ .-]\d{{4}}|[2-9]\d\d([-.])[2-9]\d\d\1\d{{4}}){_EXTENSION}"
)
_NATIONAL = re.compile(r"(?<![\w.+=#/$-])\(?\d{2,5}\)?(?:[ .()/-]{0,2}\d{2,8}){0,4}(?![\w-])(?!\.\d)")
_COUNTRY_CODES = re.compile(
    r"1|7|2(?:0|7|[1-6]\d|9[01789])|3(?:[0-469]|5\d|7\d|8[0-79])|4(?:[013-9]|2[013])|5(?:[1-8]|0\d|9\d)|6(?:[0-6]|[7-9]\d)"
    r"|8(?:[1246]|0[08]|5\d|7[08]|8[0-368])|9(?:[0-58]|6\d|7\d|9[2-68])"
)
_CARD = re.compile(
    r"(?<![\w.+=#*^-])(?<!\d )"
    r"(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5})(?![\w*^-])(?!\.\d)(?! \d)"
)
_CARD_WORDS = re.compile(r"\b(?:cards?|credit|debit|visa|mastercard|unionpay)\b|カード|クレジット", re.IGNORECASE)
_CARD_ISSUERS = re.compile(
    r"(?P<sure>4\d{15}|5[1-5]\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|62\d{14})"
    r"|4\d{12}|4\d{18}|62\d{15,17}|(?:2131|1800)\d{11}|(?:50[123]\d|58\d\d|6304|67\d\d)\d{8,15}"
)
_MY_NUMBER = re.compile(r"(?<![\w.+=#-])(?<!\d )(?:\d{12}|\d{4}([ -])\d{4}\1\d{4})(?![\w-])(?!\.\d)(?! \d)")
_MY_NUMBER_WORDS = re.compile(r"マイ・?ナンバー|個人番号|通知カード|my ?number\b|individual number", re.IGNORECASE)
_JAPANESE_LETTER = re.compile(r"[\u3041-\u30fa\u4e00-\u9fff]")
_SURROUNDINGS = 200
_SOCIAL_SECURITY = re.compile(
    r"(?<![\w.+=#-])(?<!\d[ -])(?!000|666|9)\d{3}([- ])(?!00)\d\d\1(?!0000)\d{4}(?![\w-])(?!\.\d)"
)
# Country to length (SWIFT's IBAN registry, release 99).
_IBAN_ENTRIES = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
    "YE30"
)
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBAN_ENTRIES.split()}
_NOT_DIGITS = re.compile(r"\D")


def find(plain: str, text: str, start: int, end: int, kinds: frozenset[str]) -> Iterator[Finding]:
    """Numbers in a candidate, groups of digits with at most three separators between them."""
    low, high = max(0, start - 2), end + 12  # a bracket or plus before, an extension after
    before = text[max(0, start - _CONTEXT) : start]
    if "payment_card" in kinds:
        yield from _cards(plain, text, start, end + 2)
    if "my_number" in kinds:
        yield from _my_numbers(plain, text, start, end + 2)
    if "social_security_number" in kinds:
        for match in _SOCIAL_SECURITY.finditer(plain, start, end + 2):
            yield "social_security_number", match.start(), match.end()
    if "phone" in kinds and not _IDENTIFIERS.search(before):
        yield from _phones(plain, text, low, high, start)


def _phones(plain: str, text: str, low: int, high: int, start: int) -> Iterator[Finding]:
    found = False
    for match in _INTERNATIONAL.finditer(plain, low, high):
        number, end = match[1], match.end()
        digits = _NOT_DIGITS.sub("", number)
        while len(digits) > 15 and " " in number:  # another number follows
            number = number.rpartition(" ")[0]
            digits, end = _NOT_DIGITS.sub("", number), match.start() + len(number)
        code = _COUNTRY_CODES.match(digits)
        # Where the country's code has three digits, the number may have five; where it has one, it has ten.
        shortest = {1: 11, 2: 9, 3: 8}[code.end()] if code else 99
        if shortest <= len(digits) <= (11 if shortest == 11 else 15):
            found = True
            yield "phone", match.start(), end
    for pattern in (_JAPANESE, _AMERICAN):
        for match in pattern.finditer(plain, low, high):
            found = True
            yield "phone", match.start(), match.end()
    if found or not _PHONE_WORDS.search(text, max(0, start - _CONTEXT), start):
        return
    for match in _NATIONAL.finditer(plain, low, high):
        digits = _NOT_DIGITS.sub("", match.group())
        if 9 <= len(digits) <= 12 or (
            len(digits) >= 7 and _SHORT.search(text, max(0, start - _CONTEXT), match.start())
        ):
            yield "phone", match.start(), match.end()


def _cards(plain: str, text: str, start: int, end: int) -> Iterator[Finding]:
    for match in _CARD.finditer(plain, start, end):
        digits = _NOT_DIGITS.sub("", match.group())
        issuer = _CARD_ISSUERS.fullmatch(digits)
        if issuer is None or not luhn(digits):
            continue
        if issuer["sure"] or _CARD_WORDS.search(text, max(0, match.start() - _CONTEXT), match.start()):
            yield "payment_card", match.start(), match.end()


def _my_numbers(plain: str, text: str, start: int, end: int) -> Iterator[Finding]:
    for match in _MY_NUMBER.finditer(plain, start, end):
        low, high = match.span()
        if not my_number(_NOT_DIGITS.sub("", match.group())):
            continue
        likely = bool(_MY_NUMBER_WORDS.search(text, max(0, low - _CONTEXT), low))
        if match[1] and not likely and not _IDENTIFIERS.search(text[max(0, low - _CONTEXT) : low]):
            # Every ninth row of groups has a right check digit, but in Japanese text there are few such rows.
            likely = bool(_JAPANESE_LETTER.search(text, max(0, low - _SURROUNDINGS), high + _SURROUNDINGS))
        if likely:
            yield "my_number", low, high


def find_iban(plain: str, start: int) -> Iterator[Finding]:
    """An IBAN whose country code stands at ``start``, in one piece or in groups of four."""
    length = _IBAN_LENGTHS.get(plain[start : start + 2], 0)
    end = start + length
    if plain[start + 4 : start + 5] == " ":
        end += (length - 1) // 4
        if any(plain[place : place + 1] != " " for place in range(start + 4, end, 5)):
            return
    compact = plain[start:end].replace(" ", "")
    if length and len(compact) == length and compact.isalnum() and not plain[end : end + 1].isalnum() and iban(compact):
        yield "iban", start, end


def luhn(digits: str) -> bool:
    """Whether the last digit is right (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) << (index & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def my_number(digits: str) -> bool:
    """Whether the last of 12 digits is right (Japan, ordinance 85 of 2014 of the MIC, article 5)."""
    weighted = sum(
        int(digit) * weight for digit, weight in zip(digits, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2), strict=False)
    )
    rest = weighted % 11
    return int(digits[11]) == (0 if rest <= 1 else 11 - rest)


def iban(compact: str) -> bool:
    """Whether the check digits are right (ISO 13616, ISO/IEC 7064 MOD 97-10)."""
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1
