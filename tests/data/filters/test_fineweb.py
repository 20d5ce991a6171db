from pathlib import Path
from typing import Any

import pytest

from tatara.data.document import Document, Verdict
from tatara.data.filters.config import FineWebConfig
from tatara.data.filters.fineweb import FineWeb

SENTENCE = "The smiths fed the furnace with charcoal and sand, hour {}."


def judge(text: str, language: str | None = "en", **values: Any) -> Verdict | None:
    return FineWeb(FineWebConfig(**values), Path()).judge(Document("x", text, "s", language=language))


@pytest.mark.parametrize(
    ("lines", "key", "value"),
    [
        (["a line without an end that is long enough to count"] * 9 + [SENTENCE], "min_punctuated_lines", 0.1),
        (["Short."] * 7 + [SENTENCE.format(hour) for hour in range(3)], "max_short_lines", 0.7),
        (
            [SENTENCE.format(1)] * 2 + [SENTENCE.format(hour) for hour in range(2, 8)],
            "max_duplicate_line_characters",
            1 / 8,
        ),
        ([f"Nevertheless, {hour}-unquestionably-long." for hour in range(9)], "max_newlines", 8 / 18),
    ],
)
def test_each_rule(lines: list[str], key: str, value: float) -> None:
    verdict = judge("\n".join(lines))
    assert verdict is not None
    assert verdict.reason == f"fineweb.{key}"
    assert verdict.value == pytest.approx(value)


def test_prose_passes_in_each_script() -> None:
    assert judge("\n\n".join(SENTENCE.format(hour) for hour in range(9))) is None
    japanese = "\n".join(f"職人たちは{hour}時間ごとに木炭と砂鉄を炉に入れた。" for hour in "一二三四五六")
    assert judge(japanese, "ja") is None
    assert (
        judge("\n".join(f"匠人们每隔{hour}个小时就把木炭和铁砂放进炉子里。" for hour in "一二三四五六"), "zh") is None
    )
    assert judge("", "en") is None


def test_the_limits_of_a_language_are_its_own() -> None:
    lines = [f"職人は砂鉄を炉に入れた、{hour}時すぎに。" for hour in "一二三四五六"]
    assert judge("\n".join(lines), "ja") is None
    verdict = judge("\n".join(lines), "en")
    assert verdict is not None
    assert verdict.reason == "fineweb.max_short_lines"
