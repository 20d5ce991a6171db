"""``tatara consumed``: what a step of a run was trained on, and in which steps a document was."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from tatara.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from tatara.artifact import Artifact, Store
    from tatara.train.feed.batches import Packing
    from tatara.train.feed.consumed import Consumed, DocumentNames
    from tatara.train.feed.plan import TrainingPlan


@click.command()
@click.argument("checkpoint")
@click.option("--step", type=click.IntRange(1), help="A step, from 1, as losses and logs number them.")
@click.option("--document", metavar="ID", help="A document by its id; without --step, every step that it was in.")
@click.option("--source", metavar="NAME", help="Only this source of tokens.")
@click.option("--root", default=".tatara", show_default=True, help="Artifact root, a path or URL.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def consumed(
    checkpoint: str, step: int | None, document: str | None, source: str | None, root: str, as_json: bool
) -> None:
    """Say which documents a step of the run behind a CHECKPOINT was trained on, or in which steps a document was.

    Nothing is logged for it while training: the order of the data follows from the configuration.
    """
    from tatara.artifact import Store

    if step is None and document is None:
        raise ConfigError("consumed: say --step N, --document ID, or both")
    store = Store(root)
    run = open_run(store, store.resolve(checkpoint))
    if source is not None and source not in run.plan.names:
        raise ConfigError(f"--source {source}: the run has {', '.join(run.plan.names)}")
    found = run.find(step, document, [source] if source else run.plan.names)
    columns = ("step", "row", "source", "document", "offset", "length", "epoch")
    rows = list(run.rows(found))
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    if not rows:
        click.echo("nothing: this was not trained on")
        return
    cells = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for line in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@dataclass(frozen=True)
class ConsumedRun:
    """A run whose order of data is known again.

    Attributes:
        plan: The order.
        packings: Packing plan of each source.
        names: Ids of each source's documents.
    """

    plan: "TrainingPlan"
    packings: Mapping[str, "Packing"]
    names: Mapping[str, "DocumentNames"]

    def find(self, step: int | None, document: str | None, sources: Sequence[str]) -> "list[Consumed]":
        """What a step, counted from 1, or a document, or both, have to do with each other.

        Raises:
            ConfigError: The run has no such step, or no source such a document.
        """
        from tatara.train.feed import consumed as log

        if step is not None and step > self.plan.steps:
            raise ConfigError(f"--step {step}: the run has {self.plan.steps} steps")
        if document is None:
            assert step is not None
            return [each for each in log.consumed(self.plan, self.packings, step - 1) if each.source in sources]
        numbers = {name: self.names[name].number(document) for name in sources}
        known = {name: number for name, number in numbers.items() if number is not None}
        if not known:
            raise ConfigError(f"--document {document}: no document of {', '.join(sources)} has this id")
        found = [
            each
            for name, number in known.items()
            for each in log.seen(self.plan, self.packings, name, number)
            if step is None or each.step == step - 1
        ]
        return sorted(found, key=lambda each: (each.position, each.offset))

    def rows(self, found: "Sequence[Consumed]") -> list[dict[str, Any]]:
        """As literals, with the documents' own ids and steps counted from 1."""
        ids: dict[tuple[str, int], str] = {}
        for name in {each.source for each in found}:
            numbers = sorted({each.document for each in found if each.source == name})
            known = self.names[name].of(numbers)
            ids |= {(name, number): id for number, id in zip(numbers, known, strict=True)}
        return [
            dataclasses.asdict(each) | {"step": each.step + 1, "document": ids[each.source, each.document]}
            for each in found
        ]


def open_run(store: "Store", checkpoint: "Artifact") -> ConsumedRun:
    """The data order of the run that made a checkpoint, from its manifest and the tokens in its lineage.

    Raises:
        ArtifactError: It is no checkpoint of a training run, or its tokens are gone.
    """
    from tatara.config import load
    from tatara.train.feed.batches import read_packing
    from tatara.train.feed.consumed import DocumentNames
    from tatara.train.feed.phases import Skip
    from tatara.train.feed.plan import SourceSize
    from tatara.train.pretrain import STAGE, PretrainConfig

    # Fine-tuning is the same run with other defaults.
    if checkpoint.manifest.stage not in (STAGE.name, "sft"):
        raise ArtifactError(
            f"{checkpoint.reference} was made by {checkpoint.manifest.stage}, not by {STAGE.name} or sft: name the "
            "checkpoint of the training run"
        )
    config = load(PretrainConfig, checkpoint.manifest.config, where=f"{checkpoint.reference}: config")
    sizes, packings, names = {}, {}, {}
    for name, node in store.lineage(checkpoint).inputs.items():
        if not node.reference.startswith(f"{STAGE.inputs['tokens']}/"):
            continue
        if node.artifact is None:
            raise ArtifactError(f"{node.reference}, which {checkpoint.reference} was trained on, is not there any more")
        length = int(node.artifact.read_json("tokens.json")["sequence_length"])
        for entry in node.artifact.files("train-documents.parquet"):
            node.artifact.local(entry.path)
        path = node.artifact.local("train-packing.parquet")
        packings[name], names[name] = read_packing(path, length), DocumentNames(path.parent)
        sizes[name] = SourceSize(packings[name].num_bins, length)
    training = checkpoint.read_json("training.json")
    skips = [Skip.model_validate(each) for each in training.get("skips", [])]
    return ConsumedRun(config.plan(sizes).with_skips(skips), packings, names)
