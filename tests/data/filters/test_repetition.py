import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.data.document import Document, Verdict
from tatara.data.filters.characters import classes, points
from tatara.data.filters.config import RepetitionConfig
from tatara.data.filters.repetition import Repetition, longest_run, masked_lines

PROSE = "They fed charcoal and sand by the hour, watched the colour of the flames, and listened to the bellows. "


def judge(text: str, language: str | None = "en", **values: Any) -> Verdict | None:
    return Repetition(RepetitionConfig(**values), Path()).judge(Document("x", text, "s", language=language))


@given(st.text("ab \n\u3000", max_size=40))
def test_the_longest_run(text: str) -> None:
    runs = [0]
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            if len(set(text[start:end])) == 1 and not text[start].isspace():
                runs.append(end - start)
    assert longest_run(points(text), classes()) == max(runs)


def test_logs_are_masked_lines() -> None:
    log = "\n".join(f"2024-01-{day:02} 12:0{day % 10}:17 worker-{day} ERROR connection refused" for day in range(20))
    assert masked_lines(log) == pytest.approx(19 / 20)
    verdict = judge(log)
    assert verdict is not None
    assert verdict.reason == "repetition.max_masked_lines"
    assert masked_lines("one\n\ntwo\n\n") == 0
    assert masked_lines("") == 0


def test_a_single_line_of_repeated_content_is_found() -> None:
    # Unique as a line, and without digits: only its n-grams give it away.
    pattern = "could not open the file because the disk was full while writing a block to the log "
    verdict = judge("Report: " + pattern * 5 + PROSE)
    assert verdict is not None
    assert verdict.reason == "repetition.max_ngram_coverage"
    letters = sum(map(len, ("Report: " + pattern * 5 + PROSE).split()))
    assert verdict.value == pytest.approx(5 * sum(map(len, pattern.split())) / letters)
    assert judge(PROSE) is None


def test_japanese_is_measured_in_characters() -> None:
    assert judge("記録装置に書き込む途中で容量が不足したため処理を中断しました" * 4, "ja") is not None
    assert judge("職人たちは一時間ごとに木炭と砂鉄を炉に入れ、炎の色を見て、ふいごの音に耳をすませた。", "ja") is None


def test_runs_and_compression() -> None:
    assert judge(PROSE + "A" * 1001) == Verdict("repetition.max_character_run", 1001, 1000)
    assert judge(PROSE + " " * 5000) is None
    text = PROSE + "".join(f"{number} " for number in range(1000, 1400))
    ratio = len(zlib.compress(text.encode(), 1)) / len(text)
    verdict = judge(text, min_compressed=ratio + 0.01)
    assert verdict is not None
    assert (verdict.reason, verdict.value) == ("repetition.min_compressed", ratio)
    assert judge(text, min_compressed=ratio) is None
