"""The buffer's book: journal, checkpoints and lineage through kills and new starts."""

import json
import subprocess
import sys

import pytest

from rl.buffer_cases import CONFIG, HELD_OUT, PROMPTS, work
from tatara.errors import DataError, StorageError
from tatara.rl.ledger.book import LINEAGE, Book


def test_a_checkpoint_makes_the_journal_small_and_keeps_the_lineage(tmp_path):
    book = Book(tmp_path, CONFIG, PROMPTS, HELD_OUT)
    work(book, 4)
    before = book.journal.bytes
    lines = (tmp_path / LINEAGE).read_text() if (tmp_path / LINEAGE).exists() else ""
    assert lines == ""
    book.checkpointed(3)
    assert book.journal.bytes < before
    state = book.state
    assert list(state.batches) == [3]
    book.close()
    # A line that was cut short, and one that came before the death of its writer: neither is there twice.
    with open(tmp_path / LINEAGE, "a") as file:
        file.write('{"batch": 3, "pos')
    book = Book(tmp_path, CONFIG, PROMPTS, HELD_OUT)
    assert book.state == state
    work(book, 6)
    book.checkpointed(6)
    book.close()
    lines = [json.loads(line) for line in (tmp_path / LINEAGE).read_text().splitlines()]
    assert [line["batch"] for line in lines] == list(range(6))
    assert [position for line in lines for position in line["positions"]] == list(range(12))
    assert all(source == "sums" and name.startswith("sums-") for line in lines for source, name in line["prompts"])
    assert lines[5]["versions"] == [[[4, 4], [4, 4]], [[4, 4], [4, 4]]]


def test_a_process_killed_at_any_moment_goes_on_with_the_same_batches(tmp_path):
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from rl.buffer_cases import CONFIG, HELD_OUT, PROMPTS, work
from tatara.rl.ledger.book import Book
book = Book({str(tmp_path)!r}, CONFIG, PROMPTS, HELD_OUT)
for number in range(6):
    work(book, number + 1)
    print(number, [group.position for group in book.state.batches[number]], flush=True)
"""
    seen = {}
    for batches in (1, 3, 6):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(batches):
            number, positions = process.stdout.readline().split(" ", 1)
            assert seen.setdefault(number, positions) == positions, "a batch changed"
        process.kill()
        process.communicate()
    assert sorted(place for line in seen.values() for place in json.loads(line)) == list(range(12))


def test_a_journal_of_another_run_is_refused(tmp_path):
    book = Book(tmp_path, CONFIG, PROMPTS, HELD_OUT)
    work(book, 1)
    book.close()
    others = (
        (CONFIG.model_copy(update={"seed": 1}), PROMPTS, HELD_OUT),
        (CONFIG, PROMPTS[1:], HELD_OUT),
        (CONFIG, PROMPTS, HELD_OUT[1:]),
    )
    for config, prompts, held_out in others:
        with pytest.raises(StorageError, match="is of another run"):
            Book(tmp_path, config, prompts, held_out)
    longer = Book(tmp_path, CONFIG.model_copy(update={"batches": 9}), PROMPTS, HELD_OUT)
    assert longer.state.next_batch == 1
    longer.close()


def test_a_book_can_begin_where_a_checkpoint_left_off(tmp_path):
    whole = Book(tmp_path / "whole", CONFIG, PROMPTS, HELD_OUT)
    work(whole, 6)
    rest = Book(tmp_path / "rest", CONFIG, PROMPTS, HELD_OUT, first_batch=4)
    rest.close()
    rest = Book(tmp_path / "rest", CONFIG, PROMPTS, HELD_OUT)
    work(rest, 6)
    for number in (4, 5):
        found = [[(g.position, g.prompt) for g in book.state.batches[number]] for book in (whole, rest)]
        assert found[0] == found[1]
    whole.close()
    rest.close()


def test_an_evaluation_without_prompts_is_refused(tmp_path):
    with pytest.raises(DataError, match="held_out is configured, but there are no held-out prompts"):
        Book(tmp_path, CONFIG, PROMPTS)
