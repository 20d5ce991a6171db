import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.tracking import RunRecord, StageRecord
from tatara.tracking.limits import LEVELS
from tatara.tracking.report import render_report
from tatara.tracking.run_sections import charts, family
from tatara.tracking.training_sections import (
    checkpoints,
    guard_actions,
    mixture,
    router,
    stragglers,
    time_account,
    training,
)
from tracking.training_records import reports, series

LIMITS = LEVELS[0]
GIVEN = reports("plain")


def stage(given=None, rows=None):
    return StageRecord("pretrain", "checkpoint", "done", 9.0, reports=given or {}, series=rows or [])


def plain(markup):
    return html.unescape(re.sub("<[^>]*>", " ", str(markup)))


def test_the_account_of_time_is_a_bar_and_its_table():
    drawn = str(time_account(GIVEN["time_account"]))
    assert re.findall(r"tone-(\d)\" style=\"width:([\d.]+)%", drawn) == [
        ("0", "93"), ("1", "1.25"), ("2", "5.75"), ("3", "0"),
    ]  # fmt: skip
    text = plain(drawn)
    assert "Effective training time 93.0%" in text
    assert "2 restarts" in text
    assert re.search(r"training steps\s+15 min 30 s\s+93.0%", text)
    assert time_account({"effective": 0.9, "parts": [{"cause": "x", "seconds": 0}]}) is None


def test_guard_actions_name_step_data_and_reason():
    text = plain(guard_actions(GIVEN["guard"], LIMITS))
    assert re.search(r"12\s+skip\s+88–96\s+plain", text)
    assert guard_actions([], LIMITS) is None


def test_a_mixture_shows_each_phase_and_says_it_in_words():
    drawn = str(mixture(GIVEN["mixture"], LIMITS))
    assert 'aria-label="plain 25.0%, web 50.0%, code 25.0%"' in drawn
    # A source has one colour in all phases.
    assert re.findall(r"<i class=\"tone-(\d)\" style=\"width:([\d.]+)%\"", drawn) == [
        ("0", "25"), ("1", "50"), ("2", "25"), ("2", "100"),
    ]  # fmt: skip
    text = plain(drawn)
    assert "steps 0–300, 2,048 tokens" in text
    assert "(0.75 epochs)" in text


def test_router_load_is_a_cell_per_expert():
    drawn = str(router(GIVEN["router"], LIMITS))
    paths = dict(re.findall(r'<path d="([^"]*)" class="([^"]*)">', drawn))
    assert paths == {"M1 0h1v1h-1z": "hot-4", "M2 0h1v1h-1z": "cold-2", "M3 0h1v1h-1z": "cold-4"}
    assert 'viewBox="0 0 4 2"' in drawn
    assert "The fullest expert, in layer 0, has 2.50 times the mean; 1 of 8 experts had no token." in drawn


def test_a_large_mixture_of_experts_stays_small():
    loads = [[float((x * y) % 3) for x in range(256)] for y in range(160)]
    drawn = str(router({"layers": list(range(160)), "loads": loads}, LIMITS))
    assert len(drawn) < 250_000
    assert "one of 3" in drawn


def test_tables_of_checkpoints_and_stragglers():
    assert "1.0 MiB" in plain(checkpoints(GIVEN["checkpoints"], LIMITS))
    assert "0.25" in plain(checkpoints(GIVEN["checkpoints"], LIMITS))
    assert re.search(r"50\s+3\s+plain\s+1.42\s+0.31\s+0.22\s+data", plain(stragglers(GIVEN["stragglers"], LIMITS)))


def test_families_are_drawn_here_and_nowhere_else():
    rows = series(400)
    drawn = str(training(stage(rows=rows), LIMITS))
    assert "web in nats per token: web goes from 3.05 at step 50 to 2.7 at step 400" in drawn
    assert "all goes from 2.95" in drawn
    assert "feed forward" in drawn
    general = str(charts(stage(rows=rows), LIMITS))
    assert "Model FLOP utilisation" in general
    assert "web" not in general
    assert "feed_forward" not in general
    assert family("train.validation_loss") is None
    assert family("train.validation_loss.a.b") == ("validation_loss", "a.b")
    assert family("update_ratio.norm") == ("update_ratio", "norm")


def test_a_stage_without_training_has_no_section():
    assert training(stage(), LIMITS) is None


def test_the_page_has_the_section_and_the_headline_figure():
    run = RunRecord("r", "1", 0.0, "done", stages=[stage(GIVEN, series(100))])
    page = render_report(run)
    assert 'id="training"' in page
    assert "<dt>Effective training time</dt><dd><b>93.0%</b>" in page


odd = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["parts", "phases", "shares", "layers", "loads", "cause", "seconds", "positions", "effective", "epochs", "step"]
    ), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@pytest.mark.parametrize("key", list(GIVEN))
@given(odd)
@settings(max_examples=40, deadline=None)
def test_odd_reports_fail_no_page(key, value):
    training(stage({key: value}), LIMITS)
