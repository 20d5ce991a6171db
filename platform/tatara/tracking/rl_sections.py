"""Report sections about reinforcement learning: rewards, evaluations, the policy's drift, time, transcripts.

Metrics (the step is what the stage counts, for example rollout batches or optimizer steps; all optional):

- ``rl.reward``, ``rl.reward_deviation``, ``rl.parts.<reward>``, ``rl.passed``, ``rl.length``, ``rl.longest``,
  ``rl.finish.<how>`` (shares), ``rl.empty``, ``rl.errors``, ``rl.staleness`` of each batch; ``rl.probe_difference``,
  ``rl.sync_seconds``, ``rl.pause_seconds``, ``rl.rollout_tokens_per_second``, ``rl.learner_tokens_per_second``,
  ``rl.idle_share``; any other ``rl.*`` gets a chart of its own;
- ``train.*`` with the names of `tatara.train.policy_objective`: ratios before clipping, KL, entropy, mismatch.

Shapes of what a stage reports, each key optional; odd values are left out, they never fail a page:

- ``rl_timeline``: a list of lanes, ``name``, ``kind`` (``rollout``, ``reward``, ``learner``) and ``spans``, each
  ``[start, seconds, what]`` with the start counted from the start of the stage and what being ``generate``, ``wait``,
  ``train``, ``sync``, ``score``, ``evaluate``, ``checkpoint``, ``down`` or any other word. Spans must not overlap. A
  stage should keep it to some ten thousand spans; the picture draws a bounded number.
- ``rl_shares``: a list of ``who``, ``seconds`` (what to seconds) and perhaps ``kind``, by which many are added up;
  without it, the shares are those of the timeline.
- ``rl_figures``: figures of the whole run by name.
- ``rl_staleness``: updates between first token and use, to rollouts (``{"0": 120, "1": 40}``).
- ``rl_stages``: the curriculum, a list of ``name`` and ``from_step``.
- ``rl_groups``: counts by name, for example ``trained``, ``dropped`` (reason to count), ``errors``, ``replayed``.
- ``rl_evaluations``: a list of ``version``, ``pass@1`` and further ``pass@<k>``, ``reward``, ``length``, ``rollouts``,
  and perhaps ``name`` (of the held-out set).
- ``rl_transcripts``: see `tatara.tracking.transcripts`.
- ``rl_incidents``: a list of ``seconds`` (from the start), ``who``, ``what`` and ``detail``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tatara.tracking.charts import LARGEST, Curve, Mark, curve_points, downsample, line_chart
from tatara.tracking.curation_sections import histograms
from tatara.tracking.lanes import MOST_SECONDS, read_lanes, timeline_picture
from tatara.tracking.limits import Limits, mappings, number
from tatara.tracking.markup import Child, Markup, clip, duration, join, tag
from tatara.tracking.record import StageRecord
from tatara.tracking.run_sections import facts, slug, table
from tatara.tracking.transcripts import transcripts

_CHARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Reward", "", (("rl.reward", "mean"), ("rl.reward_deviation", "deviation"))),
    ("Solved in training", "share of rollouts", (("rl.passed", "solved"),)),
    ("Response length", "tokens", (("rl.length", "mean"), ("rl.longest", "longest"))),
    ("Cut off at the length limit", "share of rollouts", (("rl.finish.length", "cut off"),)),
    ("Ratio before clipping", "", (("ratio_mean", "mean"), ("ratio_min", "lowest"), ("ratio_max", "highest"))),
    ("Clipped tokens", "share", (("clipped_high", "above"), ("clipped_low", "below"), ("clipped_delta", "by the cap"))),
    ("KL to the reference", "nats per token", (("kl_reference", "KL"),)),
    ("KL to the policy that sampled", "nats per token", (("kl_behaviour", "KL"),)),
    ("Entropy", "nats per token", (("entropy", "entropy"),)),
    ("Engine against trainer", "nats", (("mismatch_mean", "mean"), ("mismatch_max", "largest"))),
    ("Weight of the correction for it", "mean", (("correction_mean", "weight"),)),
    ("Tokens beyond its bounds", "share", (("corrected", "tokens"),)),
    ("Difference after a synchronisation", "nats, largest", (("rl.probe_difference", "difference"),)),
    ("Synchronisation", "s", (("rl.sync_seconds", "publish to last engine"), ("rl.pause_seconds", "rollout pause"))),
    ("Generated", "tokens/s while generating", (("rl.rollout_tokens_per_second", "tokens/s"),)),
    ("Learned from", "tokens/s while training", (("rl.learner_tokens_per_second", "tokens/s"),)),
    ("Idle devices", "share of their time", (("rl.idle_share", "idle"),)),
    ("Staleness", "updates, mean", (("rl.staleness", "updates"),)),
    ("Reward errors", "rollouts", (("rl.errors", "errors"),)),
    ("Empty responses", "rollouts", (("rl.empty", "empty"),)),
)
"""Title, unit, and metrics (a name without a dot is the last word of a ``train.*`` metric) with their labels."""
_SPREAD = frozenset({"Ratio before clipping", "Engine against trainer", "KL to the policy that sampled"})
"""Offered with a logarithmic axis: a few tokens decide how far they reach."""
_PARTS = "rl.parts."
_ELSEWHERE = (_PARTS, "rl.finish.", "rl.pass@")
_STYLES = "abc"
_ROWS = 16
"""Processes that are listed one by one."""


def reinforcement(stage: StageRecord, limits: Limits) -> Markup | None:
    """Everything that this module shows of one stage; None where it was not reinforcement learning."""
    reports = stage.reports
    if not any(key.startswith("rl_") for key in reports) and not any(
        name.startswith("rl.") for row in stage.series for name in row
    ):
        return None
    marks = stage_marks(reports.get("rl_stages"), limits)
    parts: list[tuple[str, Child]] = [
        ("Held-out prompts", evaluations(reports.get("rl_evaluations"), stage.name, limits)),
        ("Rewards and policy", policy_charts(stage, marks, limits)),
        ("Reward parts", part_charts(stage, marks, limits)),
        ("Who did what when", timeline(reports.get("rl_timeline"), limits)),
        ("", shares(reports, limits)),
        ("Figures", groups(reports.get("rl_figures"), limits)),
        ("Staleness", staleness(reports.get("rl_staleness"))),
        ("Groups", groups(reports.get("rl_groups"), limits)),
        ("", incidents(reports.get("rl_incidents"), limits)),
        ("Transcripts", transcripts(reports.get("rl_transcripts"), limits)),
    ]
    # A table has its own title.
    return join([(tag("h3", title) if title else None, part) for title, part in parts if part]) or None


def stage_marks(value: Any, limits: Limits) -> list[Mark]:
    """Where the stages of the curriculum begin; a single stage is not worth a line."""
    found = [
        Mark(at, clip(row.get("name", ""), 40))
        for row in mappings(value)[: limits.rows]
        if (at := number(row.get("from_step"))) is not None and abs(at) <= LARGEST
    ]
    return found if len(found) > 1 else []


def policy_charts(stage: StageRecord, marks: Sequence[Mark], limits: Limits) -> Markup | None:
    """The curves that are known, then each other ``rl.*`` metric."""
    names = dict.fromkeys(name for row in stage.series for name in row)
    taken: set[str] = set()
    drawn: list[Markup] = []
    for title, unit, wanted in _CHARTS:
        members = [(name, label) for given, label in wanted for name in names if _is(name, given)]
        taken.update(name for name, _ in members)
        drawn += _chart(stage, title, unit, members, marks, limits, len(drawn))
    for name in names:
        if name.startswith("rl.") and name not in taken and not name.startswith(_ELSEWHERE):
            title = clip(name.removeprefix("rl.").replace("_", " "), 80)
            drawn += _chart(stage, title, "", [(name, title)], marks, limits, len(drawn))
    return tag("div", drawn[: limits.charts], class_="charts") if drawn else None


def _is(name: str, given: str) -> bool:
    return name == given if "." in given else name.startswith("train.") and name.rpartition(".")[2] == given


def part_charts(stage: StageRecord, marks: Sequence[Mark], limits: Limits) -> Markup | None:
    """A small chart for each reward."""
    names = [name for name in dict.fromkeys(key for row in stage.series for key in row) if name.startswith(_PARTS)]
    drawn: list[Markup] = []
    for name in names[: limits.charts]:
        label = clip(name.removeprefix(_PARTS), 60)
        drawn += _chart(stage, label, "", [(name, label)], marks, limits, len(drawn), "part")
    return tag("div", drawn, class_="charts") if drawn else None


def _chart(
    stage: StageRecord, title: str, unit: str, members: Sequence[tuple[str, str]], marks: Sequence[Mark],
    limits: Limits, place: int, kind: str = "policy",
) -> list[Markup]:  # fmt: skip
    curves, lost = [], 0
    for index, (name, label) in enumerate(members[: len(_STYLES)]):
        points, not_finite = curve_points(stage.series, name)
        lost += not_finite
        if points:
            curves.append(Curve(label, downsample(points, limits.points), _STYLES[index]))
    if not curves:
        return []
    chart = line_chart(
        curves,
        identity=f"{kind}-{slug(stage.name)}-{place}",
        title=title,
        unit=unit,
        log_toggle=title in _SPREAD,
        marks=marks,
    )
    note = tag("p", f"{lost:,} values are not finite and not drawn.", class_="note bad") if lost else None
    return [tag("div", chart, note, class_="chart-cell wide" if title == "Reward" else "chart-cell")]


def evaluations(value: Any, stage_name: str, limits: Limits) -> Markup | None:
    """Pass rates on held-out prompts over the versions of the policy, one chart per set, and the last figures."""
    given = [row for row in mappings(value) if number(row.get("version")) is not None]
    drawn: list[Markup] = []
    for name in list(dict.fromkeys(clip(row.get("name", ""), 60) for row in given))[: limits.charts]:
        rows = [row for row in given if clip(row.get("name", ""), 60) == name]
        ks = _ks(rows)
        curves = []
        for style, key in zip(_STYLES, ks, strict=False):
            series = [{"step": row.get("version"), key: row.get(key)} for row in rows]
            points, _ = curve_points(series, key)
            if points:
                curves.append(Curve(key, downsample(points, limits.points), style))
        if curves:
            identity = f"held-out-{slug(stage_name)}-{len(drawn)}"
            title = f"Solved, {name}" if name else "Solved"
            chart = line_chart(curves, identity=identity, title=title, unit="share of prompts", x_label="version")
            drawn.append(tag("div", chart, class_="chart-cell"))
    if not given:
        return None
    columns = ["version", *_ks(given), "reward", "length", "rollouts"]
    columns = [*(["name"] if any("name" in row for row in given) else []), *columns]
    last = [[row.get(column) for column in columns] for row in given[-min(limits.rows, 12) :]]
    told = table({"title": "Last evaluations", "columns": columns, "rows": last}, limits)
    return join(tag("div", drawn, class_="charts") if drawn else None, told)


def _ks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """``pass@1`` and so on, by rising k; the lowest, the highest and one between where there are more."""
    found = dict.fromkeys(key for row in rows for key in row if isinstance(key, str) and key.startswith("pass@"))
    ordered = sorted((key for key in found if key[5:].isdecimal()), key=lambda key: int(key[5:]))
    return ordered if len(ordered) <= 3 else [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def timeline(value: Any, limits: Limits) -> Markup | None:
    """A lane for each worker and for the learner."""
    return timeline_picture(read_lanes(value), limits)


def shares(reports: Mapping[str, Any], limits: Limits) -> Markup | None:
    """What the devices' time went to, in percent, a row for each process, or for each kind of many."""
    rows: list[tuple[str, dict[str, float]]] = []
    told = mappings(reports.get("rl_shares"))
    by_kind = len(told) > _ROWS
    for row in told:
        given = row.get("seconds")
        found = {clip(what, 40): number(each) for what, each in given.items()} if isinstance(given, Mapping) else {}
        seconds = {what: each for what, each in found.items() if each is not None and 0 <= each <= MOST_SECONDS}
        rows.append((clip(row.get("kind" if by_kind and "kind" in row else "who", ""), 60), seconds))
    if not rows:
        rows = [(lane.kind, lane.seconds()) for lane in read_lanes(reports.get("rl_timeline"))]
    rows = [(who, seconds) for who, seconds in _added(rows).items() if sum(seconds.values()) > 0]
    names = list(dict.fromkeys(what for _, seconds in rows for what in seconds))
    if not names:
        return None
    body = [
        [who, *(f"{seconds.get(what, 0.0) / sum(seconds.values()):.1%}" for what in names),
         duration(sum(seconds.values()))]
        for who, seconds in rows
    ]  # fmt: skip
    return table({"title": "Shares of the time", "columns": ["who", *names, "in all"], "rows": body}, limits)


