"""A small run of the buffer for its tests: prompts, settings, and the buffer or its book without Ray."""

from pathlib import Path
from typing import Any

from rl.ledger_world import make_prompts, make_rollout, make_score, make_stage
from tatara.rl.curriculum import HeldOut
from tatara.rl.ledger.book import Book, BufferConfig
from tatara.rl.prompts import write_prompts
from tatara.rl.protocol import PublishedWeights
from tatara.rl.record import RolloutKey

PROMPTS = make_prompts(9)
HELD_OUT = make_prompts(2, "held-out")
CONFIG = BufferConfig(
    stages=(make_stage(),), batches=6, staleness=1, held_out=HeldOut(max_response_tokens=4), transcripts_every=2
)


def write_files(directory: Path) -> Path:
    """The prepared prompts, as a run finds them."""
    write_prompts(directory / "prompts.jsonl", PROMPTS)
    write_prompts(directory / "held_out.jsonl", HELD_OUT)
    return directory


def local(files: Path, attempt: str = "first", config: BufferConfig = CONFIG, **more: Any) -> Any:
    """The same buffer in this process: what it says does not depend on Ray."""
    from tatara.rl.buffer import Buffer

    more = {"held_out": str(files / "held_out.jsonl")} | more
    return Buffer(config.dump(), str(files / "prompts.jsonl"), str(files / "state"), attempt, **more)


def bare(version: int) -> PublishedWeights:
    """Weights of nothing."""
    return PublishedWeights(version, (), 0, 0, ((1, 2),))


def work(book: Book, batches: int) -> None:
    """Run a book forward without an actor."""
    from tatara.rl.ledger import checks, plan

    while book.state.next_batch < batches:
        state, rules, version = book.state, book.settings, book.state.next_batch
        book.commit({"event": "publish", "version": version})
        event = plan.lease(state, rules, "worker", version, 100, 0.0)
        book.commit(event)
        for purpose, turn, position, indices in event["groups"] if event else ():
            prompt = book.prompts[state.groups[purpose, turn, position].prompt]
            made = [make_rollout(RolloutKey(purpose, turn, position, i), prompt, version) for i in indices]
            book.commit(checks.deliver(state, "worker", made, book.prompts, book.held_out, 0.0))
            book.commit(checks.score(state, "worker", [make_score(r.key, float(r.key.index)) for r in made], 0.0))
        book.commit(plan.batch(state, rules, version, 0.0), sync=True)
