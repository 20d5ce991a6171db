import copy
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from global_steps import cut, make, run
from tatara.data.dedup.normal import normal_bytes
from tatara.data.document import Document
from tatara.data.steps import serially
from tatara.errors import DataError

TEXTS = [
    "Hello  World",
    "hello world",
    " x",
    "hello\tworld  ",
    "x",
    "Ünï\n b",
    "ünï b",
    "",
    "   ",
    "\ud800 lone",
    "\x00",
]


def documents(texts: list[str], **common: object) -> list[Document]:
    return [Document(id=f"d{i}", text=text, source="s", **common) for i, text in enumerate(texts)]  # type: ignore[arg-type]


def reference(texts: list[str]) -> list[str | None]:
    """Who stays for whom: the longest text of each normal form (ties are checked apart)."""
    best: dict[str, tuple[int, str]] = {}
    for i, text in enumerate(texts):
        form = " ".join(text.casefold().split())
        best[form] = max(best.get(form, (-1, "")), (len(text), f"d{i}"))
    return [best[" ".join(text.casefold().split())][1] for text in texts]


@given(st.lists(st.text(max_size=30)))
@settings(max_examples=50)
def test_normal_form_is_what_python_makes_of_it(texts: list[str]) -> None:
    wanted = [" ".join(text.casefold().split()).encode("utf-8", "surrogatepass") for text in texts]
    assert normal_bytes(texts) == wanted
    assert normal_bytes(texts, case=False, space=False) == [text.encode("utf-8", "surrogatepass") for text in texts]


@pytest.mark.parametrize("shards", [1, 3, 11])
@pytest.mark.parametrize("memory", [1 << 30, 1000])
def test_one_document_per_text_however_it_is_cut(tmp_path: Path, shards: int, memory: int) -> None:
    # Lengths differ within each group, so that the reference has no ties.
    texts = [text + " " * (20 * place) for place, text in enumerate(TEXTS * 20)]
    verdicts, figures = run(make("exact_dedup", tmp_path), cut(documents(texts), shards), memory=memory, batch=7)
    kept = [each.kept_id if each else f"d{i}" for i, each in enumerate(verdicts)]
    assert kept == reference(texts)
    assert figures["removed"] == sum(each is not None for each in verdicts)
    assert {each.reason for each in verdicts if each} == {"exact_dedup.keep"}


def test_what_stays_counts_its_copies_and_knows_its_cluster(tmp_path: Path) -> None:
    made = documents(["a", "b", "A ", "a"])
    made[3].copies = 5
    verdicts, _ = run(make("exact_dedup", tmp_path), cut(made, 2))
    assert [each is None for each in verdicts] == [False, True, True, False]
    assert made[2].copies == 7
    assert made[1].copies == 1
    assert {each.cluster for each in verdicts if each} == {made[2].cluster}
    assert made[1].cluster is None


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"keep": "oldest", "keep_by": "date"}, "d1"),
        ({"keep": "newest", "keep_by": "date"}, "d2"),
        ({"keep": "best_score", "keep_by": "quality"}, "d0"),
        ({"keep": "first"}, "d0"),
        ({"keep": "oldest"}, "d0"),
        ({"keep": "newest"}, "d3"),
        ({"keep": "longest"}, "d3"),
    ],
)
@pytest.mark.parametrize("shards", [1, 4])
def test_which_one_stays(tmp_path: Path, rule: dict[str, str], kept: str, shards: int) -> None:
    made = documents(["a", "a", "a", "a   "])
    for document, date, score in zip(
        made, ["2020-05-01", "1999-01-01T10:00:00Z", 1.7e9, None], [0.9, 0.1, -3, None], strict=True
    ):
        document.metadata = {"date": date} if date else {}
        document.scores = {"quality": score} if score else {}
    verdicts, _ = run(make("exact_dedup", tmp_path, **rule), cut(made, shards))
    assert [each.kept_id if each else None for each in verdicts] == [
        None if f"d{i}" == kept else kept for i in range(4)
    ]


def test_ties_do_not_depend_on_order_or_shards(tmp_path: Path) -> None:
    made = documents(["same"] * 50)
    kept = set()
    for number, (order, shards) in enumerate([(made, 1), (made[::-1], 7), (made[25:] + made[:25], 50)]):
        verdicts, _ = run(make("exact_dedup", tmp_path / str(number)), cut(copy.deepcopy(order), shards))
        kept |= {document.id for document, verdict in zip(order, verdicts, strict=True) if verdict is None}
    assert len(kept) == 1


def test_the_same_id_twice(tmp_path: Path) -> None:
    made = [Document(id="twin", text="a", source="s") for _ in range(5)]
    verdicts, _ = run(make("exact_dedup", tmp_path), cut(made, 3))
    assert [each is None for each in verdicts] == [True, False, False, False, False]


def test_what_an_earlier_step_removed_has_no_copies(tmp_path: Path) -> None:
    made = documents(["a    ", "b", "a", "a "])
    verdicts, _ = run(make("exact_dedup", tmp_path), cut(made, 2), dead=[(0, 0)])
    assert [each.kept_id if each else None for each in verdicts] == [None, None, "d3", None]
    assert made[3].copies == 2