def _added(rows: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Seconds of the same name, added up."""
    found: dict[str, dict[str, float]] = {}
    for who, seconds in rows:
        total = found.setdefault(who, {})
        for what, each in seconds.items():
            total[what] = total.get(what, 0.0) + each
    return found


def staleness(value: Any) -> Markup | None:
    """How many updates lay between a rollout's first token and its use."""
    if not isinstance(value, Mapping):
        return None
    counted = {str(lag): amount for lag, amount in value.items() if number(amount) is not None}
    bars = [{"label": lag, "value": counted[lag]} for lag in sorted(counted, key=lambda lag: (len(lag), lag))]
    return histograms({"title": "Updates between first token and use", "unit": "rollouts", "bars": bars})


def groups(value: Any, limits: Limits) -> Markup | None:
    """What became of the groups that were generated, or other figures by name."""
    return facts(value, limits) if isinstance(value, Mapping) and value else None


def incidents(value: Any, limits: Limits) -> Markup | None:
    """Deaths and restarts of workers, the last ones."""
    rows = [
        [duration(number(row.get("seconds"))), row.get("who"), row.get("what"), row.get("detail")]
        for row in mappings(value)[-limits.rows :]
    ]
    columns = ["after", "who", "what", "detail"]
    return table({"title": "Deaths and restarts", "columns": columns, "rows": rows}, limits) if rows else None


def headline(stages: Sequence[StageRecord]) -> tuple[float, str] | None:
    """The last pass rate on held-out prompts of a run, and its name."""
    for stage in reversed(stages):
        for row in reversed(mappings(stage.reports.get("rl_evaluations"))):
            rate = number(row.get("pass@1"))
            if rate is not None and 0 <= rate <= 1:
                return rate, clip(row.get("name", "") or stage.name, 60)
    return None
