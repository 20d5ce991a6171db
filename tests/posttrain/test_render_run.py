"""The ``render`` stage: token files that the trainer reads, with weights on what the assistant says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from chat.chat_cases import CHAT_TOKENS, OWN, TEMPLATES, write_tokenizer
from posttrain.posttrain_cases import arithmetic, conversations, render, tokenizer_of
from tatara.artifact import Artifact
from tatara.chat import ChatTemplate, Renderer, read_conversations
from tatara.errors import ArtifactError, ConfigError, DataError
from tatara.posttrain import render_run
from tatara.posttrain.render import RenderConfig


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return arithmetic(tmp_path_factory.mktemp("sums"))


@pytest.mark.parametrize("name", [*TEMPLATES, "own"])
def test_the_trainer_reads_every_answer_once(name: str, sums: Artifact, tokenizer: Path, tmp_path: Path) -> None:
    from tatara.train.feed.batches import PackedTokens, read_tokens_json

    given = {"template": name}
    if name == "own":
        (tmp_path / "own.jinja").write_text(OWN)
        given = {"template_file": str(tmp_path / "own.jinja")}
    made = render(tmp_path, sums, tokenizer_of(tmp_path, tokenizer), **given)
    directory = made.local()
    described = read_tokens_json(directory)
    renderer = Renderer(directory / "tokenizer")
    assert described["chat_template"]["sha256"] == renderer.template.sha256
    for split, count in (("train", 60), ("validation", 12)):
        packed = PackedTokens(directory, split, 64, described["vocab_size"])
        batch = packed.batch(np.arange(packed.num_bins))
        trained = renderer.decode(batch.targets[batch.loss_weights > 0].tolist())
        stop = renderer.template.stop_tokens[0]
        answers = [each.metadata["answer"] for each in read_conversations(sums.file_url(f"{split}.jsonl"))]
        assert sorted(trained.removesuffix(stop).split(stop)) == sorted(answers)
        assert set(np.unique(batch.loss_weights)) == {0.0, 1.0}
        # A conversation is one segment, from its first token on.
        starts = (batch.position_ids == 0) & (batch.document_ids >= 0)
        assert starts.sum() == count == described[f"{split}_documents"]
        whole = [packed.tokens.read(number, 0, int(length)) for number, length in enumerate(packed.tokens.lengths)]
        said = read_conversations(sums.file_url(f"{split}.jsonl"))
        assert [renderer.decode(ids.tolist()) for ids in whole] == [renderer.template.render(c.messages) for c in said]
        assert described[f"{split}_trained_tokens"] == (batch.loss_weights > 0).sum()


def test_the_tokenizer_stays_byte_for_byte(sums: Artifact, tokenizer: Path, tmp_path: Path) -> None:
    made = render(tmp_path, sums, tokenizer_of(tmp_path, tokenizer))
    for file in tokenizer.iterdir():
        assert (made.local("tokenizer") / file.name).read_bytes() == file.read_bytes(), file.name
    assert ChatTemplate.load(made.local("tokenizer")) == ChatTemplate.built_in("chatml")


def test_what_is_too_long_or_has_no_answer_is_left_out_and_counted(tokenizer: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}", "completion": "x"} for number in range(20)]
    rows += [{"prompt": f"long {number}", "completion": "8" * 100} for number in range(10)]
    rows += [{"prompt": f"ask {number}"} for number in range(10)]
    rows += [
        {"messages": [{"role": "user", "content": f"u {n}"}, {"role": "assistant", "content": "no", "weight": 0}]}
        for n in range(10)
    ]
    said, given = conversations(tmp_path, rows), tokenizer_of(tmp_path, tokenizer)
    made = render(tmp_path, said, given)
    assert made.read_json("tokens.json")["dropped"] == {"longer than a sequence": 10, "without a trained answer": 20}
    assert made.metrics["dropped"] == 30
    assert made.metrics["train_documents"] + made.metrics["validation_documents"] == 20
    with pytest.raises(DataError, match=r"has 1\d\d tokens, but sequence_length is 64: raise it"):
        render(tmp_path, said, given, name="stopped", too_long="stop")
    with pytest.raises(DataError, match=r"no conversation of .* is left for train \(.*longer than a sequence"):
        render(tmp_path, said, given, name="nothing", sequence_length=4)


def test_many_conversations_are_rendered_in_parts(
    sums: Artifact, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = render(tmp_path, sums, tokenizer_of(tmp_path, tokenizer))
    url = sums.file_url("train.jsonl")
    renderer, config = Renderer(whole.local("tokenizer")), RenderConfig(sequence_length=64)
    parts = [
        render_run.render_all(list(read_conversations(url, first, 25)), renderer, config, url) for first in (0, 25, 50)
    ]
    tokens = np.concatenate([part.tokens for part in parts])
    assert tokens.astype(np.uint16).tobytes() == whole.local("train.bin").read_bytes()


def test_a_tokenizer_keeps_its_template(sums: Artifact, tokenizer: Path, tmp_path: Path) -> None:
    bound = tmp_path / "bound"
    shutil.copytree(tokenizer, bound)
    llama3, chatml = ChatTemplate.built_in("llama3", CHAT_TOKENS), ChatTemplate.built_in("chatml")
    llama3.save(bound)
    given = tokenizer_of(tmp_path, bound)
    assert ChatTemplate.load(render(tmp_path, sums, given).local("tokenizer")) == llama3
    with pytest.raises(ArtifactError) as caught:
        render(tmp_path, sums, given, name="other", template="chatml")
    assert llama3.sha256 in str(caught.value)
    assert chatml.sha256 in str(caught.value)


def test_a_tokenizer_from_elsewhere_brings_its_own(sums: Artifact, tokenizer: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(tokenizer, foreign)
    (foreign / "chat_template.jinja").write_text(OWN)
    made = render(tmp_path, sums, tokenizer_of(tmp_path, foreign))
    template = ChatTemplate.load(made.local("tokenizer"))
    assert (template.name, template.text, template.stop_tokens) == ("own", OWN, ("<|eot_id|>",))


def test_special_tokens_that_are_missing_are_named(sums: Artifact, tmp_path: Path) -> None:
    bare = write_tokenizer(tmp_path / "bare", ())
    with pytest.raises(ConfigError, match=r"--special_tokens '\[\"<\|im_start\|>\", \"<\|im_end\|>\"\]'"):
        render(tmp_path, sums, tokenizer_of(tmp_path, bare))
    with pytest.raises(ConfigError, match="brings no chat template: choose chatml or llama3"):
        render(tmp_path, sums, tokenizer_of(tmp_path, bare, "again"), name="own", template="own")


def test_one_tokenizer_is_needed(sums: Artifact, tmp_path: Path) -> None:
    from tatara.posttrain.render import STAGE
    from tatara.stage import standalone

    config = RenderConfig()
    with pytest.raises(ConfigError, match=r"--input checkpoint=checkpoint/NAME, or --input tokenizer=tokens/NAME"):
        with standalone(STAGE, config, inputs={"conversations": sums}, root=tmp_path) as attempt:
            render_run.run(config, attempt.stage_run)


def test_a_template_file_is_identified_by_its_content(tmp_path: Path) -> None:
    for name, text in (("a", OWN), ("b", OWN), ("c", OWN + " ")):
        (tmp_path / f"{name}.jinja").write_text(text)
    configs = [RenderConfig(template_file=str(tmp_path / f"{name}.jinja")) for name in "abc"]
    first, second, third = ([file.sha256 for file in render_run.sources(config)] for config in configs)
    assert first == second != third
    assert json.dumps(configs[0].identity()) == json.dumps(configs[2].identity())
