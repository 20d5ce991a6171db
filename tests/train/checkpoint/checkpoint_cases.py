"""What the ranks of the checkpoint tests do: several layouts one after the other in the same processes."""

import os
import resource
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state

from tatara import storage
from tatara.errors import ArtifactError
from tatara.train.checkpoint import directories, loading
from tatara.train.checkpoint.index import Index
from tatara.train.checkpoint.writer import CheckpointWriter, Failed, load
from train.engine_cases import Run

BEFORE, AFTER = 3, 3


def build(tokens: str, layout: dict[str, Any], changes: dict[str, Any]) -> Run:
    """An engine in a layout, after another one in this process."""
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    return Run(tokens, layout, **changes)


def save(run: Run, root: str, step: int, **options: Any) -> CheckpointWriter:
    writer = CheckpointWriter(run.engine, root, keep=9, **options)
    writer.save(step, {"step": step, "layout": run.engine.layout.dump(), "model": run.engine.spec.dump()}, [])
    return writer


def save_in(tokens: str, root: str, layouts: dict[str, Any], changes: dict[str, Any]) -> dict[str, list[float]]:
    """Train and save in each layout, below a directory of its name; the losses after the checkpoint."""
    losses = {}
    for name, layout in layouts.items():
        run = build(tokens, layout, changes)
        for step in range(BEFORE):
            run.step(step)
        writer = save(run, f"{root}/{name}", BEFORE)
        losses[name] = [run.step(step)[0] for step in range(BEFORE, BEFORE + AFTER)]
        writer.finish()
    return losses


def load_in(
    tokens: str, root: str, pairs: list[tuple[str, dict[str, Any]]], changes: dict[str, Any], optimizer: bool = True
) -> list[list[float]]:
    """Go on from each saved layout in another; the losses."""
    losses = []
    for name, layout in pairs:
        run = build(tokens, layout, changes)
        found = loading.find(f"{root}/{name}", print)
        load(run.engine, found, optimizer=optimizer)
        losses.append([run.step(step)[0] for step in range(BEFORE, BEFORE + AFTER)])
    return losses


