import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tatara.data.decontaminate.config import DecontaminateConfig
from tatara.data.decontaminate.step import Decontaminate
from tatara.data.document import Document, Verdict
from tatara.errors import ConfigError, DataError

HEN = (
    "Every morning Janet's ducks lay sixteen eggs; she eats three of them for breakfast and bakes muffins for all her "
    "friends with four. How many dollars does she make at the farmers' market when a fresh egg sells for two?"
)
KITE = "A kite rises forty metres in the first minute and ten metres less in each minute after; how high is it at last?"
PROSE = "The harbour lay quiet under a thin fog, and nobody on the quay had yet heard the bell of the returning boats. "


def made(tmp_path: Path, items: list[dict[str, Any]], **config: Any) -> Decontaminate:
    (tmp_path / "bench.jsonl").write_text("\n".join(map(json.dumps, items)))
    step = Decontaminate(
        DecontaminateConfig(benchmarks={"bench": str(tmp_path / "bench.jsonl")}, **config), tmp_path / "index"
    )
    step.prepare()
    return step


def document(text: str, identity: str = "d") -> Document:
    return Document(identity, text, "s")


def records(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any]]]:
    return iter([(each.id, json.loads(json.dumps(record))) for each in documents for _, record in each.records])


def test_a_verbatim_item_drops_the_document_and_says_where(tmp_path: Path) -> None:
    step = made(tmp_path, [{"question": HEN}, {"question": KITE}])
    text = f"Füße {PROSE}" + HEN.upper().replace(" ", "\n ") + f" {PROSE}"
    held, clean = document(text), document(PROSE * 3, "clean")
    assert step.apply([clean, held]) == [None, Verdict("decontaminate.min_overlap", 1.0, 0.5)]
    ((_, record),) = held.records
    assert (record["benchmark"], record["item"], record["overlap"], record["longest"]) == (
        "bench", "bench.jsonl:0", 1.0, 1.0,
    )  # fmt: skip
    assert text[record["start"] : record["end"]].casefold().split()[0] == "every"
    assert text[record["start"] : record["end"]].endswith("TWO")
    assert clean.records == []


def test_a_lightly_edited_item_is_found_and_a_phrase_of_it_is_not(tmp_path: Path) -> None:
    step = made(tmp_path, [{"question": HEN}])
    edited = HEN.replace("Janet's ducks", "Maria's hens").replace("bakes muffins", "makes a few cakes")
    phrase = PROSE + "She eats three of them for breakfast and bakes." + PROSE
    verdicts = step.apply([document(edited), document(phrase)])
    assert verdicts[0] is not None
    assert verdicts[0].value is not None
    assert 0.5 < verdicts[0].value < 1
    assert verdicts[1] is None


def covered_by_definition(item: list[str], text: list[str], ngram: int) -> set[int]:
    grams = {tuple(text[start : start + ngram]) for start in range(len(text) - ngram + 1)}
    starts = [start for start in range(len(item) - ngram + 1) if tuple(item[start : start + ngram]) in grams]
    return {start + offset for start in starts for offset in range(ngram)}


def test_overlaps_are_those_of_the_definition(tmp_path: Path) -> None:
    """Share of an item's words in n-grams that occur in the document (Llama 3, section 5.1.4), in pure Python."""
    generator = random.Random(0)
    compared = 0
    for vocabulary in ("abcd", [f"w{number}" for number in range(500)]):
        items = [generator.choices(vocabulary, k=generator.randint(5, 30)) for _ in range(60)]
        step = made(
            tmp_path, [{"question": " ".join(item)} for item in items], ngram=5, min_tokens=5, min_overlap=0.0,
            min_matched=1, skip=0, max_shared_items=1000, action="annotate",
        )  # fmt: skip
        documents = []
        for number in range(60):
            piece = generator.choice(items)
            words = [word for word in piece if generator.random() < 0.9]
            words = generator.choices(vocabulary, k=8) + words + generator.choices("xyz", k=3)
            documents.append(document(" ".join(words), str(number)))
        step.apply(documents)
        for each in documents:
            seen: dict[int, set[int]] = {}
            for _, record in each.records:
                for text, start, stop in record["seen"]:
                    seen.setdefault(text, set()).update(range(start, stop))
            best = {record["item"]: record["overlap"] for _, record in each.records if "item" in record}
            for number, item in enumerate(items):
                expected = covered_by_definition(item, each.text.split(), 5)
                assert seen.get(number, set()) == expected
                # A document this short is one place.
                share = round(len(expected) / len(item), 4)
                assert best.get(f"bench.jsonl:{number}", 0.0) == share or len(item) < len(each.text.split())
                compared += bool(expected)
    assert compared > 200


