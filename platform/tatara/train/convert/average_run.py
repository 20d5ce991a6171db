"""The ``average`` stage: the mean of distributed checkpoints, tensor by tensor, without building the model.

The sums are taken in float64 and rounded once. The result has no optimizer state: whoever trains on starts it afresh.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tatara.artifact import Artifact
from tatara.errors import ArtifactError, ConfigError
from tatara.stage import StageRun
from tatara.train.convert.average import AverageConfig
from tatara.train.convert.task import in_task, output_below
from tatara.train.feed.sources import tokenizer_directory

if TYPE_CHECKING:
    from tatara.train.checkpoint.files import Slab
    from tatara.train.checkpoint.index import Index

# Of the architecture, what does not matter to a mean of weights.
_FREE = {"init_std"}


@dataclass(frozen=True)
class Source:
    """One checkpoint that is averaged.

    Attributes:
        name: Of the input.
        path: Payload: ``model/``, ``model.json``, ``training.json``, ``tokenizer/``.
        share: Of the mean.
    """

    name: str
    path: Path
    share: float


def run(config: AverageConfig, stage_run: StageRun) -> dict[str, Any]:
    """Average the checkpoints; returns what was averaged.

    Raises:
        ArtifactError: They are of different architectures or tokenizers, or lack the weights that are asked for.
        ClusterError: The cluster cannot hold the task.
        ConfigError: ``weights`` does not fit the inputs.
        EngineError: The task did not finish in time.
    """
    shares = shares_of(config, list(stage_run.inputs))
    summary: dict[str, Any] = in_task(
        average_artifacts,
        *(config, dict(stage_run.inputs), shares, stage_run.output.url),
        name="average",
        num_cpus=config.num_cpus,
        timeout=config.timeout,
        log=stage_run.log,
    )
    told = ", ".join(f"{name} {share:.3g}" for name, share in shares.items())
    stage_run.log(f"{summary['tensors']} tensors, {summary['parameters']:,} parameters, of {told}")
    return summary


def shares_of(config: AverageConfig, names: Sequence[str]) -> dict[str, float]:
    """Each input's share of the mean.

    Raises:
        ConfigError: ``weights`` names other inputs, or has one that is not positive.
    """
    weights = dict.fromkeys(names, 1.0) if config.weights is None else config.weights
    if set(weights) != set(names):
        raise ConfigError(f"weights is for {', '.join(sorted(weights))}, but the inputs are {', '.join(sorted(names))}")
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise ConfigError(f"weights.{name}={weight} must be positive: leave the input out instead")
    return {name: weights[name] / sum(weights.values()) for name in names}


def average_artifacts(
    config: AverageConfig, inputs: Mapping[str, Artifact], shares: Mapping[str, float], url: str
) -> dict[str, Any]:
    """Average checkpoint artifacts below a URL; see `average_directories`."""
    sources = [Source(name, inputs[name].local(), share) for name, share in shares.items()]
    with output_below(url) as directory:
        return average_directories(config, sources, directory)


def average_directories(config: AverageConfig, sources: Sequence[Source], directory: Path) -> dict[str, Any]:
    """Average payloads of checkpoints of this machine into a directory.

    Args:
        config: Which weights.
        sources: The first one gives the types, the tokenizer, and the facts about the training.
        directory: Existing directory to write ``model/``, ``model.json``, ``training.json`` and ``tokenizer/`` into.

    Returns:
        ``checkpoints``, ``tensors``, ``parameters``.

    Raises:
        ArtifactError: See `run`.
    """
    from tatara.train.checkpoint.files import write_index, write_slabs
    from tatara.train.checkpoint.index import Index

    specs = [_json(source.path / "model.json") for source in sources]
    tokenizers = [_tokenizer_hash(source.path / "tokenizer") for source in sources]
    _check_alike(sources, specs, tokenizers)
    # Of checkpoints that can chat, the chat template must be the same, too.
    tokenizer = tokenizer_directory({source.name: source.path for source in sources})
    indices = [Index(source.path / "model") for source in sources]
    keys = _weights(sources, indices)
    (directory / "model").mkdir()
    slabs = _averaged(config, sources, indices, keys)
    stored, _ = write_slabs(directory / "model" / "__0_0.distcp", slabs)
    write_index(directory / "model", stored, {"format": "tatara"}, indices[0].empty())
    training = _json(sources[0].path / "training.json")
    told = {"which": config.which, "shares": {source.name: source.share for source in sources}}
    # What belongs to the layout and the optimizer of the first one is not there any more.
    kept = {name: value for name, value in training.items() if name not in ("layout", "world_size", "optimizer")}
    _write_json(directory / "training.json", {**kept, "average": told})
    _write_json(directory / "model.json", specs[0])
    if tokenizers[0] is not None:
        shutil.copytree(tokenizer, directory / "tokenizer")
    return {
        "checkpoints": len(sources),
        "tensors": len(keys),
        "parameters": sum(indices[0].tensors[key].size.numel() for key in keys),
    }


def _averaged(
    config: AverageConfig, sources: Sequence[Source], indices: Sequence["Index"], keys: Sequence[str]
) -> Iterator["Slab"]:
    import torch

    from tatara.train.checkpoint.files import Slab

    for key in keys:
        known = indices[0].tensors[key]
        for chunk in known.chunks:
            for offsets, sizes in _parts(tuple(chunk.offsets), tuple(chunk.sizes), config.largest_read):
                mean = torch.zeros(sizes, dtype=torch.float64)
                for source, index in zip(sources, indices, strict=True):
                    for name, factor in _names(config.which, index, key, source):
                        mean.add_(index.box(name, offsets, sizes).double(), alpha=source.share * factor)
                yield Slab(key, tuple(known.size), offsets, sizes, mean.to(known.properties.dtype))


def _parts(
    offsets: tuple[int, ...], sizes: tuple[int, ...], largest: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A box, cut along its longest dimension until no part has more elements than that."""
    total = 1
    for size in sizes:
        total *= size
    longest = max(range(len(sizes)), key=lambda dimension: sizes[dimension], default=0)
    if total <= largest or sizes[longest] == 1:
        yield offsets, sizes
        return
    half = sizes[longest] // 2
    for start, length in ((0, half), (half, sizes[longest] - half)):
        cut = (*sizes[:longest], length, *sizes[longest + 1 :])
        moved = (*offsets[:longest], offsets[longest] + start, *offsets[longest + 1 :])
        yield from _parts(moved, cut, largest)


