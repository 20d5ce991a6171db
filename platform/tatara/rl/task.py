"""What the driver of a ``grpo`` run tells the ranks of its learner."""

from dataclasses import dataclass

from tatara.train.task import WorkerTask


@dataclass(frozen=True)
class LearnerTask(WorkerTask):
    """Everything a rank of the learner needs to know; plain values, so that it travels."""

    buffer: str = ""
    """Name of the buffer's actor."""
    probe_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences that trainer and engines compare their log-probabilities of."""
