"""API keys, tokens and private keys at candidate places of a text in ASCII (`scan.plain`)."""

import math
import re
from collections import Counter
from collections.abc import Iterator

_MAX_SECRET = 2048
# Shapes that the services themselves document for their secret scanning partners.
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}"  # Amazon Web Services
    r"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"  # GitHub
    r"|glpat-[A-Za-z0-9_-]{20,64}"  # GitLab
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{20,250}"  # Slack
    r"|AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}"  # Google
    r"|sk-ant-[A-Za-z0-9_-]{20,200}|sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,250}|sk-[A-Za-z0-9]{32,64}"
    r"|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,247}|whsec_[A-Za-z0-9+/]{24,64}"  # Stripe
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}|hf_[A-Za-z]{34}"  # registries
    r")(?![A-Za-z0-9])"
)
_DOTTED = re.compile(
    r"(?<![A-Za-z0-9])(?:eyJ[A-Za-z0-9_-]{8,1000}\.eyJ[A-Za-z0-9_-]{8,1000}\.[A-Za-z0-9_-]{8,700}"  # RFC 7519
    r"|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}|ya29\.[A-Za-z0-9_-]{20,500})"
)
_ASSIGNED = re.compile(
    r"(?:api[_ -]?(?:key|token|secret)|secret[_ -]?(?:access[_ -]?)?(?:key|token)?"
    r"|access[_ -]?(?:key|token)(?:[_ -]?id)?|auth(?:entication)?[_ -]?(?:key|token)|client[_ -]?secret"
    r"|(?:consumer|encryption|private|signing)[_ -]?(?:key|secret)"
    r"|bearer|password|passwd|pwd|(?<!publickey)(?<!public_key_)token)"
    r"[\"'`\])]{0,2}(?:\s{0,3}(?::=|=>|[:=]|\bis\b)\s{0,3}|\s{1,3})(?:bearer\s)?[\"'`]{0,2}$",
    re.IGNORECASE,
)
_CONTEXT = 48
_VALUE = re.compile(r"[A-Za-z0-9_+/-]{16,512}={0,2}")
_PLACEHOLDER = re.compile(
    r"your|example|placeholder|change_?me|insert|dummy|sample|x{5}|0{6}|1234567890?$|abcdef", re.IGNORECASE
)
_HEXADECIMAL = re.compile(r"[0-9a-f-]+|[0-9A-F-]+")
_HEADER = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_FOOTER = re.compile(r"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_MIN_ENTROPY, _MIN_HEXADECIMAL_ENTROPY = 3.5, 2.8


def find_token(plain: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Secrets that are, or begin in, a long token."""
    high = min(end, start + _MAX_SECRET)
    found = False
    for match in _SHAPES.finditer(plain, start, min(len(plain), high + 1)):
        if _random(match.group()):
            found = True
            yield "secret", match.start(), match.end()
    if found:
        return
    dotted = _DOTTED.match(plain, start, start + 2 * _MAX_SECRET)
    if dotted is None and plain[max(0, start - 3) : start] == "SG.":
        dotted = _DOTTED.match(plain, start - 3, start + _MAX_SECRET)
    if dotted is None and plain[max(0, start - 5) : start] == "ya29.":
        dotted = _DOTTED.match(plain, start - 5, start + _MAX_SECRET)
    if dotted is not None:
        yield "secret", dotted.start(), dotted.end()
        return
    if _ASSIGNED.search(plain, max(0, start - _CONTEXT), start):
        value = _VALUE.match(plain, start)
        if value is not None and value.end() >= end and _random(value.group()):
            yield "secret", start, value.end()


class KeyBlocks:
    """Private keys in PEM or OpenPGP armour; each footer is looked for once, so that time stays linear."""

    def __init__(self, plain: str) -> None:
        self.plain = plain
        self.footer_end = 0
        self.last = False

    def find(self, start: int) -> Iterator[tuple[str, int, int]]:
        """The key whose armour begins at ``start``; without a footer, its header. Call with ascending starts."""
        header = _HEADER.match(self.plain, start)
        if header is None:
            return
        if self.footer_end < header.end() and not self.last:
            footer = _FOOTER.search(self.plain, header.end())
            self.last = footer is None
            self.footer_end = footer.end() if footer else 0
        yield "secret", start, self.footer_end if self.footer_end > header.end() else header.end()


def entropy(value: str) -> float:
    """Shannon entropy of the characters, in bits for each."""
    total = len(value)
    return -sum(count / total * math.log2(count / total) for count in Counter(value).values())


def _random(value: str) -> bool:
    """Whether a string looks drawn at random, not written."""
    if _PLACEHOLDER.search(value):
        return False
    least = _MIN_HEXADECIMAL_ENTROPY if _HEXADECIMAL.fullmatch(value) else _MIN_ENTROPY
    if entropy(value) < least:
        return False
    digits = sum(map(str.isdigit, value))
    return digits >= 2 or (value.startswith("hf_") and not value.islower())
