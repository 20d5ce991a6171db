"""What the buffer hands out, made of the ledger's records."""

from collections.abc import Sequence

from tatara.rl.ledger.book import Book
from tatara.rl.ledger.packing import Record, unpack_rollout, unpack_score
from tatara.rl.ledger.state import Group
from tatara.rl.record import GroupAssignment, Prompt, Purpose, Rollout, Sampling, ScoredGroup


def prompt_of(book: Book, group: Group) -> Prompt:
    """What a group answers."""
    return (book.prompts if group.purpose == "train" else book.held_out)[group.prompt]


def assignment(book: Book, purpose: Purpose, turn: int, position: int, indices: Sequence[int]) -> GroupAssignment:
    """Rollouts of an open group for a worker to generate, drawn as its stage says."""
    group = book.state.groups[purpose, turn, position]
    rules = book.settings.stages[group.stage] if purpose == "train" else book.settings.held_out
    assert rules is not None
    stops = book.config.stop_token_ids
    sampling = Sampling(rules.max_response_tokens, rules.temperature, rules.top_p, rules.top_k, stops)
    prompt = prompt_of(book, group)
    return GroupAssignment(purpose, turn, position, tuple(indices), prompt, sampling, rules.environment)


def rollout_at(book: Book, purpose: Purpose, turn: int, position: int, index: int) -> tuple[Prompt, Rollout]:
    """A rollout of an open group, to be scored."""
    group = book.state.groups[purpose, turn, position]
    prompt = prompt_of(book, group)
    return prompt, unpack_rollout(group.rollouts[index], prompt.token_ids)


def scored_group(book: Book, group: Group) -> ScoredGroup:
    """A complete group, to be trained on."""
    prompt, order = prompt_of(book, group), range(group.size)
    rollouts = tuple(unpack_rollout(group.rollouts[index], prompt.token_ids) for index in order)
    return ScoredGroup(group.position, prompt, rollouts, tuple(unpack_score(group.scores[index]) for index in order))


def with_prompt(book: Book, note: Record) -> Record:
    """A note as it is shown: a transcript with what was asked."""
    if note["kind"] != "transcript":
        return note
    prompt = (book.prompts if note["purpose"] == "train" else book.held_out)[note["prompt"]]
    return note | {"prompt": prompt.id, "source": prompt.source, "messages": list(prompt.messages)}
