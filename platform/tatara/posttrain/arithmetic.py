"""Arithmetic problems with their answers, made up from a seed."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from tatara.chat import Conversation
from tatara.errors import ConfigError
from tatara.posttrain.dialogues import Arithmetic

SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}


@dataclass(frozen=True)
class Problem:
    """Two numbers and what to do with them."""

    operation: str
    left: int
    right: int

    @property
    def answer(self) -> int:
        """The result."""
        if self.operation == "add":
            return self.left + self.right
        return self.left - self.right if self.operation == "subtract" else self.left * self.right

    @property
    def family(self) -> str:
        """Names the problem and its mirror image, which has the same answer up to its sign."""
        return f"{self.operation} {min(self.left, self.right)} {max(self.left, self.right)}"


def conversations(config: Arithmetic, held_out: float, seed: int) -> dict[str, list[Conversation]]:
    """Conversations of both splits.

    Args:
        config: Which problems, and how many.
        held_out: Share of the problems that only ``validation`` may have, chosen by a hash of their family.
        seed: Chooses problems and what is held out.

    Raises:
        ConfigError: There are fewer problems than are asked for.
    """
    wanted = {"train": config.train, "validation": config.validation}
    made: dict[str, list[Conversation]] = {"train": [], "validation": []}
    for problem in _problems(config, seed):
        split = "validation" if uniform(problem.family, seed) < held_out else "train"
        if len(made[split]) < wanted[split]:
            made[split].append(_conversation(problem, config.phrasings, seed))
        elif all(len(made[name]) == wanted[name] for name in made):
            break
    for split, count in wanted.items():
        if len(made[split]) < count:
            way = "raise" if split == "validation" else "lower"
            raise ConfigError(
                f"arithmetic.{split}={count}, but there are only {len(made[split])} such problems of {config.digits} "
                f"digits: ask for fewer, raise arithmetic.digits, or {way} validation_fraction={held_out}"
            )
    return made


def uniform(text: str, seed: int) -> float:
    """A uniform number in [0, 1) of a text."""
    digest = blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _problems(config: Arithmetic, seed: int) -> Iterator[Problem]:
    """Every problem once, in an order of the seed's, without holding them all in memory."""
    low = 10 ** (config.digits - 1) if config.digits > 1 else 0
    numbers = 10**config.digits - low
    for index in _permutation(len(config.operations) * numbers**2, seed):
        index, right = divmod(index, numbers)
        index, left = divmod(index, numbers)
        operation = config.operations[index]
        if operation == "subtract" and not config.negative and left < right:
            continue
        yield Problem(operation, low + left, low + right)


def _permutation(size: int, seed: int) -> Iterator[int]:
    """The numbers below ``size`` in an order of the seed's: shuffled, or, where they are many, spread by a walk."""
    rng = random.Random(seed)
    if size <= 1 << 17:
        order = list(range(size))
        rng.shuffle(order)
        yield from order
        return
    # A step that has no divisor in common with the size visits every number; one near the golden section spreads.
    step = int(size * 0.6180339887) + rng.randrange(size // 100)
    while math.gcd(step, size) > 1:
        step += 1
    place = rng.randrange(size)
    for _ in range(size):
        yield place
        place = (place + step) % size


def _conversation(problem: Problem, phrasings: tuple[str, ...], seed: int) -> Conversation:
    name = f"{problem.operation}-{problem.left}-{problem.right}"
    phrasing = phrasings[int(uniform(name, seed) * len(phrasings))]
    asked = phrasing.format(left=problem.left, sign=SIGNS[problem.operation], right=problem.right)
    answer = str(problem.answer)
    messages = ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    return Conversation(name, messages, {"answer": answer})