def damage_and_find(tokens: str, root: str, damages: list[str]) -> Any:
    """Save at steps 1 and 2, spoil the newer one in each way, and find; what is found and said each time."""
    run = build(tokens, {"tp": 2} if dist.get_world_size() > 1 else {}, {})
    for step in (1, 2):
        run.step(step)
        save(run, root, step).finish()
    newer = Path(root) / directories.name_of(2)
    outcomes = []
    for damage in damages:
        victim = newer / ("model/.metadata" if damage == "no index" else "model/__0_0.distcp")
        if damage == "manifest":
            victim = newer / "manifest.json"
        whole = victim.read_bytes()
        dist.barrier()
        if dist.get_rank() == 0:
            spoil(victim, damage)
        dist.barrier()
        said: list[str] = []
        found = loading.find(root, said.append)
        outcomes.append((found.step if found else None, said))
        dist.barrier()
        if dist.get_rank() == 0:
            victim.write_bytes(whole)
        dist.barrier()
    found = loading.find(root, print)
    return outcomes, found.step if found else None


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    elif damage == "truncated":
        content = content[:-1000]
    elif damage == "manifest":
        content = content[: len(content) // 2]
    file.write_bytes(content)
    if damage in ("missing", "no index"):
        file.unlink()


def refused(tokens: str, root: str) -> list[str]:
    """What is said of checkpoints that cannot be loaded, of the one rank's own checkpoint at step 1."""
    run = build(tokens, {}, {})
    save(run, root, 1).finish()
    found = loading.find(root, print)
    assert found is not None
    said = []
    manifest = {**found.manifest, "tokenizer": "aaaa"}
    stated = directories.Checkpoint(found.path, 1, manifest)
    unstated = directories.Checkpoint(found.path, 1, {})
    wider = build(tokens, {}, {"hidden_size": 32})
    for engine, checkpoint, tokenizer in (
        (wider.engine, stated, None),
        (wider.engine, unstated, None),
        (run.engine, stated, "bbbb"),
    ):
        try:
            load(engine, checkpoint, tokenizer=tokenizer)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    (found.path / "optimizer.json").unlink()
    for name in ("optimizer.json", "model/.metadata"):
        (found.path / name).unlink(missing_ok=True)
        try:
            load(run.engine, found)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def go_on_with_a_full_disk(tokens: str, root: str) -> Any:
    """Save at steps 1, 2 and 3, of which rank 1 cannot write the second; losses, outcomes, and what is found."""
    run = build(tokens, {}, {})
    writer = CheckpointWriter(run.engine, root, keep=5)
    losses: list[float] = []
    outcomes: list[Any] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step in (1, 2, 3):
        losses.append(run.step(step)[0])
        if step == 2 and dist.get_rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        outcomes.append(writer.save(step, {"layout": run.engine.layout.dump()}, []))
        if step == 2:
            # Before it is over, the next step is trained.
            losses.append(run.step(9)[0])
            while (outcome := writer.poll()) is None:
                pass
            outcomes.append(outcome)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    outcomes.append(writer.finish())
    kinds = [(type(each).__name__, each.step) if each else None for each in outcomes]
    reason = next(each.reason for each in outcomes if isinstance(each, Failed))
    left = sorted(path.name for path in Path(root).iterdir())
    return losses, kinds, reason, left


def save_below_a_file(tokens: str, root: str) -> list[str]:
    """What saving says where no directory can be made: first while training goes on, then at the end."""
    run = build(tokens, {}, {})
    if dist.get_rank() == 0:
        Path(root, "file").write_text("")
    writer = CheckpointWriter(run.engine, f"{root}/file/checkpoints", keep=5)
    writer.save(1, {}, [])
    outcome = writer.save(2, {}, [])
    said = [outcome.reason if isinstance(outcome, Failed) else "written"]
    try:
        writer.finish()
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
    return said


def save_and_find_remotely(tokens: str, url: str, environment: dict[str, str]) -> Any:
    """Save to an object store, spoil the newest there, and go on from the one before; in two ranks."""
    os.environ.update(environment)
    run = build(tokens, {}, {})
    writer = CheckpointWriter(run.engine, url, keep=2, keep_every=2)
    losses = []
    for step in range(6):
        losses.append(run.step(step)[0])
        if 1 <= step <= 4:
            writer.save(step, {"step": step, "layout": run.engine.layout.dump()}, [])
    writer.finish()
    kept = storage.list_directories(url)
    found = loading.find(url, print, run.engine)
    assert found is not None
    if dist.get_rank() == 0:
        file = next(each for each in storage.list_files(found.url or "") if each.path.endswith("__1_0.distcp"))
        content = bytearray(storage.read_bytes(file.url))
        content[-5] ^= 4
        storage.write_bytes(file.url, bytes(content))
        (found.path / file.path).unlink(missing_ok=True)
        # An upload that was interrupted.
        storage.write_bytes(storage.join(url, directories.name_of(9), "abcd", "training.json"), b"{}")
    dist.barrier()
    said: list[str] = []
    before = loading.find(url, said.append, run.engine)
    assert before is not None
    other = build(tokens, {"tp": 2}, {})
    again = loading.find(url, print, other.engine)
    load(other.engine, again)
    resumed = [other.step(step)[0] for step in range(before.step + 1, 6)]
    writer = CheckpointWriter(other.engine, url, keep=2)
    writer.discard_after(3)
    left = storage.list_directories(url)
    return found.step, kept, before.step, said, losses[before.step + 1 :], resumed, left


def between_types(tokens: str, root: str) -> Any:
    """A bfloat16 run resumed as such, and its float32 copies in a float32 model; in two ranks."""
    run = build(tokens, {}, {"dtype": "bfloat16"})
    for step in range(2):
        run.step(step)
    writer = save(run, root, 2)
    losses = [run.step(step)[0] for step in (2, 3)]
    writer.finish()
    found = loading.find(root, print)
    assert found is not None
    again = build(tokens, {}, {"dtype": "bfloat16"})
    load(again.engine, found)
    resumed = [again.step(step)[0] for step in (2, 3)]
    exact = build(tokens, {"tp": 2}, {})
    load(exact.engine, found, optimizer=False)
    stored = Index(found.path / "model").tensor("optimizer.state.fp32_param.decoder.final_layernorm.weight")
    norm = next(value for name, value in exact.engine.chunks[0].named_parameters() if "final_layernorm" in name)
    return losses, resumed, torch.equal(norm.detach(), stored), exact.step(2)[0]


def beside_megatron(tokens: str, root: str) -> Any:
    """Weights that Megatron's own functions write are read here, and the other way round; in two ranks."""
    run = build(tokens, {"tp": 2}, {})
    run.step(0)
    expected = run.validate()[0]
    payload = Path(root, "megatron")
    if dist.get_rank() == 0:
        (payload / "model").mkdir(parents=True)
        (payload / "training.json").write_text("{}")
    dist.barrier()
    state = {"model": run.engine.chunks[0].module.sharded_state_dict()}
    dist_checkpointing.save(state, str(payload / "model"), ("torch_dist", 1))
    save(run, f"{root}/ours", 1).finish()

    other = build(tokens, {"pp": 2}, {})
    said = ""
    try:
        load(other.engine, directories.opened(payload))
    except ArtifactError as error:
        said = str(error)
    load(other.engine, directories.opened(payload), optimizer=False)
    ours = other.validate()[0]

    fresh = build(tokens, {}, {"init_std": 0.2})
    module = fresh.engine.chunks[0].module
    path = f"{root}/ours/{directories.name_of(1)}/model"
    module.load_state_dict(dist_checkpointing.load({"model": module.sharded_state_dict()}, path)["model"])
    return expected, ours, fresh.validate()[0], said
