"""Reads what a plan says: the sequences of a step, from all sources, in the order of their positions."""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from tatara.errors import DataError, LayoutError
from tatara.train.feed.batches import Batch, PackedTokens, empty_batch
from tatara.train.feed.plan import TrainingPlan
from tatara.train.feed.positions import rank_slice

_Request = tuple[int, int, int, int]


class Feed:
    """The batches of a run, each read while the one before is trained on.

    Attributes:
        wait_seconds: Time that `batch` has kept its caller waiting, over all calls.
    """

    def __init__(self, sources: Mapping[str, PackedTokens], plan: TrainingPlan, *, prefetch: bool = True) -> None:
        """Take over opened sources; see `tatara.train.feed.sources.open_sources`.

        Args:
            sources: By name; those that the plan does not use are left alone.
            plan: What each step is fed.
            prefetch: Read the next step in a thread. It changes no batch.

        Raises:
            DataError: A source of the plan is missing, or has another size than the plan was made for.
        """
        for name, size in zip(plan.names, plan.sizes, strict=True):
            found = sources.get(name)
            if found is None:
                raise DataError(f"the plan reads from source {name}, which is not there: name its tokens")
            if (found.num_bins, found.sequence_length) != (size.bins, size.sequence_length):
                raise DataError(
                    f"source {name} has {found.num_bins} sequences of {found.sequence_length} tokens, but the plan is "
                    f"for {size.bins} of {size.sequence_length}: give the run the tokens that it was planned for"
                )
        self.plan = plan
        self.wait_seconds = 0.0
        self._sources = [sources[name] for name in plan.names]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed") if prefetch else None
        self._ahead: tuple[_Request, Future[list[Batch]]] | None = None

    def batch(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """One data-parallel rank's micro-batches of a training step, in the order of positions.

        Args:
            step: Training step, counted from 0.
            rank: Place in data parallelism.
            ranks: Data-parallel ranks.
            micro_batch_size: Rows of each micro-batch.

        Raises:
            LayoutError: The step's sequences cannot be shared out evenly.
            DataError: A token or a loss weight is not allowed.
        """
        started = time.perf_counter()
        request = (step, rank, ranks, micro_batch_size)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == request:
            found = ahead[1].result()
        else:
            if ahead is not None:
                ahead[1].cancel()
            found = self._read(request)
        if self._thread is not None and step + 1 < self.plan.steps:
            following = (step + 1, rank, ranks, micro_batch_size)
            self._ahead = (following, self._thread.submit(self._read, following))
        self.wait_seconds += time.perf_counter() - started
        return found

    def targets(self, step: int) -> dict[str, int]:
        """(input, target) pairs of a training step by source, over all ranks; sources without any are left out."""
        source, bins = self.plan.samples(self.plan.at(step).positions)
        return {self.plan.names[each]: self._sources[each].targets(bins[source == each]) for each in np.unique(source)}

    def replan(self, plan: TrainingPlan) -> None:
        """Go on by another plan over the same sources, such as one with a window of data left out."""
        if (plan.names, plan.sizes) != (self.plan.names, self.plan.sizes):
            raise ValueError("another plan must be over the same sources")
        if self._ahead is not None:
            self._ahead[1].cancel()
        self.plan, self._ahead = plan, None

    def close(self) -> None:
        """Stop reading ahead."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._thread = self._ahead = None

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, request: _Request) -> list[Batch]:
        step, rank, ranks, micro_batch_size = request
        planned = self.plan.at(step)
        size = len(planned.positions)
        if size % (ranks * micro_batch_size):
            raise LayoutError(
                f"step {step} has {size} sequences, not a multiple of {ranks} data-parallel ranks times "
                f"micro_batch_size={micro_batch_size}: change the batch size of "
                f"{self.plan.phases[planned.phase].name}, its ramp or micro_batch_size"
            )
        source, bins = self.plan.samples(rank_slice(planned.positions, rank, ranks))
        batch = empty_batch(len(bins), planned.sequence_length)
        for each in np.unique(source):
            rows = np.flatnonzero(source == each)
            self._sources[each].fill(batch, rows, bins[rows])
        return batch.split(micro_batch_size)
