import pytest

from tatara.data.pipeline.config import CurateConfig
from tatara.data.pipeline.planning import describe, plan_segments, plan_steps


def passes(*steps: object) -> list[tuple[list[str], list[str], bool]]:
    planned = plan_segments(plan_steps(CurateConfig(pipeline=steps).pipeline))
    return [([s.label for s in p.rows], [s.label for s in p.globals], p.stored) for p in planned]


def test_row_steps_share_a_pass_and_global_steps_end_it() -> None:
    assert passes("repair", "length", "exact_dedup", "fuzzy_dedup", "language", "line_dedup") == [
        (["repair", "length"], ["exact_dedup", "fuzzy_dedup"], True),
        (["language"], ["line_dedup"], True),
        ([], [], True),
    ]


def test_without_global_steps_there_is_one_pass() -> None:
    assert passes("repair", "length") == [(["repair", "length"], [], True)]


def test_nothing_is_stored_where_nothing_happens_to_documents() -> None:
    assert passes("fuzzy_dedup") == [([], ["fuzzy_dedup"], False), ([], [], True)]
    assert passes("length", "url_dedup", "repair") == [
        (["length"], ["url_dedup"], False),
        (["repair"], [], True),
    ]


def test_a_step_listed_twice_has_a_number() -> None:
    assert passes("length", "exact_dedup", "length")[1][0] == ["length#2"]


def test_the_plan_in_words() -> None:
    config = CurateConfig(pipeline=["repair", {"length": {"min_characters": 7}}, "exact_dedup"])
    text = describe(plan_segments(plan_steps(config.pipeline)))
    assert "pass 1: reads the corpus" in text
    assert "2. length (min_characters=7)" in text
    assert "3. exact_dedup, over the whole corpus" in text
    assert "pass 2: reads the verdicts of exact_dedup; writes the documents" in text


@pytest.mark.parametrize("steps", [(), ("repair",)])
def test_a_plan_always_writes(steps: tuple[str, ...]) -> None:
    assert len(passes(*steps)) == 1
