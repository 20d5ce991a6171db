"""Validation during training: the loss on held-out sequences of each source, with the weights and their average."""

from collections.abc import Callable, Sequence

from tatara.train.checkpoint.averages import WeightAverage
from tatara.train.engine import Engine
from tatara.train.feed.validation import ValidationLoss, ValidationSet, validation_loss


def validate(
    engine: Engine,
    sets: Sequence[ValidationSet],
    ranks: int,
    average: WeightAverage | None = None,
    beat: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, float], int]:
    """Measure the loss of every source whose sequences the present context holds. Collective over all ranks.

    Args:
        engine: What is validated.
        sets: Held-out sequences by source.
        ranks: Data-parallel ranks.
        average: Also measured, where given.
        beat: Told what comes next.

    Returns:
        ``validation_loss`` over all, ``validation_loss.<source>`` where there are several, and
        ``validation_loss.average``, in nats per target; and the number of targets.
    """
    chosen = [each for each in sets if each.tokens.sequence_length <= engine.spec.max_position_embeddings]
    found = _measure(engine, chosen, ranks, beat)
    values = {"validation_loss": found.overall}
    if len(chosen) > 1:
        values |= {f"validation_loss.{name}": loss for name, loss in found.by_source.items()}
    if average is not None:
        with average.swapped():
            values["validation_loss.average"] = _measure(engine, chosen, ranks, beat).overall
    return values, found.targets


def _measure(engine: Engine, sets: Sequence[ValidationSet], ranks: int, beat: Callable[[str], None]) -> ValidationLoss:
    sums = {}
    for each in sets:
        beat(f"validation of {each.source}")
        result = engine.evaluate(list(each.batches(engine.data_rank, ranks)))
        sums[each.source] = (result.total, result.tokens)
    return validation_loss(sums)
