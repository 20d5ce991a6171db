"""The ``render`` stage: conversations to Megatron token files with loss weights and packing plans."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara.artifact import Artifact
from tatara.chat import Conversation, Renderer, read_conversations
from tatara.chat.template import BUILT_IN, ChatTemplate
from tatara.data import indexed
from tatara.data.packing.config import PackingConfig
from tatara.data.packing.plan import pack, write_plan
from tatara.data.shard_map import map_shards
from tatara.data.tokenizer import directory as tokenizers
from tatara.errors import ConfigError, DataError
from tatara.posttrain.choosing import choose_template, read_jinja
from tatara.posttrain.render import RenderConfig
from tatara.stage import SourceFile, StageRun

SPLITS = ("train", "validation")
_SHARD = 20_000
_ROWS_SHOWN = 40


@dataclass(frozen=True)
class Rendered:
    """Conversations as tokens, one after the other.

    Attributes:
        ids: Name of each conversation: ``[conversations]``.
        tokens: Token ids of all of them: ``[tokens]``.
        weights: How much each counts as a target: ``[tokens]``.
        lengths: Tokens of each conversation: ``[conversations]``.
        dropped: Conversations that are left out, by reason.
    """

    ids: list[str]
    tokens: NDArray[np.int32]
    weights: NDArray[np.float16]
    lengths: NDArray[np.int64]
    dropped: dict[str, int]


def sources(config: RenderConfig) -> list[SourceFile]:
    """What identifies the template, for the stage's fingerprint: a user's by content, ours by name and version."""
    if config.template_file is not None:
        text, path = read_jinja(config.template_file), config.template_file
    else:
        text = json.dumps({name: ChatTemplate.built_in(name).sha256 for name in BUILT_IN})
        path = "chat-templates"
    data = text.encode()
    return [SourceFile(path, len(data), hashlib.sha256(data).hexdigest())]


def run(config: RenderConfig, stage_run: StageRun) -> dict[str, Any]:
    """Render and pack.

    Returns:
        Conversations, tokens, trained tokens and sequences of each split, and what was dropped.

    Raises:
        ConfigError: No tokenizer is given, or it lacks special tokens, or the template cannot be used.
        ArtifactError: The tokenizer goes with another template already.
        DataError: No conversation is left of a split, or one is too long and ``too_long=stop``.
    """
    given = _tokenizer(stage_run)
    directory = stage_run.output.path
    shutil.copytree(given, directory / "tokenizer")
    template = choose_template(config, given)
    template.save(directory / "tokenizer")
    renderer = Renderer(directory / "tokenizer")
    loaded = tokenizers.load(str(directory / "tokenizer"))
    vocab_size = tokenizers.vocabulary_size(loaded.tokenizer)
    stage_run.log(f"chat template {template.name}@{template.version} {template.sha256[:12]}")
    figures: dict[str, Any] = {}
    plans: dict[str, Any] = {}
    dropped: Counter[str] = Counter()
    sample: list[list[Any]] = []
    for split in SPLITS:
        found = _render(stage_run.inputs["conversations"], split, config, renderer.directory)
        dropped.update(found.dropped)
        sample = _sample(found, renderer)
        plans[split] = _write(directory, split, found, config.sequence_length, vocab_size)
        figures |= {
            f"{split}_documents": len(found.lengths),
            f"{split}_tokens": len(found.tokens),
            f"{split}_trained_tokens": int((found.weights > 0).sum()),
            f"{split}_sequences": plans[split]["sequences"],
            f"{split}_fill": round(plans[split]["fill"], 6),
        }
    described = {
        "vocab_size": vocab_size,
        "eos_id": loaded.tokenizer.token_to_id(loaded.end_of_text),
        "sequence_length": config.sequence_length,
        "dtype": indexed.token_type(vocab_size).name,
        "tokenizer_sha256": hashlib.sha256((directory / "tokenizer" / tokenizers.MODEL).read_bytes()).hexdigest(),
        "chat_template": template.description(),
        "dropped": dict(dropped),
        **figures,
        "packing": {"strategy": PackingConfig().strategy, **plans},
    }
    text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    (directory / "tokens.json").write_text(text, encoding="utf-8")
    _report(figures, dropped, template, sample, stage_run)
    return {"vocab_size": vocab_size, **figures, "dropped": sum(dropped.values())}


def _tokenizer(stage_run: StageRun) -> Path:
    found = [stage_run.inputs[name] for name in ("checkpoint", "tokenizer") if name in stage_run.inputs]
    if len(found) != 1:
        raise ConfigError(
            "render needs one tokenizer: --input checkpoint=checkpoint/NAME, or --input tokenizer=tokens/NAME"
            + (", not both" if found else "")
        )
    return found[0].local() / "tokenizer"


def _render(conversations: Artifact, split: str, config: RenderConfig, tokenizer: Path) -> Rendered:
    """Render a split, a task per some thousand conversations."""
    url = conversations.file_url(f"{split}.jsonl")
    count = int(conversations.read_json("conversations.json")[split]["conversations"])

    def task(item: dict[str, Any]) -> tuple[int, Rendered]:
        first: int = item["first"]
        rows = list(read_conversations(url, first, _SHARD))
        return first, render_all(rows, Renderer(tokenizer), config, url)

    items = [{"first": first} for first in range(0, count, _SHARD)]
    # What is few is done right here: a task of its own would take longer to start.
    parts = dict([task(items[0])] if len(items) == 1 else map_shards(task, items))
    found = [parts[item["first"]] for item in items]
    dropped: Counter[str] = Counter()
    for part in found:
        dropped.update(part.dropped)
    if not sum(len(part.ids) for part in found):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "there are none"
        raise DataError(
            f"no conversation of {conversations.reference} is left for {split} ({reasons}): raise sequence_length="
            f"{config.sequence_length}, or give conversations with answers"
        )
    return Rendered(
        [id for part in found for id in part.ids],
        np.concatenate([part.tokens for part in found]),
        np.concatenate([part.weights for part in found]),
        np.concatenate([part.lengths for part in found]),
        dict(dropped),
    )


def render_all(rows: list[Conversation], renderer: Renderer, config: RenderConfig, url: str) -> Rendered:
    """Render conversations in order.

    Args:
        rows: The conversations.
        renderer: The tokenizer and its template.
        config: Longest sequence, and what to do about a longer one.
        url: Where they are from, for errors.

    Raises:
        DataError: The template refuses one, or it is too long and ``too_long=stop``.
    """
    ids: list[str] = []
    tokens: list[int] = []
    weights: list[float] = []
    lengths: list[int] = []
    dropped: Counter[str] = Counter()
    for each in rows:
        try:
            made, weight = renderer.conversation(each.messages)
        except DataError as error:
            raise DataError(f"{url}: conversation {each.id}: {error}") from None
        if len(made) - 1 > config.sequence_length:
            if config.too_long == "stop":
                raise DataError(
                    f"{url}: conversation {each.id} has {len(made)} tokens, but sequence_length is "
                    f"{config.sequence_length}: raise it, or pass --too_long drop"
                )
            dropped["longer than a sequence"] += 1
        elif not any(weight[1:]):
            dropped["without a trained answer"] += 1
        else:
            ids.append(each.id)
            tokens += made
            weights += weight
            lengths.append(len(made))
    return Rendered(
        ids, np.array(tokens, np.int32), np.array(weights, np.float16), np.array(lengths, np.int64), dict(dropped)
    )


def _write(directory: Path, split: str, found: Rendered, sequence_length: int, vocab_size: int) -> dict[str, Any]:
    """Write a split the way ``tokenize`` does, with weights; returns figures of its packing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = indexed.token_type(vocab_size)
    (directory / f"{split}.bin").write_bytes(found.tokens.astype(kind).tobytes())
    (directory / f"{split}-weights.bin").write_bytes(found.weights.tobytes())
    indexed.write_index(directory / f"{split}.idx", found.lengths, kind)
    plan = pack(found.lengths, sequence_length)
    write_plan(directory / f"{split}-packing.parquet", plan, PackingConfig())
    names = {"number": np.arange(len(found.ids)), "id": found.ids, "source": ["conversations"] * len(found.ids)}
    pq.write_table(pa.table(names), directory / f"{split}-documents.parquet", compression="zstd")
    return plan.figures(found.lengths)


