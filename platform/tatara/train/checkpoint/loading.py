"""Finding, checking and loading checkpoints. Collective: all ranks come to the same result, or to the same error."""

import io
import json
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from tatara.errors import ArtifactError
from tatara.model.spec import ModelSpec
from tatara.train.checkpoint import collective, directories, remote, state
from tatara.train.checkpoint.directories import Checkpoint
from tatara.train.checkpoint.files import METADATA, Slab, hash_of
from tatara.train.checkpoint.index import Index
from tatara.train.checkpoint.names import MASTER, MOMENTS, moment_key
from tatara.train.checkpoint.places import Place
from tatara.train.checkpoint.staging import settle

if TYPE_CHECKING:
    from tatara.train.checkpoint.averages import WeightAverage
    from tatara.train.engine import Engine

OPTIMIZER = "optimizer.json"
# What may differ between a model and the checkpoint that it starts from: none of it changes a shape.
_FREE = {"dtype", "init_std", "max_position_embeddings", "rope_theta", "rope_scaling", "rms_norm_eps"}


def random_file(rank: int) -> str:
    """Name of the file with a rank's random state."""
    return f"random/rank-{rank:05d}.pt"


def find(root: Path | str, log: Callable[[str], None], engine: "Engine | None" = None) -> Checkpoint | None:
    """The newest checkpoint whose content is what was written; says of each newer one what is wrong with it.

    The ranks share the files to hash. From an object store, each machine fetches what its ranks need (or everything,
    without an engine) and hashes that.

    Args:
        root: Directory or URL below which checkpoints are.
        log: Takes one line per checkpoint that is passed over; called on rank 0.
        engine: What it will be loaded into.
    """
    tried = iter(Place(str(root)).candidates(log) if collective.rank() == 0 else [])
    while True:
        found: Checkpoint | None = collective.from_rank_0(lambda: next(tried, None))
        if found is None:
            return None
        problem = next((each for each in collective.gathered(_problem(found, engine)) if each), None)
        if problem is None:
            return found
        if collective.rank() == 0:
            name = directories.name_of(found.step)
            log(f"checkpoint {name} is not usable, looking at the one before: {problem}")


def _problem(found: Checkpoint, engine: "Engine | None") -> str | None:
    """What is wrong with this rank's share of the files."""
    listed = {str(file["path"]): file for file in found.manifest["files"]}
    names, problem, sharing = sorted(listed), None, list(range(collective.size()))
    if found.url:
        hosts = collective.gathered(socket.gethostname())
        sharing = [rank for rank, host in enumerate(hosts) if host == hosts[collective.rank()]]
        if engine is not None:
            names, problem = _needed(found, engine, names, sharing)
    # The big files first, in turns, so that ranks have about equally much.
    names.sort(key=lambda name: -int(listed[name]["size"]))
    share = names[sharing.index(collective.rank()) :: len(sharing)]
    return problem or collective.problem_of(lambda: _check(found, share, listed))


def _check(found: Checkpoint, names: Sequence[str], listed: dict[str, Any]) -> None:
    if found.url:
        remote.fetch(found, names)
    for name in names:
        expected = listed[name].get("hash")
        if expected and hash_of(found.path / name) != expected:
            raise ArtifactError(f"the content of {name} has changed since it was written")


def _needed(
    found: Checkpoint, engine: "Engine", names: Sequence[str], sharing: Sequence[int]
) -> tuple[list[str], str | None]:
    """Files that the ranks of this machine need of a remote checkpoint, and what went wrong."""
    needed = {name for name in names if not name.endswith(".distcp")}

    def look() -> None:
        index = Index(found.path / "model")
        slabs, _ = _to_read(index, state.tensors_of(engine), True, ())
        needed.update(f"model/{name}" for name in index.files(slabs))

    first = (
        collective.problem_of(lambda: remote.fetch(found, [f"model/{METADATA}"]))
        if sharing[0] == collective.rank()
        else None
    )
    problem = next((each for each in collective.gathered(first) if each), None) or collective.problem_of(look)
    every = collective.gathered(sorted(needed))
    return sorted({name for rank in sharing for name in every[rank]}), problem