def test_a_key_that_a_task_cannot_hold_is_read_in_pieces(tmp_path: Path) -> None:
    made = documents(["same"] * 8_000 + ["other", "other"])
    verdicts, figures = run(make("exact_dedup", tmp_path, keep="first"), cut(made, 4), memory=100_000, batch=5000)
    assert sum(each is None for each in verdicts) == 2
    assert figures["largest_cluster"] == 8_000
    assert made[0].copies == 8_000


def test_later_runs_drop_what_an_earlier_one_kept(tmp_path: Path) -> None:
    first = documents(["a", "b", "a ", "dead"])
    step = make("exact_dedup", tmp_path / "first")
    run(step, cut(first, 2), dead=[(1, 1)])
    step.publish(tmp_path / "index")
    second = [Document(id=f"n{i}", text=text, source="s") for i, text in enumerate(["a   ", "c", "C", "dead", "b"])]
    for number, (shards, memory) in enumerate([(1, 1 << 30), (5, 200)]):
        later = make("exact_dedup", tmp_path / f"second{number}", against=[str(tmp_path / "index")], keep="first")
        verdicts, figures = run(later, cut(second, shards), memory=memory)
        assert [(each.kept_id, each.reason) if each else None for each in verdicts] == [
            ("d2", "exact_dedup.against"),
            None,
            ("n1", "exact_dedup.keep"),
            None,
            ("d1", "exact_dedup.against"),
        ]
        assert figures["matched_earlier"] == 2
    assert later.config.files() == (str(tmp_path / "index"),)
    with pytest.raises(DataError, match="ignore_case = True, this run has ignore_case = False"):
        make("exact_dedup", tmp_path / "x", against=[str(tmp_path / "index")], ignore_case=False).prepare()
    with pytest.raises(DataError, match="holds no index of fuzzy_dedup"):
        make("fuzzy_dedup", tmp_path / "z", against=[str(tmp_path / "index")]).prepare()
    with pytest.raises(DataError, match="holds no index"):
        make("exact_dedup", tmp_path / "y", against=[str(tmp_path)]).prepare()


def test_nothing_at_all(tmp_path: Path) -> None:
    assert run(make("exact_dedup", tmp_path / "a"), cut([], 1))[0] == []
    assert run(make("exact_dedup", tmp_path / "b"), [])[0] == []


def test_finished_tasks_are_not_done_again(tmp_path: Path) -> None:
    made = cut(documents([str(i // 2) for i in range(400)]), 4)
    step = make("exact_dedup", tmp_path)
    ran: list[int] = []

    def stop_after_three(function, items):  # type: ignore[no-untyped-def]
        for number, item in enumerate(items):
            if len(ran) == 3:
                raise KeyboardInterrupt
            ran.append(number)
            yield function(dict(item))

    with pytest.raises(KeyboardInterrupt):
        run(step, made, stop_after_three, memory=2000)
    collected = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("[0-9]*/*")}

    def counted(function, items):  # type: ignore[no-untyped-def]
        for item in items:
            ran.append(-1)
            yield function(dict(item))

    verdicts, _ = run(step, made, counted, memory=2000)
    done = len(ran)
    for path, when in collected.items():
        assert not path.exists() or path.stat().st_mtime_ns == when
    fresh: list[int] = []

    def counted_again(function, items):  # type: ignore[no-untyped-def]
        for item in items:
            fresh.append(1)
            yield function(dict(item))

    whole, _ = run(make("exact_dedup", tmp_path / "whole"), made, counted_again, memory=2000)
    assert verdicts == whole
    assert done == len(fresh)


def _work(step: str, directory: Path, pipe: Connection) -> None:
    def slow(function, items):  # type: ignore[no-untyped-def]
        for item in items:
            yield function(dict(item))
            pipe.send("task")
            time.sleep(0.01)

    made = documents([str(i // 3) + " word" * 9 for i in range(600)])
    verdicts, _ = run(make(step, directory), cut(made, 5), slow, memory=40_000)
    pipe.send([each.kept_id if each else None for each in verdicts])


def _start(step: str, directory: Path) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(step, directory, theirs))
    process.start()
    return process, ours


def _finish(step: str, directory: Path) -> tuple[list[str | None], int]:
    process, pipe = _start(step, directory)
    tasks = 0
    while (said := pipe.recv()) == "task":
        tasks += 1
    process.join()
    return said, tasks


@pytest.mark.parametrize("step", ["exact_dedup", "fuzzy_dedup"])
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, step: str) -> None:
    whole, tasks = _finish(step, tmp_path / "whole")
    assert tasks > 10
    for wait in (1, 3, tasks // 3):
        process, pipe = _start(step, tmp_path / "killed")
        for _ in range(wait):
            assert pipe.recv() == "task"
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    again, left = _finish(step, tmp_path / "killed")
    assert again == whole
    assert left <= tasks - 4 - tasks // 3


@pytest.mark.ray
def test_in_ray_tasks_as_in_one_process(tmp_path: Path, ray_cluster: None) -> None:
    from tatara.data.shard_map import map_tasks

    made = documents([str(i % 77) for i in range(300)])
    for memory in (1 << 30, 4000):
        here, _ = run(make("exact_dedup", tmp_path / f"here{memory}"), cut(made, 3), serially, memory=memory)
        there, _ = run(make("exact_dedup", tmp_path / f"ray{memory}"), cut(made, 3), map_tasks, memory=memory)
        assert here == there