def _sample(found: Rendered, renderer: Renderer) -> list[list[Any]]:
    """The first conversation in runs of tokens that are trained on or not."""
    pairs = zip(found.tokens[: found.lengths[0]].tolist(), found.weights[: found.lengths[0]].tolist(), strict=True)
    rows = []
    for trained, run in groupby(pairs, key=lambda pair: pair[1] > 0):
        ids = [number for number, _ in run]
        rows.append(["trained" if trained else "", len(ids), renderer.decode(ids)])
    return rows[:_ROWS_SHOWN]


def _report(
    figures: dict[str, Any], dropped: Counter[str], template: ChatTemplate, sample: list[list[Any]], stage_run: StageRun
) -> None:
    columns = ["documents", "tokens", "trained_tokens", "sequences", "fill"]
    named = [name.replace("_", " ").replace("documents", "conversations") for name in columns]
    tables = [
        {
            "title": f"Conversations as tokens: {template.name}@{template.version}, {template.sha256[:12]}",
            "columns": ["split", *named],
            "rows": [[split, *(figures[f"{split}_{name}"] for name in columns)] for split in SPLITS],
        },
        {"title": "What is trained on, in one conversation", "columns": ["", "tokens", "text"], "rows": sample},
    ]
    if dropped:
        rows = [[reason, count] for reason, count in dropped.items()]
        tables.append({"title": "Conversations left out", "columns": ["reason", "conversations"], "rows": rows})
    stage_run.report("table", tables)
    for reason, count in dropped.items():
        stage_run.log(f"left out: {count:,} conversations {reason}")
    stage_run.log(
        f"{figures['train_documents']:,} conversations of {figures['train_tokens']:,} tokens, "
        f"{figures['train_trained_tokens']:,} of them trained, in {figures['train_sequences']:,} sequences, "
        f"{figures['train_fill']:.2%} full"
    )
