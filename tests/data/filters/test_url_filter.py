import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.data.document import Document
from tatara.data.filters.addresses import address_key, split_address, with_parents
from tatara.data.filters.config import UrlFilterConfig
from tatara.data.filters.url_filter import UrlFilter
from tatara.errors import DataError


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    (folder / "adult").mkdir(parents=True)
    (folder / "domains.txt").write_text("# ours\nbad.example\nBÜCHER.example\n*.wild.example\n\n", encoding="utf-8")
    (folder / "hosts").write_text("127.0.0.1 localhost\n0.0.0.0 ads.example tracker.example # two\n", encoding="utf-8")
    (folder / "urls.txt.gz").write_bytes(gzip.compress(b"https://www.fine.example/worst/#top\nfine.example/a?b=1\n"))
    (folder / "adult" / "domains").write_text("10.1.2.3\nxxx.example\n", encoding="utf-8")
    (folder / "adult" / "urls").write_text("blog.example/~adult\n", encoding="utf-8")
    (folder / "strict").write_text("casino\n", encoding="utf-8")
    (folder / "soft").write_text("cheap\npills\nloan\n", encoding="utf-8")
    (folder / "substrings").write_text("free-money\n", encoding="utf-8")
    (folder / "allow").write_text("good.bad.example\n", encoding="utf-8")
    return folder


def step(lists: Path, tmp_path: Path, **values: Any) -> UrlFilter:
    given = {
        "domains": (str(lists / "domains.txt"), str(lists / "hosts")),
        "urls": (str(lists / "urls.txt.gz"),),
        "categories": (str(lists / "adult"),),
        "strict_words": (str(lists / "strict"),),
        "soft_words": (str(lists / "soft"),),
        "substrings": (str(lists / "substrings"),),
        "allow": (str(lists / "allow"),),
    }
    made = UrlFilter(UrlFilterConfig(**(given | values)), tmp_path / "work")
    made.prepare()
    return made


CASES = {
    None: None,
    "": None,
    "https://fine.example/": None,
    "https://bad.example/page": "domains",
    "HTTP://User:pw@Very.Deep.BAD.example.:8080/x": "domains",
    "bad.example": "domains",
    "https://notbad.example/": None,
    "https://bad.example.org/": None,
    "https://good.bad.example/casino": None,
    "https://also.good.bad.example/": None,
    "https://bücher.example/": "domains",
    "https://xn--bcher-kva.example/": "domains",
    "https://a.wild.example/": "domains",
    "https://tracker.example": "domains",
    "http://localhost/": None,
    "http://10.1.2.3/": "domains",
    "https://m.xxx.example": "domains",
    "http://fine.example/worst": "urls",
    "http://fine.example/worst/more": None,
    "https://www.fine.example/a?b=1#c": "urls",
    "https://fine.example/a?b=2": None,
    "https://blog.example/~adult/": "urls",
    "https://fine.example/online-Casino/1": "strict_words",
    "https://fine.example/casinos": None,
    "https://fine.example/cheap-cheap-cheap": None,
    "https://cheap.example/pills.html": "max_soft_words",
    "https://fine.example/getfree_MONEY.now": "substrings",
    "http://[::1]:80/": None,
    "http://\ud800.example/\x00": None,
}


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_addresses(lists: Path, tmp_path: Path, batch: int) -> None:
    made = step(lists, tmp_path)
    documents = [Document(str(place), "", "s", url=url) for place, url in enumerate(CASES)]
    verdicts = []
    for start in range(0, len(documents), batch):
        verdicts += made.apply(documents[start : start + batch])
    found = {document.url: verdict and verdict.reason for document, verdict in zip(documents, verdicts, strict=True)}
    assert found == {url: key and f"url_filter.{key}" for url, key in CASES.items()}


def test_what_was_prepared_is_read_not_made_again(lists: Path, tmp_path: Path) -> None:
    step(lists, tmp_path)
    config = UrlFilterConfig(domains=(str(lists / "gone.txt"),))
    verdicts = UrlFilter(config, tmp_path / "work").apply([Document("x", "", "s", url="https://bad.example/")])
    assert [verdict and verdict.reason for verdict in verdicts] == ["url_filter.domains"]


def test_missing_lists_are_named(lists: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no list at .*gone\.txt"):
        step(lists, tmp_path, domains=(str(lists / "gone.txt"),))
    with pytest.raises(DataError, match=r"no directory of lists at .*nowhere"):
        step(lists, tmp_path, categories=(str(lists / "nowhere"),))


@given(st.text(max_size=40))
def test_any_text_is_an_address(text: str) -> None:
    host, rest = split_address(text)
    assert "#" not in rest
    assert with_parents(host)[0] == host
    assert address_key("http://" + address_key("https://" + text)) == address_key(address_key("https://" + text))


def test_many_domains(tmp_path: Path) -> None:
    path = tmp_path / "many"
    path.write_text("".join(f"site{number}.example\n" for number in range(0, 200_000, 2)), encoding="utf-8")
    made = UrlFilter(UrlFilterConfig(domains=(str(path),)), tmp_path / "work")
    made.prepare()
    documents = [Document(str(n), "", "s", url=f"https://www.site{n}.example/") for n in range(20_000)]
    assert [verdict is not None for verdict in made.apply(documents)] == [n % 2 == 0 for n in range(20_000)]
