"""The driver of a training run: checks everything first, runs Ray Train, follows it, and makes the artifact."""

import hashlib
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tatara.errors import ArtifactError, ConfigError, TrainingError
from tatara.model.hf_families import family_of
from tatara.model.spec import ModelSpec
from tatara.stage import StageRun
from tatara.train import pretrain_worker, ray_training
from tatara.train.checkpoint import directories
from tatara.train.checkpoint.directories import Checkpoint
from tatara.train.checkpoint.places import Place
from tatara.train.feed.batches import read_tokens_json
from tatara.train.feed.plan import TrainingPlan
from tatara.train.feed.sources import open_sources, same_tokenizer, source_sizes, tokenizer_directory
from tatara.train.payload import write_payload
from tatara.train.pretrain import PretrainConfig, check_layout, continued, longest_without_rope, spec_at
from tatara.train.task import WorkerTask, read_losses
from tatara.train.watch.follower import Follower

_LOSS_WINDOW = 20


def run(config: PretrainConfig, stage_run: StageRun) -> dict[str, Any]:
    """Train a model; see `tatara.train.pretrain.STAGE`.

    Returns:
        Figures of the run: losses in nats, tokens per second, seconds to the first step, checkpoint blocking time.

    Raises:
        ConfigError: The phases, the model and the data do not fit each other.
        LayoutError: The layout does not fit the model, the batch or the workers.
        DataError: The tokens are damaged, or not all of one tokenizer.
        ArtifactError: The checkpoint to start from is of another architecture, tokenizer or chat template.
        TrainingError: The loss became not a number, or workers failed more often than allowed.
    """
    tokens = {name: item for name, item in stage_run.inputs.items() if item.kind == "tokens"}
    initial = stage_run.inputs.get("checkpoint")
    sources = {name: item.local() for name, item in tokens.items()}
    tokenizer = same_tokenizer(sources)
    tokenizer_files = tokenizer_directory(sources, initial.local() if initial else None)
    opened = open_sources(sources)
    plan = config.plan(source_sizes(opened))
    if config.validation_sequences:
        open_sources(sources, "validation")
    spec = _spec(config, plan, sources, initial.local() if initial else None, tokenizer)
    layout = check_layout(config, spec, plan)
    stage_run.log(
        f"{spec.parameter_count():,} parameters, {config.steps} steps, {plan.end:,} sequences ({_epochs(plan)}), "
        f"{config.num_workers} workers: "
        + ", ".join(f"{n} {getattr(layout, n)}" for n in ("tp", "pp", "cp", "ep", "dp"))
    )
    for warning in (*plan.repeats(), *_without_family(spec)):
        stage_run.log(warning)
    stage_run.report("mixture", _mixture(plan))
    follower = Follower(stage_run, config)
    task = WorkerTask(
        config.dump(),
        spec.dump(),
        {name: item.url for name, item in tokens.items()},
        initial.url if initial else None,
        tokenizer,
        str(stage_run.work),
    )
    final = _newest(task, stage_run)
    if final is None or final.step < config.steps:
        ray_training.train(config, stage_run, task, follower, pretrain_worker.train)
        final = _newest(task, stage_run)
    if final is None or final.step < config.steps:
        raise TrainingError(f"training ended, but {task.checkpoints} holds no whole checkpoint of step {config.steps}")
    write_payload(stage_run.output.path, final, spec_at(spec, plan, config.steps - 1), tokenizer_files)
    follower.report()
    return _summary(spec, follower, final)


def _spec(
    config: PretrainConfig, plan: TrainingPlan, sources: Mapping[str, Path], initial: Path | None, tokenizer: str
) -> ModelSpec:
    """The architecture, and that the checkpoint to start from has the same one."""
    chosen = config.model
    if initial is not None:
        directories.opened(initial)
        before = ModelSpec.model_validate_json((initial / "model.json").read_text(encoding="utf-8"))
        chosen = continued(chosen, before)
        theirs = hashlib.sha256((initial / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest()
        if theirs != tokenizer:
            raise ArtifactError(
                f"the checkpoint to start from has tokenizer {theirs[:12]}, but the tokens were made with "
                f"{tokenizer[:12]}: tokenize with the checkpoint's (tokenize --tokenizer {initial / 'tokenizer'})"
            )
    vocabulary = max(int(read_tokens_json(directory)["vocab_size"]) for directory in sources.values())
    return chosen.resolve(vocabulary, longest_without_rope(plan))


def _without_family(spec: ModelSpec) -> list[str]:
    """A warning, before months of training, where nothing will be able to read what they make."""
    try:
        family_of(spec)
    except ConfigError as error:
        return [f"this model cannot be exported: {error}"]
    return []


def _newest(task: WorkerTask, stage_run: StageRun) -> Checkpoint | None:
    return next(iter(Place(task.checkpoints).candidates(stage_run.log)), None)


def _epochs(plan: TrainingPlan) -> str:
    return ", ".join(f"{name}: {epochs:.2f} epochs" for name, epochs in plan.epochs().items())


def _mixture(plan: TrainingPlan) -> dict[str, Any]:
    """The mix of each phase, for the run report."""
    phases = [
        {
            "name": phase.name,
            "from_step": phase.from_step,
            "until_step": phase.until_step,
            "sequence_length": phase.sequence_length,
            "shares": dict(phase.shares),
            "epochs": epochs,
        }
        for phase, epochs in zip(plan.phases, plan.epochs_by_phase(), strict=True)
    ]
    return {"phases": phases, "epochs": plan.epochs()}


def _summary(spec: ModelSpec, follower: Follower, final: Checkpoint) -> dict[str, Any]:
    records = list(read_losses(final.path / "losses.jsonl"))
    losses = [record["loss"] for record in records if "loss" in record and math.isfinite(record["loss"])]
    validations = [record for record in records if "validation_loss" in record]
    loss = statistics.fmean(losses[-_LOSS_WINDOW:])
    entropy = math.log(spec.vocab_size)
    summary = {
        "steps": final.step,
        "parameters": spec.parameter_count(),
        "tokens": final.manifest["tokens"],
        "loss": round(loss, 5),
        "log_vocabulary": round(entropy, 5),
        "loss_drop": round(entropy - loss, 5),
        "restarts": max(0, follower.starts - 1),
        "effective_training_time": round(follower.timeline.account().effective, 4),
    }
    if validations:
        summary |= {name: value for name, value in validations[-1].items() if name.startswith("validation_loss")}
    if follower.speeds:
        summary["tokens_per_second"] = round(statistics.median(follower.speeds), 1)
    if follower.first_step_time is not None:
        summary["seconds_to_first_step"] = round(follower.first_step_time, 2)
    if follower.blocked:
        summary["checkpoint_blocked_seconds"] = round(statistics.median(follower.blocked), 3)
    return summary
