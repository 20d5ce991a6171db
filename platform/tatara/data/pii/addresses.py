"""E-mail and IP addresses at candidate places of a text in ASCII (`scan.plain`)."""

import ipaddress
import re
from collections.abc import Iterator

_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-")
_MAX_LOCAL, _MAX_DOMAIN = 64, 255  # RFC 5321, section 4.5.3.1
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z]{2,18})(?![A-Za-z0-9-]*[A-Za-z0-9])(?!\()"
)
# Longer than two letters; those of two letters stand for countries.
_TOP_LEVEL_NAMES = (
    "com org net edu gov mil int info biz name pro aero coop museum jobs mobi tel travel cat asia post xxx xyz "
    "online site website web app dev cloud tech technology store shop blog club top live life news media email "
    "digital agency design studio space world today systems solutions services support software network page "
    "work works company group global international center centre consulting academy school university college "
    "education foundation ngo ong health care clinic bank finance capital fund law legal lawyer art arts photo "
    "photography video music games game fun one vip icu link click tokyo osaka kyoto nagoya yokohama okinawa "
    "berlin hamburg london paris wien nyc moscow eus gal scot wales swiss africa hotel restaurant house land "
    "city town earth eco bio green energy engineering science social community events church"
)
_TOP_LEVEL = frozenset(_TOP_LEVEL_NAMES.split())
_FILES = frozenset(("js", "ts", "gz", "md"))
_REPOSITORY = re.compile(r"(?:git|hg|svn)\Z")
_VERSION = re.compile(
    r"(?:version|ver|v|release|rev|revision|build|firmware|§|section|chapter|identifier|oid|バージョン)\W{0,3}$",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\b(?:ip|ipv4|address|addr|host|server|gateway|dns|ping|nameserver)\b|アドレス", re.IGNORECASE)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.-]){_OCTET}(?:\.{_OCTET}){{3}}(?![\w-])(?!\.\d)")
_MIN_OCTET = 32
_CONTEXT = 30


def find_email(plain: str, at: int, public_domains: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """The e-mail address around an ``@``."""
    domain = _DOMAIN.match(plain, at + 1, at + 1 + _MAX_DOMAIN)
    if domain is None:
        return
    top = domain[1].lower()
    if top in _FILES or (len(top) > 2 and top not in _TOP_LEVEL):
        return
    start = at
    low = max(0, at - _MAX_LOCAL - 1)
    while start > low and plain[start - 1] in _LOCAL:
        start -= 1
    while start < at and plain[start] in ".-%+":
        start += 1
    if not 1 <= at - start <= _MAX_LOCAL or plain[at - 1] == "." or plain[start - 1 : start] == "@":
        return
    host = domain.group().lower()
    if any(host == public or host.endswith("." + public) for public in public_domains):
        return
    # git@host:path names a repository, not a person.
    if plain[domain.end() : domain.end() + 1] in (":", "/") and _REPOSITORY.fullmatch(plain, start, at):
        return
    yield "email", start, domain.end()


def find_ipv4(plain: str, text: str, start: int, end: int, private: bool) -> Iterator[tuple[str, int, int]]:
    """IPv4 addresses in groups of digits; not numbers of versions and sections.

    Four numbers below 32 are an address only beside a word that says so: of all addresses one in 4,096 is such, of
    numbers of sections nearly all are.
    """
    for match in _IPV4.finditer(plain, start, end + 2):
        before = text[max(0, match.start() - _CONTEXT) : match.start()]
        if _VERSION.search(before):
            continue
        if max(map(int, match.group().split("."))) < _MIN_OCTET and not _ADDRESS.search(before):
            continue
        if private or ipaddress.IPv4Address(match.group()).is_global:
            yield "ip_address", match.start(), match.end()


def find_ipv6(plain: str, start: int, end: int, private: bool) -> Iterator[tuple[str, int, int]]:
    """The IPv6 address that a run of hexadecimal digits and colons is, in a range that is in use (RFC 4291)."""
    if plain[start - 1 : start].isalnum() or plain[end : end + 1].isalnum():
        return
    while plain[end - 1] == ":" and plain[end - 2] != ":":
        end -= 1
    try:
        address = ipaddress.IPv6Address(plain[start:end])
    except ValueError:
        return
    unicast = address in _GLOBAL_UNICAST and address.is_global
    if unicast or (private and (address in _GLOBAL_UNICAST or address.is_link_local or address in _UNIQUE_LOCAL)):
        yield "ip_address", start, end


_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")
