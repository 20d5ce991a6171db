"""What the ranks of the tests of averages do."""

import json
from pathlib import Path
from typing import Any

import torch

from tatara.train.checkpoint import directories, loading
from tatara.train.checkpoint.averages import WeightAverage
from tatara.train.checkpoint.writer import CheckpointWriter, load
from train.checkpoint.checkpoint_cases import build, save
from train.engine_cases import Run


def averages(tokens: str, root: str, layout: dict[str, Any], resume_in: dict[str, Any]) -> Any:
    """An EMA and a mean of the last three weights, kept by the ranks and by a plain loop; then resumed elsewhere."""
    run = build(tokens, layout, {})
    kept = [WeightAverage(run.engine, "ema", decay=0.7, every=2), WeightAverage(run.engine, "last", every=2, last=3)]
    reference = {name: value.double() for name, value in weights(run).items()}
    snapshots: list[dict[str, torch.Tensor]] = []
    for step in range(1, 9):
        run.step(step - 1)
        for average in kept:
            average.update(step)
        if step % 2 == 0:
            now = weights(run)
            reference = {name: 0.7 * value + (1 - 0.7) * now[name] for name, value in reference.items()}
            snapshots.append({name: value.double() for name, value in now.items()})
        if step == 6:
            writer = CheckpointWriter(run.engine, root, keep=1, averages=kept)
            writer.save(6, {"layout": run.engine.layout.dump()}, [])
    writer.finish()
    last = {name: torch.stack([each[name] for each in snapshots[-3:]]).mean(0) for name in reference}
    differences = []
    plain = weights(run)
    for average, expected in zip(kept, (reference, last), strict=True):
        with average.swapped():
            got = weights(run)
        differences.append(max(float((got[name] - expected[name]).abs().max()) for name in expected))
    restored = all(torch.equal(value, plain[name]) for name, value in weights(run).items())
    digests = [values(average) for average in kept]

    run = build(tokens, resume_in, {})
    again = [WeightAverage(run.engine, "ema", decay=0.7, every=2), WeightAverage(run.engine, "last", every=2, last=3)]
    load(run.engine, loading.find(root, print), averages=again)
    for step in (7, 8):
        run.step(step - 1)
        for average in again:
            average.update(step)
    same = [values(average) for average in again]
    ema_loss = []
    with again[0].swapped():
        ema_loss.append(run.validate()[0])
    return differences, restored, digests, same, ema_loss


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": value.detach().clone()
        for index, chunk in enumerate(run.engine.chunks)
        for name, value in chunk.named_parameters()
    }


def values(average: WeightAverage) -> list[float]:
    """Sums of what an average keeps on this rank."""
    return [float(flat.double().sum()) for ranges in average.ranges().values() for flat in ranges.values()]


def state_dict(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a distributed checkpoint, as PyTorch's own tool reads it."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    target = directory.parent / "plain.pt"
    dcp_to_torch_save(str(directory), str(target))
    found: dict[str, torch.Tensor] = torch.load(target)
    return found


def soup(tokens: str, root: str) -> None:
    """Two checkpoint payloads of different seeds, with averages, as the pretraining stage would leave them."""
    for number, name in enumerate(("one", "two")):
        run = build(tokens, {}, {"init_std": 0.1 + 0.01 * number})
        average = WeightAverage(run.engine, "ema", decay=0.5)
        run.step(number)
        average.update(1)
        writer = save(run, f"{root}/{name}", 1, averages=[average])
        writer.finish()
        payload = Path(root) / name / directories.name_of(1)
        (payload / "model.json").write_text(json.dumps(run.engine.spec.dump()))
        (payload / "tokenizer").mkdir()
        (payload / "tokenizer" / "tokenizer.json").write_text("{}")