def _names(which: str, index: "Index", key: str, source: Source) -> list[tuple[str, float]]:
    """Names of the tensors that make up a weight of a checkpoint, and how much of each."""
    from tatara.train.checkpoint.names import EMA, MASTER, last_prefix, snapshots

    if which == "model":
        return [(MASTER + key if MASTER + key in index.tensors else key, 1.0)]
    count = snapshots(index.tensors) if which == "last" else int(any(each.startswith(EMA) for each in index.tensors))
    if not count:
        raise ArtifactError(
            f"{source.name} ({source.path}) keeps no average of kind {which}: turn it on in the run that makes it"
        )
    prefixes = [EMA] if which == "ema" else [last_prefix(place) for place in range(count)]
    # What is not trained (buffers, frozen weights) has no average of its own.
    names = [prefix + key for prefix in prefixes if prefix + key in index.tensors] or [key]
    return [(name, 1.0 / len(names)) for name in names]


def _weights(sources: Sequence[Source], indices: Sequence["Index"]) -> list[str]:
    """Names of the weights, which all checkpoints must have in the same shapes."""
    from tatara.train.checkpoint.names import is_weight

    shapes = [{key: tuple(each.size) for key, each in index.tensors.items() if is_weight(key)} for index in indices]
    for source, found in zip(sources[1:], shapes[1:], strict=True):
        for key in sorted(found.keys() | shapes[0].keys()):
            if found.get(key) != shapes[0].get(key):
                raise ArtifactError(
                    f"{key} has shape {shapes[0].get(key)} in {sources[0].name}, but {found.get(key)} in {source.name}"
                )
    return sorted(shapes[0])


def _check_alike(
    sources: Sequence[Source], specs: Sequence[Mapping[str, Any]], tokenizers: Sequence[str | None]
) -> None:
    first = sources[0]
    for source, spec, tokenizer in zip(sources[1:], specs[1:], tokenizers[1:], strict=True):
        for name in sorted((spec.keys() | specs[0].keys()) - _FREE):
            if spec.get(name) != specs[0].get(name):
                raise ArtifactError(
                    f"checkpoints of different architectures have no mean: {name} is {specs[0].get(name)} in "
                    f"{first.name}, but {spec.get(name)} in {source.name}"
                )
        if tokenizer != tokenizers[0]:
            raise ArtifactError(
                f"checkpoints of different tokenizers have no mean: {tokenizers[0]} in {first.name}, but "
                f"{tokenizer} in {source.name}"
            )


def _tokenizer_hash(directory: Path) -> str | None:
    """Hash of the tokenizer's own file; None where a checkpoint has no tokenizer."""
    file = directory / "tokenizer.json"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: this is not a checkpoint artifact") from None
    except (ValueError, TypeError):
        raise ArtifactError(f"{path} is unreadable") from None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
