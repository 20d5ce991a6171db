"""Extractors of main text side by side: F1 on two labelled sets, and pages per second and core.

    python tests/benchmarks/bench_extract.py [SAMPLE_DATA] [--only NAME ...] [--rounds 3]

Peers that are not installed here go into an environment of their own (made on the first run, kept for the next). Each
extractor gets the raw bytes. Time is CPU time of extraction alone, on one core; rounds alternate between extractors,
and the median of a round's pages per second counts. Tatara's F1 is given twice: as it is used, with weights that have
seen pages of these sites, and with weights that have not (held out), which is the figure to compare with.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from extract_sets import Page, article_counts, article_scores, articles, fold_of, phrase_counts, phrase_scores, phrases
from peers import python_with
from sample import sample

PEERS = (
    "trafilatura", "resiliparse", "readability-lxml", "lxml_html_clean", "justext", "goose3", "newspaper4k",
    "boilerpy3", "news-please",
)  # fmt: skip
FOLD_WEIGHTS = Path(__file__).parents[1] / "data" / "extract"
Extractor = Callable[[bytes], str | None]


def trafilatura_in(**mode: bool) -> Extractor:
    """One of trafilatura's modes."""
    import trafilatura

    return lambda content: trafilatura.extract(content, include_comments=False, include_tables=True, **mode)


def tatara() -> Extractor:
    """Ours, as a step uses it."""
    from tatara.data.extract.config import ExtractConfig
    from tatara.data.extract.pages import extract

    config = ExtractConfig()
    return lambda content: extract(content, config).text


def resiliparse() -> Extractor:
    """Its main content mode."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    return lambda content: extract_plain_text(
        HTMLTree.parse(bytes_to_str(content, detect_encoding(content))), main_content=True
    )


def _decoded(extract: Callable[[str], str | None]) -> Extractor:
    from trafilatura.utils import decode_file

    return lambda content: extract(decode_file(content))


def readability() -> Extractor:
    """readability-lxml."""
    import lxml.html
    from readability import Document

    return _decoded(lambda page: "\n".join(lxml.html.fromstring(Document(page).summary()).itertext()))


def justext() -> Extractor:
    """JusText, with the word lists of all languages."""
    import justext as library
    from trafilatura.external import jt_stoplist_init

    words = jt_stoplist_init()
    return lambda content: "\n".join(
        paragraph.text
        for paragraph in library.justext(content, words, 50, 200, 0.1, 0.2, 0.2, 200, True)
        if not paragraph.is_boilerplate
    )


def goose() -> Extractor:
    """goose3."""
    from goose3 import Goose

    library = Goose()
    return lambda content: library.extract(raw_html=content).cleaned_text


def newspaper() -> Extractor:
    """newspaper4k."""
    from newspaper import fulltext

    return fulltext


def boilerpy() -> Extractor:
    """boilerpy3's article extractor."""
    from boilerpy3 import extractors

    return _decoded(extractors.ArticleExtractor().get_content)


def newsplease() -> Extractor:
    """news-please."""
    from newsplease import NewsPlease

    return _decoded(lambda page: NewsPlease.from_html(page, url=None, fetch_images=False).maintext)


EXTRACTORS: dict[str, Callable[[], Extractor]] = {
    "tatara": tatara,
    "trafilatura": lambda: trafilatura_in(),
    "trafilatura fast": lambda: trafilatura_in(fast=True),
    "trafilatura precision": lambda: trafilatura_in(favor_precision=True),
    "trafilatura recall": lambda: trafilatura_in(favor_recall=True),
    "resiliparse": resiliparse,
    "readability-lxml": readability,
    "justext": justext,
    "goose3": goose,
    "newspaper4k": newspaper,
    "boilerpy3": boilerpy,
    "news-please": newsplease,
}


def sets(data: Path) -> tuple[list[Page], list[Page]]:
    """Both labelled sets."""
    return articles(data / "html-article-extraction-benchmark"), phrases(data / "html-trafilatura-eval")