def test_neither_batches_nor_their_order_nor_a_second_build_change_anything(tmp_path: Path) -> None:
    items = [{"question": HEN}, {"question": KITE}, {"question": PROSE}]
    step = made(tmp_path, items)
    again = made(tmp_path, items)
    first = {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    again.prepare()
    assert {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()} == first
    generator = random.Random(1)
    texts = [f"{PROSE * 2}{generator.choice(['', HEN, KITE[:60], '日本'])}{generator.random()}" for _ in range(40)]
    one = [document(text) for text in texts]
    whole = step.apply(one)
    for size in (1, 7):
        parts = [document(text) for text in reversed(texts)]
        verdicts = [each for start in range(0, 40, size) for each in again.apply(parts[start : start + size])]
        assert verdicts[::-1] == whole
        assert [each.records for each in parts[::-1]] == [each.records for each in one]


def test_templates_are_ignored_and_short_items_listed(tmp_path: Path) -> None:
    template = "For which of these two scenarios does the main character do something that is clearly wrong today"
    items = [{"id": f"t{number}", "question": f"{template} {number}"} for number in range(12)]
    items += [{"id": "tiny", "question": "What is gold?"}, {"id": "duck", "question": HEN}]
    step = made(tmp_path, items, max_shared_items=10, action="annotate")
    held = document(PROSE + template + PROSE)
    step.apply([held])
    assert not [record for _, record in held.records if "item" in record]
    (figures,) = step.finish(records([held]))["benchmarks"]
    assert figures["too_short_items"] == ["tiny"]
    assert figures["items"] == 14
    assert figures["contaminated"] == 0


def test_a_short_question_counts_with_its_choices(tmp_path: Path) -> None:
    items = [{"question": "What is gold?", "choices": ["a noble metal of great density", "a salt", "a gas", "a wood"]}]
    step = made(tmp_path, items)
    lettered = "1. What is gold?\n(A) a noble metal of great density\n(B) a salt\n(C) a gas\n(D) a wood\nAnswer: A"
    bare = "What is gold? a noble metal of great density, a salt, a gas, a wood"
    plain = "What is gold? It is a noble metal, and people have dug for it since the oldest times we know of."
    kept = [verdict is None for verdict in step.apply([document(lettered), document(bare), document(plain)])]
    assert kept == [False, False, True]


def test_japanese_is_matched_without_word_spaces(tmp_path: Path) -> None:
    question = "次の惑星のうち、太陽にもっとも近い軌道をまわっているものはどれか答えなさい。"
    prose = "港は薄い霧の下で静まりかえり、戻ってくる船の鐘の音をまだ誰も聞いていなかった。"
    step = made(tmp_path, [{"question": question}])
    edited = question.replace("答えなさい", "選びなさい").replace("、", "\n")
    clean = prose * 5 + "太陽にもっとも近い星。"
    verdicts = step.apply([document(prose + edited + prose), document(clean)])
    assert [verdict is None for verdict in verdicts] == [False, True]


def test_removing_cuts_the_match_with_its_window(tmp_path: Path) -> None:
    step = made(tmp_path, [{"question": HEN}, {"question": KITE}], action="remove", window=50, min_piece=100)
    text = PROSE * 6 + HEN + PROSE * 5 + KITE
    held = document(text)
    assert step.apply([held]) == [None]
    before, after = (PROSE * 6)[:-50].strip(), ("?" + PROSE * 5)[50:-50].strip()
    assert held.text == f"{before}\n\n{after}"
    assert {record["item"]: record["stays"] for _, record in held.records} == {
        "bench.jsonl:0": False, "bench.jsonl:1": False,
    }  # fmt: skip
    assert step.apply([document(held.text)]) == [None]
    (only,) = step.apply([document(HEN)])
    assert only is not None
    assert only.reason == "decontaminate.min_piece"
    (many,) = step.apply([document((PROSE * 9 + HEN) * 12)])
    assert many is not None
    assert (many.reason, many.value) == ("decontaminate.max_pieces", 12)
    (endless,) = step.apply([document(PROSE * 9 + (HEN + "\n") * 2000)])
    assert endless is not None


def test_the_report_says_what_share_of_a_benchmark_is_in_the_corpus(tmp_path: Path) -> None:
    words = HEN.split()
    items = [{"id": "hen", "question": HEN}, {"id": "kite", "question": KITE}, {"id": "fog", "question": PROSE}]
    step = made(tmp_path, items)
    halves = [document(" ".join(part), str(n)) for n, part in enumerate((words[:16], words[16:]))]
    documents = [*halves, document(KITE, "k"), document(KITE, "k2"), document("Nothing of that sort.", "n")]
    verdicts = step.apply(documents)
    report = step.finish(records(documents))
    assert json.loads(json.dumps(report)) == report
    (figures,) = report["benchmarks"]
    assert [verdict is None for verdict in verdicts] == [True, False, False, False, True]
    # The two halves make a whole: all of the item is found, and what stays is the half below the limit.
    assert report["items"]["bench"]["hen"]["found"] == 1.0
    assert 0.3 < report["items"]["bench"]["hen"]["left"] < 0.5
    assert report["items"]["bench"]["kite"] == {"found": 1.0, "left": 0.0, "documents": 2}
    assert "fog" not in report["items"]["bench"]
    assert (figures["contaminated"], figures["documents"], figures["share"]) == (2, 3, 0.6667)
    assert figures["found"] == {"0.2": 2, "0.5": 2, "0.8": 2}
    assert figures["left"] == {"0.2": 1, "0.5": 0, "0.8": 0}
    assert [example["item"] for example in report["examples"]] == ["hen", "kite", "kite"]
    assert len(report["table"]["rows"][0]) == len(report["table"]["columns"])


def test_hostile_texts_cost_no_more_than_their_size(tmp_path: Path) -> None:
    items = [{"question": HEN}, {"question": "a " * 300}, {"question": "あ" * 300}, {"question": "a b " * 150}]
    step = made(tmp_path, items)
    for unit in ("a ", "あ", "a", "\x00", "\ud800", HEN, f"{HEN} {KITE} ", "a b "):
        times = []
        for size in (200_000, 800_000):
            text = unit * (size // len(unit))
            best = []
            for _ in range(3):
                started = time.process_time()
                step.apply([document(text)])
                best.append(time.process_time() - started)
            times.append(min(best))
        assert times[1] < 8 * times[0] + 0.05, unit
    assert step.apply([document(""), document(" \n"), document("\ud800")]) == [None] * 3


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="benchmark bench: no item has 8 words"):
        made(tmp_path, [{"question": "What is gold?"}])
    with pytest.raises(ConfigError, match="max_index_tokens"):
        made(tmp_path, [{"question": HEN}], max_index_tokens=10)
    with pytest.raises(ValueError, match="fields names 'other'"):
        DecontaminateConfig(benchmarks={"bench": "x"}, fields={"other": ("a",)})
    with pytest.raises(ValueError, match="at least 1 item"):
        DecontaminateConfig(benchmarks={})
    assert DecontaminateConfig(benchmarks={"a": "x", "b": "y"}).files() == ("x", "y")
