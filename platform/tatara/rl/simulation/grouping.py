"""Groups of the model between their start and their batch: which may form a batch, by the rule of the real buffer."""

from collections import Counter

from tatara.rl.staleness import BatchSizes, Candidate, choose


class Groups:
    """Groups that are in no batch. When one completes only counts are read; the rule itself runs once per batch."""

    def __init__(self, size: int) -> None:
        self.sizes = BatchSizes((0,), (size,))
        self._size = size
        self._due: dict[int, int] = {}
        """Deadline of each group that is in no batch."""
        self._complete: set[int] = set()
        self._open_by_due: Counter[int] = Counter()
        self._complete_by_due: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._due)

    def start(self, group: int, due: int) -> None:
        """A group starts."""
        self._due[group] = due
        self._open_by_due[due] += 1

    def complete(self, group: int) -> None:
        """It is generated and scored."""
        due = self._due[group]
        self._complete.add(group)
        self._open_by_due[due] -= 1
        self._complete_by_due[due] += 1

    def drop(self, group: int) -> None:
        """It is replaced by another one."""
        self._open_by_due[self._due.pop(group)] -= 1

    def ready(self, batch: int) -> bool:
        """Whether `tatara.rl.staleness.choose` finds a batch: the same from counts by deadline."""
        if len(self._complete) < self._size:
            return False
        to_take, left = self._size, 0
        for due in sorted(self._due_dates()):
            complete = self._complete_by_due[due]
            taken = min(complete, to_take)
            to_take -= taken
            left += complete - taken + self._open_by_due[due]
            if left > max(0, due - batch) * self._size:
                return False
        return True

    def take(self, batch: int) -> tuple[int, ...]:
        """The groups of a batch that is ready, which leave."""
        candidates = [Candidate(group, due, group in self._complete) for group, due in self._due.items()]
        chosen = choose(candidates, batch, self.sizes)
        assert chosen is not None, "the counts say that the batch is ready"
        for group in chosen:
            self._complete_by_due[self._due.pop(group)] -= 1
            self._complete.remove(group)
        return chosen

    def _due_dates(self) -> set[int]:
        """Deadlines that groups have."""
        return {due for counts in (self._open_by_due, self._complete_by_due) for due, count in counts.items() if count}
