"""Drops documents by their address: blocked domains, addresses, and words in addresses."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from tatara.data.document import Document, Verdict
from tatara.data.filters.addresses import address_key, host_name, split_address, with_parents
from tatara.data.filters.config_c4 import UrlFilterConfig
from tatara.data.filters.matcher import Matcher
from tatara.data.filters.word_lists import existing, read_list
from tatara.data.steps import RowStep, Verdicts

Keys = NDArray[np.uint64]
_WORD = re.compile(r"[^\W_]+")


def listed_domains(path: str | Path) -> Iterator[str]:
    """Domains of a list: one per line, or in the format of hosts files (an address, then names)."""
    for entry in read_list(path):
        names = entry.partition("#")[0].split()
        if len(names) > 1:
            # Hosts files name this machine too, as localhost and the like.
            yield from (host_name(name) for name in names[1:] if "." in name)
        elif names:
            yield host_name(names[0].removeprefix("*.").removeprefix("."))


def keys_of(names: Iterable[str]) -> Keys:
    """A key for each name; that two of ten million names share one has a probability of 3 in a million."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(name.encode("utf-8", "surrogatepass")) for name in names), np.uint64)


def contains(known: Keys, keys: Keys) -> NDArray[np.bool_]:
    """Which keys are among the known ones, which are sorted: ``[keys]``."""
    if not len(known):
        return np.zeros(len(keys), np.bool_)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[places] == keys


class UrlFilter(RowStep):
    """Looks addresses up in lists; the lists of names lie as sorted keys in files that all tasks map into memory."""

    config: UrlFilterConfig

    def __init__(self, config: UrlFilterConfig, directory: Path) -> None:
        super().__init__(config, directory)
        self._keys: dict[str, Keys] = {}
        self._strict = self._soft = frozenset[str]()
        self._substrings: Matcher | None = None

    def prepare(self) -> None:
        """Turn the lists of names into sorted keys."""
        domains = [Path(name) for name in self.config.domains]
        urls = [Path(name) for name in self.config.urls]
        for category in self.config.categories:
            domains += existing(category, "domains")
            urls += existing(category, "urls")
        self._write("domains", chain.from_iterable(map(listed_domains, domains)))
        self._write("allow", chain.from_iterable(map(listed_domains, self.config.allow)))
        self._write("urls", (address_key(entry) for path in urls for entry in read_list(path)))

    def apply(self, documents: Sequence[Document]) -> Verdicts:
        """Look up the addresses of a batch."""
        self._load()
        verdicts: Verdicts = [None] * len(documents)
        places = [place for place, document in enumerate(documents) if document.url]
        if not places:
            return verdicts
        urls = [str(documents[place].url) for place in places]
        hosts = [split_address(url)[0] for url in urls]
        allowed = self._of_domains("allow", hosts)
        blocked = self._of_domains("domains", hosts)
        exact = np.zeros(len(urls), np.bool_)
        if len(self._keys["urls"]):
            exact = contains(self._keys["urls"], keys_of(map(address_key, urls)))
        for index, place in enumerate(places):
            if allowed[index]:
                continue
            if blocked[index]:
                verdicts[place] = Verdict("url_filter.domains", 1, 0)
            elif exact[index]:
                verdicts[place] = Verdict("url_filter.urls", 1, 0)
            else:
                verdicts[place] = self._words(urls[index])
        return verdicts

    def _of_domains(self, name: str, hosts: Sequence[str]) -> NDArray[np.bool_]:
        """Which hosts are in a list of domains, or belong to one that is: ``[hosts]``."""
        if not len(self._keys[name]):
            return np.zeros(len(hosts), np.bool_)
        families = [with_parents(host) for host in hosts]
        found = contains(self._keys[name], keys_of(chain.from_iterable(families)))
        starts = np.cumsum([0, *map(len, families)])[:-1]
        return np.logical_or.reduceat(found, starts)

    def _words(self, url: str) -> Verdict | None:
        if not self._strict and not self._soft and self._substrings is None:
            return None
        words = _WORD.findall(url.lower())
        strict = len(self._strict.intersection(words))
        if strict:
            return Verdict("url_filter.strict_words", strict, 0)
        soft = len(self._soft.intersection(words))
        if soft > self.config.max_soft_words:
            return Verdict("url_filter.max_soft_words", soft, self.config.max_soft_words)
        if self._substrings is not None:
            inside = self._substrings.count("".join(words))
            if inside:
                return Verdict("url_filter.substrings", inside, 0)
        return None

    def _write(self, name: str, names: Iterable[str]) -> None:
        path = self.directory / f"{name}.npy"
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.save(file, np.unique(keys_of(each for each in names if each)))
        os.replace(partial, path)

    def _load(self) -> None:
        if self._keys:
            return
        for name in ("domains", "allow", "urls"):
            path = self.directory / f"{name}.npy"
            if not path.exists():
                self.prepare()
            self._keys[name] = np.load(path, mmap_mode="r")
        config = self.config
        self._strict = frozenset(word.lower() for path in config.strict_words for word in read_list(path))
        self._soft = frozenset(word.lower() for path in config.soft_words for word in read_list(path))
        if config.substrings:
            parts = ("".join(_WORD.findall(entry.lower())) for path in config.substrings for entry in read_list(path))
            self._substrings = Matcher(parts, whole=False)
