"""Before a run: its prompts as tokens, its context, and everything that can be refused without starting anything."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tatara.artifact import Artifact
from tatara.chat import Renderer, check_same, find_template, read_conversations
from tatara.errors import ConfigError, DataError
from tatara.model.spec import ModelSpec
from tatara.rl.curriculum import CurriculumStage
from tatara.rl.grpo import GrpoConfig
from tatara.rl.ledger.book import BufferConfig
from tatara.rl.prompts import plan_orders, read_prompts, write_prompts
from tatara.rl.record import Prompt


@dataclass(frozen=True)
class Prepared:
    """What a run asks, ready for the buffer."""

    prompts: Path
    """Prepared prompts to train on."""
    held_out: Path | None
    """Prepared prompts to evaluate with."""
    buffer: BufferConfig
    """What the buffer has to know."""
    context: int
    """Tokens of prompt and response at most."""
    probe_ids: tuple[tuple[int, ...], ...]
    """Sequences that trainer and engines compare their log-probabilities of."""


def prepare(
    config: GrpoConfig, spec: ModelSpec, policy: Path, datasets: Mapping[str, Artifact], work: Path
) -> Prepared:
    """Render the prompts, and check that the run can take place.

    Args:
        config: Of the run.
        spec: Architecture of the policy.
        policy: Directory of the policy's tokenizer with its chat template.
        datasets: Conversations by name.
        work: Where prepared files go.

    Raises:
        ArtifactError: The policy has no chat template, or a dataset was made for another one.
        ConfigError: The curriculum does not fit the context, or names datasets that are not there.
        DataError: A prompt is too long or cannot be rendered, or none is left.
    """
    renderer = Renderer(policy)
    context = min(config.sequence_length, spec.max_position_embeddings)
    stages = tuple(_with_limit(_with_algorithm(stage, config), context) for stage in config.stages)
    for name, artifact in datasets.items():
        theirs = find_template(artifact.local())
        if theirs is not None:
            check_same(renderer.template, theirs, f"the policy and the prompts of {name} ({artifact.reference})")
    prompts = work / "prompts.jsonl"
    write_prompts(prompts, _rendered(datasets, "train", renderer))
    every = read_prompts(prompts)
    plan_orders(every, stages, config.seed)
    held_out = None
    if config.evaluation.interval:
        room = context - config.evaluation.sampling.max_response_tokens
        held_out = work / "held-out.jsonl"
        chosen = [each for each in _rendered(datasets, "validation", renderer) if len(each.token_ids) <= room]
        if not chosen:
            raise DataError(
                f"no held-out prompt is shorter than the {max(room, 0)} tokens that "
                "evaluation.sampling.max_response_tokens leaves: lower it, give held-out "
                "conversations, or set evaluation.interval 0"
            )
        write_prompts(held_out, chosen[: config.evaluation.prompts])
    buffer = BufferConfig(
        stages=stages,
        batches=config.batches,
        staleness=config.staleness,
        seed=config.seed,
        passing=config.passing,
        held_out=config.evaluation.sampling if held_out else None,
        stop_token_ids=renderer.stop_token_ids,
    )
    return Prepared(prompts, held_out, buffer, context, _probes(every, config))


def _with_algorithm(stage: CurriculumStage, config: GrpoConfig) -> CurriculumStage:
    """A stage that samples as the algorithm asks."""
    if not config.algorithm.dynamic_sampling or stage.dynamic_sampling.enabled:
        return stage
    return stage.model_copy(update={"dynamic_sampling": stage.dynamic_sampling.model_copy(update={"enabled": True})})


def _with_limit(stage: CurriculumStage, context: int) -> CurriculumStage:
    """A stage whose prompts leave room for the response."""
    room = context - stage.max_response_tokens
    if room < 1:
        raise ConfigError(
            f"stage '{stage.name}' allows responses of {stage.max_response_tokens} tokens, but prompt and response "
            f"share {context}: raise sequence_length (and the model's context), or lower max_response_tokens"
        )
    limit = room if stage.max_prompt_tokens is None else min(room, stage.max_prompt_tokens)
    return stage.model_copy(update={"max_prompt_tokens": limit})


def _rendered(datasets: Mapping[str, Artifact], split: str, renderer: Renderer) -> Iterator[Prompt]:
    for name, artifact in datasets.items():
        for each in read_conversations(str(artifact.local() / f"{split}.jsonl")):
            metadata: dict[str, Any] = dict(each.metadata)
            if len(each.prompt) < len(each.messages):
                metadata.setdefault("answer", each.messages[-1]["content"])
            try:
                ids = renderer.prompt_ids(each.prompt)
            except DataError as error:
                raise DataError(f"prompt '{each.id}' of {name}: {error}") from None
            yield Prompt(each.id, name, each.prompt, tuple(ids), metadata)


def _probes(prompts: list[Prompt], config: GrpoConfig) -> tuple[tuple[int, ...], ...]:
    """A few prompts, spread over all of them."""
    usable = [each.token_ids[: config.sync.probe_tokens] for each in prompts if len(each.token_ids) > 1]
    if not usable:
        raise DataError("every prompt has a single token: engines and trainer have nothing to compare")
    stride = max(1, len(usable) // config.sync.probes)
    return tuple(usable[::stride][: config.sync.probes])
