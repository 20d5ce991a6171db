import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.tracking import RunRecord, StageRecord, render_report
from tatara.tracking.limits import LEVELS
from tatara.tracking.rl_sections import evaluations, incidents, reinforcement, shares, staleness
from tatara.tracking.run_sections import charts
from tatara.tracking.transcripts import transcripts
from tracking.rl_records import reports, series

LIMITS = LEVELS[0]
GIVEN = reports("plain")


def stage(given=None, rows=None):
    return StageRecord("grpo", "checkpoint", "done", 9.0, reports=given or {}, series=rows or [])


def plain(markup):
    return html.unescape(re.sub("<[^>]*>", " ", str(markup)))


def test_curves_of_rewards_and_policy_with_the_stages_of_the_curriculum():
    drawn = str(reinforcement(stage(GIVEN, series(40)), LIMITS))
    assert "Reward: mean goes from 0.04877 at step 1 to 0.8647 at step 40" in drawn
    assert "longer is at step 20" in drawn
    assert "lowest goes from 0.8 at step 1" in drawn
    assert "highest goes from 2 at step 1 to 41 at step 40" in drawn
    for title in ("Entropy", "Cut off at the length limit", "Engine against trainer", "math", "format", "novelty",
                  "Difference after a synchronisation", "Generated", "Learned from", "Idle devices"):  # fmt: skip
        assert f'class="chart-title">{title}<' in drawn, title


def test_they_are_drawn_here_and_nowhere_else():
    rows = [{**row, "train.loss": 0.1} for row in series(5)]
    general = str(charts(stage(rows=rows), LIMITS))
    assert "Loss" in general
    assert "rl." not in general
    assert "ratio" not in general
    assert "entropy" not in general


def test_held_out_prompts_are_charts_by_version_and_a_table():
    drawn = evaluations(GIVEN["rl_evaluations"], "grpo", LIMITS)
    assert "pass@1 goes from 0.5 at version 0 to 0.9 at version 40" in str(drawn)
    assert str(drawn).count('class="chart-title">Solved, ') == 2
    assert re.search(r"arithmetic\s+40\s+0.9\s+0.8\s+0.6\s+12\s+64", plain(drawn))
    many = [{"version": 1, **{f"pass@{k}": 0.5 for k in (1, 16, 2, 8, 4)}}]
    assert re.search(r"version\s+pass@1\s+pass@4\s+pass@16\s", plain(evaluations(many, "grpo", LIMITS)))


def test_shares_are_told_or_counted_from_the_timeline():
    counted = plain(shares(GIVEN, LIMITS))
    assert re.search(r"rollout\s+88.9%\s+5.6%\s+5.6%", counted), counted
    told = shares(
        {**GIVEN, "rl_shares": [{"who": "engines", "seconds": {"generate": 30, "wait": 10, "x": "y"}}]}, LIMITS
    )
    assert re.search(r"engines\s+75.0%\s+25.0%\s+40 s", plain(told))
    many = [{"who": f"rollout-{n}", "kind": "rollout", "seconds": {"generate": 3, "wait": 1}} for n in range(50)]
    assert re.search(r"all\s+rollout\s+75.0%\s+25.0%\s+3 min 20 s\s*$", plain(shares({"rl_shares": many}, LIMITS)))


def test_staleness_is_in_the_order_of_numbers():
    assert re.findall(r"(\d+): ", plain(staleness(GIVEN["rl_staleness"]))) == ["0", "1", "10"]
    assert staleness([1, 2]) is None


def test_groups_and_incidents_are_counted_and_named():
    text = plain(reinforcement(stage(GIVEN), LIMITS))
    assert re.search(r"trained\s+320", text)
    assert re.search(r"dropped.no signal\s+12", text)
    assert re.search(r"1 min 05 s\s+rollout-1\s+died\s+plain", plain(incidents(GIVEN["rl_incidents"], LIMITS)))


def test_transcripts_show_parts_and_errors_the_latest_first():
    drawn = str(transcripts(GIVEN["rl_transcripts"], LIMITS))
    assert drawn.count("<details") == 3
    assert drawn.count(" open") == 2
    text = plain(drawn)
    assert re.search(r"reward 1\s+train, batch 3, stop, 41 tokens, versions 2 to 3\s+math 1\s+plain 0.25", text)
    assert "user: Q plain" in text
    assert "plain: plain" in text
    assert "prompt 7" in plain(transcripts({"prompt": 7, "response": "x"}, LIMITS))
    latest = transcripts([{"response": str(number)} for number in range(99)], LIMITS)
    assert re.findall(r"Response:\s+(\d+)", plain(latest))[:2] == ["98", "97"]
    assert str(latest).count("<details") == LIMITS.samples


def test_a_users_text_stays_text():
    hostile = "<script>alert(1)</script>\"'&"
    given = reports(hostile)
    drawn = str(reinforcement(stage(given, series(3)), LIMITS))
    assert "<script" not in drawn
    assert drawn.count("&lt;script&gt;") > 8
    # The same elements with the same attributes, whatever the text is.
    tags = [re.sub('"[^"]*"', '""', each) for each in re.findall("<[^>]*>", drawn)]
    honest = [re.sub('"[^"]*"', '""', each) for each in
              re.findall("<[^>]*>", str(reinforcement(stage(GIVEN, series(3)), LIMITS)))]  # fmt: skip
    assert tags == honest


def test_a_stage_without_reinforcement_has_no_section():
    assert reinforcement(stage(rows=[{"step": 1, "train.loss": 2.0}]), LIMITS) is None


def test_the_page_has_the_section_and_the_headline_figure():
    page = render_report(RunRecord("r", "1", 0.0, "done", stages=[stage(GIVEN, series(40))]))
    assert 'id="reinforcement"' in page
    assert "<dt>Held-out prompts solved</dt><dd><b>90.0%</b>" in page


odd = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["spans", "kind", "who", "seconds", "version", "pass@1", "pass@x", "prompt", "response", "parts", "errors",
         "versions", "reward", "batch", "from_step", "name"]
    ), inner, max_size=6),
    max_leaves=25,
)  # fmt: skip


@pytest.mark.parametrize("key", [*GIVEN, "rl_shares"])
@given(odd)
@settings(max_examples=30, deadline=None)
def test_odd_reports_fail_no_page(key, value):
    reinforcement(stage({key: value}, series(2)), LIMITS)
