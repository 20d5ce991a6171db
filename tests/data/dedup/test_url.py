from pathlib import Path

import pytest

from global_steps import cut, make, run
from tatara.data.dedup.url import normal_url
from tatara.data.document import Document


@pytest.mark.parametrize(
    "urls",
    [
        [
            "http://example.com",
            "https://www.example.com/",
            "HTTPS://EXAMPLE.com:443/#top",
            "example.com",
            "//example.com",
        ],
        ["http://e.org/a?b=1&a=2", "http://e.org/a/?a=2&b=1&utm_source=x&fbclid=3", "http://user:pw@e.org/a?a=2&&b=1"],
        ["http://e.org/%7Eme/ü", "http://e.org/~me/%C3%BC", "http://e.org/%7eme/%c3%bc;jsessionid=7"],
        ["http://e.org:8080/x", "https://www2.e.org:8080/x//"],
    ],
)
def test_spellings_of_one_address(urls: list[str]) -> None:
    assert len({normal_url(url) for url in urls}) == 1, [normal_url(url) for url in urls]


def test_different_addresses_stay_apart() -> None:
    urls = [
        "http://e.org/a",
        "http://e.org/A",
        "http://e.org/a?x=1",
        "http://e.org/a?x=2",
        "http://f.org/a",
        "e.org:81/a",
    ]
    urls += [
        "http://e.org/a?x=1%26y=2",
        "http://e.org/a?x=1&y=2",
        "http://e.org/a%2541",
        "http://e.org/aA",
        "http://[::1",
    ]
    urls += ["http://e.org/\ud800", "http://e.org/\x00", ""]
    assert len({normal_url(url) for url in urls}) == len(urls)
    assert normal_url("http://e.org/a?x=1", strip_query=True) == normal_url("http://e.org/a")


def test_the_newest_version_stays_and_what_has_no_address(tmp_path: Path) -> None:
    urls = ["http://e.org/a", "https://e.org/a/", None, None, "http://e.org/b"]
    made = [
        Document(id=f"d{i}", text="t", source="s", url=url, metadata={"date": 2000 + i}) for i, url in enumerate(urls)
    ]
    verdicts, figures = run(make("url_dedup", tmp_path, keep="newest", keep_by="date"), cut(made, 2))
    assert [each.kept_id if each else None for each in verdicts] == ["d1", None, None, None, None]
    assert verdicts[0] is not None
    assert verdicts[0].reason == "url_dedup.keep"
    assert figures["documents"] == 3
