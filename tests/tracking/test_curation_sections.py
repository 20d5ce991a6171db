import html
import re
import time

from hypothesis import given
from hypothesis import strategies as st

from tatara.tracking.curation_sections import contamination, curves, differences, duplicate_clusters, histograms
from tatara.tracking.limits import LEVELS
from tatara.tracking.markup import Markup, escape

LIMITS = LEVELS[0]
words = st.text(alphabet=st.sampled_from("ab<&>\"' \n日本語が。é"), max_size=80)


def marked(text: Markup) -> list[str]:
    return [html.unescape(part) for part in re.findall("<mark>(.*?)</mark>", text, re.S)]


def plain(text: Markup) -> str:
    return html.unescape(re.sub("</?mark>", "", text))


@given(words, words)
def test_differences_lose_no_text_and_let_no_markup_through(one: str, other: str) -> None:
    for text, shown in zip((one, other), differences(one, other), strict=True):
        assert plain(shown) == html.unescape(escape(text))
        assert set(re.findall("<[^>]*>", shown)) <= {"<mark>", "</mark>"}


def test_what_only_one_has_is_marked() -> None:
    one, other = differences("The <b>old</b> mill stood here.", "The <b>new</b> mill stood here, alone.")
    assert marked(one) == ["old"]
    assert marked(other) == ["new", ", alone"]
    first, second = differences("猫は庭で寝た。", "犬は庭で寝た。")
    assert (marked(first), marked(second)) == (["猫"], ["犬"])
    assert marked(differences("same", "same")[0]) == []


def test_differences_of_hostile_texts_stay_cheap() -> None:
    started = time.process_time()
    for one, other in (
        ("a " * 600, "a " * 599),
        ("ab" * 600, "ba" * 600),
        ("あ" * 1200, "あ" * 1100),
        ("." * 1200, ""),
    ):
        differences(one, other)
    assert time.process_time() - started < 10


def test_bars_are_as_long_as_their_values() -> None:
    bars = [{"label": "en", "value": 400}, {"label": "ja", "value": 100}, {"label": "de", "value": 0}, {"label": "x"}]
    drawn = str(histograms([{"title": "Languages", "unit": "documents", "bars": bars}]))
    assert re.findall(r"height:([\d.]+)%", drawn) == ["100", "25", "0"]
    assert 'title="ja: 100 documents"' in drawn
    rows = str(histograms({"bars": [{"label": "a long name of a source", "value": 8}, {"label": "b", "value": 2}]}))
    assert re.findall(r"width:([\d.]+)%", rows) == ["100", "25"]
    log = str(histograms({"log": True, "bars": [{"label": "a", "value": 999}, {"label": "b", "value": 9}]}))
    assert "logarithmic" in log
    assert re.findall(r"height:([\d.]+)%", log) == ["100", "33.33"]
    assert histograms([{"bars": []}, {"bars": "x"}, 3]) is None


def test_many_bars_have_few_labels_that_fit_the_columns() -> None:
    drawn = str(histograms({"bars": [{"label": str(2**i), "value": i} for i in range(20)]}))
    spans = [int(width) for width in re.findall(r"grid-column:span (\d+)", drawn)]
    assert drawn.count("<li") == 20
    assert len(spans) <= 8
    assert sum(spans) <= 20
    assert str(histograms({"bars": [{"label": "1", "value": 1}] * 75})).count("<li") == 60


def test_clusters_show_copies_beside_what_was_kept() -> None:
    removed = [{"id": "b", "similarity": 0.875, "reason": "fuzzy_dedup.threshold", "excerpt": "one three"}]
    example = {"cluster": "c1", "copies": 4, "kept": {"id": "a", "excerpt": "one two"}, "removed": removed}
    drawn = str(duplicate_clusters({"sizes": [{"label": "2", "value": 3}], "examples": [example, {"kept": 3}]}, LIMITS))
    assert drawn.count('class="pair"') == 1
    for expected in ("4 copies", "fuzzy_dedup.threshold", "similarity 0.875", "<mark>two</mark>", "<mark>three</mark>"):
        assert expected in drawn
    assert duplicate_clusters([], LIMITS) is None


def test_a_curve_is_described_with_its_marks() -> None:
    report = {
        "title": "Missed", "x": "similarity", "y": "share",
        "series": [{"name": "expected", "points": [[1.0, 0.0], [0.0, 1.0], ["x", 2], [0.5]]}, {"name": "none"}],
        "marks": [{"x": 0.8, "label": "threshold"}, {"x": 7, "label": "outside"}],
    }  # fmt: skip
    drawn = str(curves(report, "curate", LIMITS))
    assert "Missed in share: expected goes from 1 at similarity 0 to 0 at similarity 1" in drawn
    assert "threshold is at similarity 0.8" in drawn
    assert "outside" not in drawn
    assert curves([{"series": []}, 1], "curate", LIMITS) is None


def test_matches_stand_beside_the_items_they_match() -> None:
    example = {"benchmark": "gsm8k", "item": "i7", "document": "d9", "overlap": 0.8, "start": 1200}
    example |= {"excerpt": "twelve ducks lay eggs", "item_excerpt": "sixteen ducks lay eggs"}
    table = {"title": "Items", "columns": ["benchmark", "items"], "rows": [["gsm8k", 1319]]}
    drawn = str(contamination({"table": table, "examples": [example]}, LIMITS))
    for expected in ("1,319", "i7", "d9", "80% of the item", "from character 1,200", "<mark>sixteen</mark>"):
        assert expected in drawn
    assert contamination({}, LIMITS) is None
