import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.errors import StorageError
from tatara.tracking import RunRecord, StageRecord, render_report, write_report
from tatara.tracking.report import MOST_BYTES
from tracking.run_records import HOSTILE, START, curate, full_run

VOID = {"meta", "link", "input", "br", "hr", "img"}


class Page(HTMLParser):
    """Checks that elements nest, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"attribute twice in {tag}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def failed_run() -> RunRecord:
    tokenize = StageRecord("tokenize", "tokens", "failed", 3.0, log_tail="reading\nDataError: the corpus is empty\n")
    return replace(full_run(), status="failed", address=None, stages=[curate(), tokenize], environment={}, command="")


def running_run() -> RunRecord:
    stages = [curate(), StageRecord("pretrain", "checkpoint", "running", None, START)]
    return replace(full_run(), status="running", finished=None, stages=stages)


RUNS = {
    "full": full_run(),
    "hostile": full_run(HOSTILE),
    "failed": failed_run(),
    "running": running_run(),
    "empty": RunRecord("quickstart", "0", START, "running"),
    "one step": full_run(steps=1),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_page_is_well_formed_and_its_references_resolve(name: str) -> None:
    text = render_report(RUNS[name])
    assert text.startswith("<!doctype html>\n<html lang=")
    page = Page(text)
    identities = page.values("id")
    assert len(identities) == len(set(identities))
    for anchor in page.values("href"):
        assert anchor == "data:," or anchor[1:] in identities
    for reference in [*page.values("aria-labelledby"), *page.values("for")]:
        assert reference in identities
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_loaded_from_anywhere(name: str) -> None:
    text = render_report(RUNS[name])
    page = Page(text)
    for attribute in ("src", "href", "srcset", "data", "action", "xlink:href"):
        assert not [value for value in page.values(attribute) if re.match(r"\s*(https?:)?//", value)]
    assert not page.values("src")
    styles = " ".join(re.findall(r"<style>(.*?)</style>", text, re.S) + page.values("style"))
    assert "url(" not in styles
    assert "@import" not in styles
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\b", " ".join(page.scripts))


def test_a_corpus_cannot_put_anything_into_the_page() -> None:
    honest, hostile = Page(render_report(full_run("plain"))), Page(render_report(full_run(HOSTILE)))
    # The same elements with the same attributes (but for what describes the text): no markup of the user's got through.
    assert [tag for tag, _ in honest.elements] == [tag for tag, _ in hostile.elements]
    assert [sorted(names) for _, names in honest.elements] == [sorted(names) for _, names in hostile.elements]
    assert not [name for _, attributes in hostile.elements for name in attributes if name.startswith("on")]
    assert honest.scripts == hostile.scripts
    assert len(hostile.scripts) == 1
    # And it is all there to be read.
    assert hostile.text.count("<script>window.pwned=1</script>") > 10


def test_the_policy_allows_the_pages_own_script_and_nothing_else() -> None:
    page = Page(render_report(full_run()))
    (policy,) = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}=';", policy)


def test_what_is_known_about_a_run_is_in_its_report() -> None:
    text = Page(render_report(full_run())).text
    for expected in (
        "quickstart",
        "5 min 10 s",
        "http://127.0.0.1:8000/v1",
        "2.1 M",
        "3.019",
        "1,000",
        "exact duplicate",
        "40.0%",
        "C An honest document.",
        "3.40e-06",
        "minhash.threshold",
        "fcde2b2edba5",
        "16.0 GiB",
        "2.13.0",
        "reused",
        "Learning rate",
        "Throughput",
        "Gradient norm",
        "validation",
        "Benchmark items in the corpus",
        "75% of the item",
        "similarity 0.91",
        "logarithmic scale",
    ):
        assert expected in text, expected


def test_charts_say_what_they_show_without_scripts() -> None:
    page = Page(render_report(full_run()))
    labels = [
        attributes["aria-label"] for tag, attributes in page.elements if tag == "svg" and "aria-label" in attributes
    ]
    assert any(label.startswith("Loss in nats per token: training goes from") for label in labels)
    assert any(label.startswith("Lineage: ") for label in labels)
    assert sum(tag == "path" for tag, _ in page.elements) > 5


def test_a_failed_run_names_the_stage_and_its_last_words() -> None:
    page = Page(render_report(failed_run()))
    assert "Stage tokenize failed. DataError: the corpus is empty" in page.text
    opened = [attributes for tag, attributes in page.elements if tag == "details" and "open" in attributes]
    assert opened


def test_an_interrupted_run_names_the_stage() -> None:
    stage = StageRecord("pretrain", "checkpoint", "interrupted", 9.0, START, log_tail="step 10 of 600")
    page = Page(render_report(replace(full_run(), status="interrupted", stages=[curate(), stage])))
    assert "Stage pretrain was interrupted. step 10 of 600" in page.text


def test_numbers_that_are_not_finite_are_mentioned_not_drawn() -> None:
    rows = [{"step": step, "train.loss": math.nan if step > 5 else 1.0 / step} for step in range(1, 9)]
    rows += [{"step": 1, "train.gradient_norm": math.inf}]
    text = render_report(replace(full_run(), stages=[StageRecord("pretrain", "checkpoint", "done", 1.0, series=rows)]))
    assert "3 values are not finite" in text
    assert "NaN" not in text


def test_a_huge_run_still_makes_a_small_page() -> None:
    long = "<&>" * 20_000
    stage = full_run(long, steps=30_000).stages
    many = [
        replace(each, name=f"{each.name}-{copy}", config={f"key{i}": long for i in range(100)}, log_tail=long)
        for copy in range(8)
        for each in stage
    ]
    run = replace(full_run(), stages=many)
    page = render_report(run)
    assert len(page.encode()) <= MOST_BYTES
    Page(page)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        *("funnel", "dropped_samples", "document_samples", "generations", "proof", "table", "other"),
        *("histograms", "duplicate_clusters", "curve", "contamination"),
    ]
)
columns = ("stages", "dropped", "documents", "bytes", "name", "reason", "columns", "rows", "title", "excerpt")
columns += ("bars", "label", "value", "sizes", "examples", "kept", "removed", "series", "points", "marks", "x", "table")
odd_rows = st.fixed_dictionaries({}, optional=dict.fromkeys(columns, json_values))


@settings(max_examples=60, deadline=None)
@given(
    reports=st.dictionaries(keys, json_values | odd_rows | st.lists(odd_rows, max_size=3), max_size=7),
    metrics=st.dictionaries(st.sampled_from(["parameters", "validation_loss", "x"]), json_values, max_size=3),
    funnel=st.fixed_dictionaries({"stages": st.lists(odd_rows, max_size=3), "dropped": st.lists(odd_rows, max_size=3)}),
)
def test_odd_reports_of_a_stage_never_cost_the_page(
    reports: dict[str, Any], metrics: dict[str, Any], funnel: dict[str, Any]
) -> None:
    stage = StageRecord("custom", "thing", "done", 1.0, reports=reports, metrics=metrics, config=reports)
    other = StageRecord("curate", "documents", "done", 1.0, reports={"funnel": funnel})
    Page(render_report(RunRecord("r", "1", START, "done", START + 2, stages=[stage, other], environment=metrics)))


def test_writing_replaces_the_file_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(failed_run(), path)
    first = path.read_text()
    write_report(full_run(HOSTILE), str(path))
    assert path.read_text() != first
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the run report"):
        write_report(full_run(), tmp_path / "file" / "report.html")
