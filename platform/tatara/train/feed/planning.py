"""From the phases of a configuration to the plan of a run, and what may be wrong with them."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from tatara.config import nearest
from tatara.errors import ConfigError
from tatara.train.feed.batch_sizes import BatchSizes, batch_sizes
from tatara.train.feed.blocks import Stretch
from tatara.train.feed.phases import BatchRamp, Phase, Skip
from tatara.train.feed.plan import PlannedPhase, Rope, SourceSize, TrainingPlan


def training_plan(
    sources: Mapping[str, SourceSize],
    *,
    global_batch_size: int,
    steps: int,
    seed: int = 0,
    phases: Sequence[Phase] = (),
    ramp: BatchRamp | None = None,
    skips: Sequence[Skip] = (),
) -> TrainingPlan:
    """Plan a run.

    Args:
        sources: Size of each source by name.
        global_batch_size: Sequences per step, over all ranks, until a phase changes it.
        steps: Training steps.
        seed: Of the order.
        phases: By rising steps; none is one phase over all sources.
        ramp: How the batch size grows at the start.
        skips: Windows of data that are left out.

    Raises:
        ConfigError: The phases do not fit each other, the run or the sources.
    """
    phases = list(phases) or [Phase()]
    _check_steps(phases, steps)
    names = tuple(sorted(sources))
    sizes = tuple(sources[name] for name in names)
    changes = [(phase.from_step, phase.global_batch_size) for phase in phases if phase.global_batch_size]
    first = global_batch_size
    if changes and changes[0][0] == 0:
        first = changes.pop(0)[1]
    batches = batch_sizes(first, ramp, changes)
    shares = list(_shares(phases, names, sizes))
    lengths = [_sequence_length(phase, each, sources) for phase, each in zip(phases, shares, strict=True)]
    planned = []
    ends = [*(phase.from_step for phase in phases[1:]), max(steps, phases[-1].from_step)]
    for number, (phase, rope, until) in enumerate(zip(phases, _ropes(phases, lengths), ends, strict=True)):
        mix = {name: float(share) for name, share in shares[number].items()}
        title = phase.name or f"phase {number}"
        planned.append(PlannedPhase(phase.from_step, until, title, mix, lengths[number], rope))
    stretches = _stretches(phases, shares, names, batches, seed)
    return TrainingPlan(steps, seed, names, sizes, tuple(planned), batches, stretches, tuple(skips))


def _check_steps(phases: Sequence[Phase], steps: int) -> None:
    if phases[0].from_step:
        raise ConfigError(f"phases.0: from_step is {phases[0].from_step}: the first phase starts at 0")
    for number, (before, after) in enumerate(itertools.pairwise(phases), start=1):
        if after.from_step <= before.from_step:
            raise ConfigError(
                f"phases.{number}: from_step {after.from_step} does not come after {before.from_step}, that of the "
                "phase before: put phases in order"
            )
    if phases[-1].from_step >= steps:
        raise ConfigError(
            f"phases.{len(phases) - 1}: from_step {phases[-1].from_step} is never reached, the run has {steps} steps: "
            "raise steps or leave the phase out"
        )


def _shares(
    phases: Sequence[Phase], names: Sequence[str], sizes: Sequence[SourceSize]
) -> Iterator[dict[str, Fraction]]:
    """Shares of the sources with one, exact: a weight of 0.7 is seven tenths."""
    weights = {name: Fraction(size.bins) for name, size in zip(names, sizes, strict=True)}
    for number, phase in enumerate(phases):
        if phase.weights is not None:
            for name in phase.weights:
                if name not in names:
                    raise ConfigError(f"phases.{number}.weights: there is no source {name}; {nearest(name, names)}")
            weights = {name: Fraction(repr(weight)) for name, weight in sorted(phase.weights.items()) if weight}
        total = sum(weights.values())
        yield {name: weight / total for name, weight in weights.items()}


def _sequence_length(phase: Phase, shares: Mapping[str, Fraction], sources: Mapping[str, SourceSize]) -> int:
    by_length: dict[int, list[str]] = {}
    for name in shares:
        by_length.setdefault(sources[name].sequence_length, []).append(name)
    if len(by_length) > 1:
        found = "; ".join(f"{length} tokens: {', '.join(names)}" for length, names in sorted(by_length.items()))
        raise ConfigError(
            f"the sources of {phase.name or f'the phase from step {phase.from_step}'} have sequences of different "
            f"lengths ({found}): name sources of one length in its weights"
        )
    return next(iter(by_length))


def _ropes(phases: Sequence[Phase], lengths: Sequence[int]) -> Iterator[Rope | None]:
    rope = Rope()
    for number, (phase, length) in enumerate(zip(phases, lengths, strict=True)):
        rope = Rope(
            phase.rope_theta or rope.theta,
            phase.rope_scaling or rope.scaling,
            phase.max_position_embeddings or rope.max_position_embeddings,
        )
        if rope.max_position_embeddings is not None and rope.max_position_embeddings < length:
            raise ConfigError(
                f"phases.{number}: its sequences have {length} tokens, more than "
                f"max_position_embeddings={rope.max_position_embeddings}: raise it"
            )
        yield None if rope == Rope() else rope


def _stretches(
    phases: Sequence[Phase],
    shares: Sequence[Mapping[str, Fraction]],
    names: Sequence[str],
    batches: BatchSizes,
    seed: int,
) -> tuple[Stretch, ...]:
    made: list[Stretch] = []
    taken = dict.fromkeys(range(len(names)), 0)
    for number, (phase, mix) in enumerate(zip(phases, shares, strict=True)):
        if number and (phase.weights is None or mix == shares[number - 1]):
            continue
        start = batches.before(phase.from_step)
        if made:
            taken |= dict(zip(made[-1].sources, made[-1].taken_before(start), strict=True))
        whole = math.lcm(*(share.denominator for share in mix.values()))
        sources = tuple(names.index(name) for name in mix)
        integers = tuple(int(share * whole) for share in mix.values())
        key = hashlib.blake2b(f"mix {len(made)}".encode(), digest_size=8, key=str(seed).encode()).digest()
        before = tuple(taken[source] for source in sources)
        made.append(Stretch(start, sources, integers, before, int.from_bytes(key, "big")))
    return tuple(made)