def scores(pages: list[Page], texts: dict[str, str]) -> tuple[float, float, float]:
    """F1, precision, recall of texts, by the names of pages."""
    if pages[0].article is not None:
        return article_scores([article_counts(page, texts[page.name]) for page in pages])
    return phrase_scores([phrase_counts(page, texts[page.name]) for page in pages])


def work(name: str, data: Path) -> None:
    """Extract all pages once for every line on standard input; answer with seconds and, the first time, scores."""
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    extract = EXTRACTORS[name]()
    groups = sets(data)
    for page in groups[0][:3]:
        extract(page.content)
    for _ in sys.stdin:
        texts: dict[str, str] = {}
        failed = 0
        started = time.process_time()
        for page in [*groups[0], *groups[1]]:
            try:
                texts[page.name] = extract(page.content) or ""
            except Exception:  # peers raise whatever they like; a failure is an empty text, as in their own evaluations
                texts[page.name] = ""
                failed += 1
        seconds = time.process_time() - started
        answer = {
            "seconds": seconds,
            "pages": len(texts),
            "failed": failed,
            "scores": [scores(group, texts) for group in groups],
        }
        print("answer " + json.dumps(answer), flush=True)


def held_out(data: Path) -> list[tuple[float, float, float]]:
    """Tatara's scores with weights that have not seen the sites."""
    from tatara.data.extract.config import ExtractConfig
    from tatara.data.extract.encoding import decode
    from tatara.data.extract.engine import extract_page

    found = []
    for group in sets(data):
        texts = {
            page.name: extract_page(
                decode(page.content)[0], ExtractConfig(), FOLD_WEIGHTS / f"weights-without-fold-{fold_of(page, 5)}.npz"
            )[0]
            for page in group
        }
        found.append(scores(group, texts))
    return found


def ask(process: "subprocess.Popen[str]") -> dict[str, object]:
    """One round of an extractor; empty when it could not start."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
    except BrokenPipeError:
        return {}
    for line in process.stdout:
        if line.startswith("answer "):
            return dict(json.loads(line[7:]))
    return {}


def main() -> None:
    """Run all extractors in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--only", nargs="+", choices=list(EXTRACTORS), default=list(EXTRACTORS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data = options.data or sample(".")[0]
    if options.work:
        work(options.work, options.data)
        return
    peers = python_with("extractors", PEERS) if set(options.only) - {"tatara"} else Path(sys.executable)
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    running = {
        name: subprocess.Popen(
            [sys.executable if name == "tatara" else peers, __file__, options.data, "--work", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet,
        )
        for name in options.only
    }  # fmt: skip
    answers: dict[str, list[dict[str, object]]] = {name: [] for name in running}
    for _ in range(options.rounds):
        for name, process in running.items():
            answer = ask(process)
            if answer:
                answers[name].append(answer)
    for process in running.values():
        process.communicate()
    rates = {
        name: statistics.median(each["pages"] / each["seconds"] for each in rounds)  # type: ignore[operator]
        for name, rounds in answers.items() if rounds
    }  # fmt: skip
    print(
        f"{'':24}{'articles F1':>12}{'prec.':>8}{'recall':>8}"
        f"{'phrases F1':>12}{'prec.':>8}{'recall':>8}{'pages/s':>10}{'ratio':>8}"
    )
    rows = [(name, answers[name][0]["scores"], rates[name]) for name in rates]
    if "tatara" in rates:
        rows.insert(0, ("tatara, held out", held_out(options.data), rates["tatara"]))
    for name, (whole, part), rate in rows:  # type: ignore[misc]
        figures = "".join(f"{value:{width}.4f}" for value, width in zip([*whole, *part], (12, 8, 8) * 2, strict=True))
        ratio = f"{rate / rates['trafilatura']:8.1f}" if "trafilatura" in rates else ""
        print(f"{name:24}{figures}{rate:10.1f}{ratio}")


if __name__ == "__main__":
    main()
