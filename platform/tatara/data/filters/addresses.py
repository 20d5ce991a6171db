"""Addresses (URLs) in the form in which lists and documents are compared."""

import re

_SEPARATORS = re.compile(r"[/?#\\]")
# A host name has no more characters; what has more is none, and not worth the work.
_LONGEST = 255
_PORT = re.compile(r":\d*$")


def split_address(url: str) -> tuple[str, str]:
    """Host and the rest of an address, which may lack its scheme.

    Returns:
        The host in lower case, without user, port and closing dot, in ASCII (IDNA); the rest, fragment left out.
    """
    url = url.strip()
    scheme = url.find("://")
    if 0 <= scheme <= 16:
        url = url[scheme + 3 :]
    elif url.startswith("//"):
        url = url[2:]
    found = _SEPARATORS.search(url)
    authority, rest = (url[: found.start()], url[found.start() :]) if found else (url, "")
    return host_name(_PORT.sub("", authority.rpartition("@")[2])), rest.partition("#")[0]


def host_name(name: str) -> str:
    """A host in lower case and ASCII, without closing dots."""
    name = name.strip().rstrip(".").lower()
    if name.isascii() or len(name) > _LONGEST:
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def address_key(url: str) -> str:
    """What two addresses of one page have in common: host without ``www.`` and the rest without a closing slash."""
    host, rest = split_address(url)
    return host.removeprefix("www.") + rest.rstrip("/")


def with_parents(host: str) -> list[str]:
    """A host and every domain that it belongs to, the longest first: ``a.b.example``, ``b.example``, ``example``."""
    if len(host) > _LONGEST:
        return [host]
    labels = host.split(".")
    return [".".join(labels[index:]) for index in range(len(labels))]