def load(
    engine: "Engine",
    found: Checkpoint,
    *,
    optimizer: bool = True,
    averages: Sequence["WeightAverage"] = (),
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Load a checkpoint, taken in any layout, into an engine.

    Args:
        engine: Of the same architecture; its type of weights may differ.
        found: From `find`, or `directories.opened`.
        optimizer: Whether to go on with the optimizer's state. Otherwise only the weights are taken, and the optimizer
            starts afresh. Parameters that were not trained before start with fresh moments in either case.
        averages: Averages to go on with; they start from the weights where the checkpoint has none.
        tokenizer: Hash that the checkpoint's tokenizer must have.

    Random state is taken over with the optimizer's where the layout is the same; otherwise it starts from the engine's
    seed.

    Returns:
        What was given to `CheckpointWriter.save` as ``training``.

    Raises:
        ArtifactError: It is of another architecture or tokenizer, lacks something, or cannot be read. The same on all
            ranks; weights may then be loaded in part.
    """
    settle(engine)
    return collective.agreed(lambda: _load(engine, found, optimizer, averages, tokenizer))


def _load(
    engine: "Engine", found: Checkpoint, optimizer: bool, averages: Sequence["WeightAverage"], tokenizer: str | None
) -> dict[str, Any]:
    training = _json(found.path / "training.json")
    check_identity(found, engine.spec, tokenizer)
    index = Index(found.path / "model")
    if optimizer and not any(key.startswith(moment_key(MOMENTS[0], "")) for key in index.tensors):
        raise ArtifactError(f"{found.path} holds no optimizer state: reset the optimizer")
    tensors = state.tensors_of(engine)
    for average in averages:
        average.prepare(index)
    slabs, fresh = _to_read(index, tensors, optimizer, averages)
    index.read(slabs)
    _set_steps(tensors, fresh, _json(found.path / OPTIMIZER) if optimizer else {})
    for average in averages:
        average.loaded()
    if optimizer and training.get("layout") == engine.layout.dump():
        _restore_random_state(found.path / random_file(collective.rank()))
    return training


def _to_read(
    index: Index, tensors: Iterable[state.Tensor], optimizer: bool, averages: Sequence["WeightAverage"]
) -> tuple[list[Slab], set[int]]:
    """What this rank reads, and the `id` of each parameter whose moments start afresh."""
    found: list[Slab] = []
    fresh: set[int] = set()
    for tensor in tensors:
        for piece in tensor.pieces:
            precise = tensor.value.dtype == torch.float32
            found += _first_of(index, piece, [MASTER, ""] if precise else [""], tensor.value.detach().view(-1), 0)
        shard = tensor.shard
        if shard is None:
            continue
        for piece in tensor.pieces:
            if tensor.value.dtype != torch.float32:
                found += _first_of(index, piece, [MASTER, ""], shard.main.detach().view(-1), shard.start)
            for average in averages:
                for prefix, flat in average.memory(tensor).items():
                    found += _first_of(index, piece, [prefix, MASTER, ""], flat, shard.start)
        moments = shard.state()
        parts = [
            slab
            for piece in tensor.pieces
            for moment in MOMENTS
            for slab in piece.slabs(moment_key(moment, piece.key), moments[moment].view(-1), shard.start)
        ]
        if optimizer and all(index.covers(slab) for slab in parts):
            found += parts
        else:
            fresh.add(id(tensor.value))
    return found, fresh


def _first_of(index: Index, piece: state.Piece, prefixes: Sequence[str], flat: torch.Tensor, begins: int) -> list[Slab]:
    """Boxes under the first prefix that the checkpoint has them under; under the last if under none."""
    for prefix in prefixes[:-1]:
        slabs = list(piece.slabs(prefix + piece.key, flat, begins))
        if all(index.covers(slab) for slab in slabs):
            return slabs
    return list(piece.slabs(prefixes[-1] + piece.key, flat, begins))


def _set_steps(tensors: Iterable[state.Tensor], fresh: set[int], steps: dict[str, Any]) -> None:
    for tensor in tensors:
        if tensor.shard is None:
            continue
        if id(tensor.value) in fresh:
            for moment in MOMENTS:
                tensor.shard.state()[moment].zero_()
            tensor.shard.set_step(0)
        else:
            name = state.step_name(tensor.pieces[0])
            tensor.shard.set_step(int(steps.get("other", {}).get(name, steps["step"])))


def check_identity(found: Checkpoint, spec: ModelSpec, tokenizer: str | None = None) -> None:
    """Check that a checkpoint is of an architecture, as far as it says.

    Raises:
        ArtifactError: It is of another one, or of another tokenizer; names both values.
    """
    stored = found.manifest.get("model")
    stored = stored if isinstance(stored, dict) else {}
    for name, wanted in spec.dump().items():
        if name not in _FREE and name in stored and stored[name] != wanted:
            raise ArtifactError(
                f"{found.path} is of another architecture: its {name} is {stored[name]}, this model's is {wanted}"
            )
    theirs = found.manifest.get("tokenizer")
    if tokenizer is not None and theirs is not None and theirs != tokenizer:
        raise ArtifactError(
            f"{found.path} was trained with tokenizer {theirs}, but the tokens were made with {tokenizer}"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ArtifactError(f"{path.parent} is no checkpoint of this program: it has no {path.name}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is unreadable ({type(error).__name__})") from None


def random_state() -> bytes:
    """This rank's random state."""
    held: dict[str, Any] = {"cpu": torch.get_rng_state(), "tracker": get_cuda_rng_tracker().get_states()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        held["cuda"] = torch.cuda.get_rng_state()
    buffer = io.BytesIO()
    torch.save(held, buffer)
    return buffer.getvalue()


def _restore_random_state(path: Path) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, though the checkpoint is of this very layout")
    held = torch.load(path, map_location="cpu", weights_only=True)
    torch.set_rng_state(held["cpu"])
    if "cuda" in held and torch.cuda.is_available():
        torch.cuda.set_rng_state(held["cuda"])
    get_cuda_rng_tracker().set_states(held["tracker"])
