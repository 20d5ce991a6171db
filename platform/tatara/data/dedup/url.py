"""Deduplication by URL: documents from the same address."""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

import xxhash

from tatara.data.dedup.documents import encode
from tatara.data.dedup.exact import KeyCollector, KeyDeduplication
from tatara.data.document import Document
from tatara.data.steps import Collector

# Parameters by which sites follow visitors; what they serve does not depend on them.
_TRACKING = re.compile(
    r"(utm_[^=]*|gclid|gclsrc|dclid|gbraid|wbraid|fbclid|msclkid|yclid|twclid|ttclid|igshid|mc_cid|mc_eid|_ga|_gl|"
    r"_hsenc|_hsmi|mkt_tok|vero_id|oly_anon_id|oly_enc_id|wickedid|s_cid|ref_src|ref_url|spm|phpsessid|jsessionid|"
    r"sessionid|sid)$",
    re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}
_SESSION = re.compile(r";jsessionid=[^/?]*", re.IGNORECASE)
_PATH_SAFE = "!$&'()*+,;=:@/~-._"
_QUERY_SAFE = "!$'()*,;=:@/?~-._"


def normal_url(url: str, strip_query: bool = False) -> str:
    """An address as deduplication compares it.

    Without scheme, user, ``www.``, the scheme's own port, fragment, session, parameters that track visitors and
    trailing slashes; host in lower case, escapes in one spelling, parameters sorted.
    """
    stripped = url.strip()
    try:
        parts = urlsplit(
            stripped if "://" in stripped else f"http:{stripped}" if stripped.startswith("//") else f"http://{stripped}"
        )
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return stripped
    host = re.sub(r"^www\d?\.", "", host)
    if port and port != _PORTS.get(parts.scheme.lower()):
        host = f"{host}:{port}"
    path = _spelled(_SESSION.sub("", parts.path), _PATH_SAFE).rstrip("/")
    fields = [] if strip_query else [field for field in parts.query.split("&") if field]
    fields = [field.replace("+", "%20") for field in fields if not _TRACKING.match(field.split("=", 1)[0])]
    query = "&".join(sorted(_spelled(field, _QUERY_SAFE) for field in fields))
    return f"{host}{path}?{query}" if query else f"{host}{path}"


def _spelled(text: str, safe: str) -> str:
    # Bytes, so that lone surrogates and escapes that are no UTF-8 survive.
    return quote(unquote_to_bytes(encode(text)), safe=safe)


class _UrlCollector(KeyCollector):
    def chosen(self, documents: Sequence[Document]) -> Sequence[Document]:
        return [document for document in documents if document.url]

    def digests(self, documents: Sequence[Document]) -> list[bytes]:
        strip = self.config.strip_query
        return [xxhash.xxh3_128_digest(encode(normal_url(document.url or "", strip))) for document in documents]


class UrlDedup(KeyDeduplication):
    """One document per URL; documents without one stay."""

    def collector(self, shard: int) -> Collector:
        """Hashes of URLs."""
        return _UrlCollector(self.config, self.directory, shard)

    def parameters(self) -> dict[str, Any]:
        """How URLs are compared."""
        return {"strip_query": self.config.strip_query}
