"""The ``sft`` stage: a checkpoint goes in, one that knows how to chat comes out."""

import math
import shutil
from pathlib import Path

import pytest

import tatara.cluster
from posttrain.posttrain_cases import arithmetic, render, tokenizer_of
from tatara import config
from tatara.artifact import Artifact, Store
from tatara.chat import ChatTemplate, Renderer, read_conversations
from tatara.chat.model_files import check_chat
from tatara.errors import ArtifactError, DataError
from tatara.posttrain import sft_run
from tatara.posttrain.sft import STAGE, SftConfig
from tatara.stage import standalone
from tatara.train import pretrain_run
from tatara.train.feed.sources import tokenizer_directory
from tatara.train.pretrain import STAGE as PRETRAIN
from tatara.train.pretrain import PretrainConfig

SHORT = {"steps": 2, "global_batch_size": 4, "micro_batch_size": 4, "num_workers": 1, "validation_sequences": 100}


@pytest.fixture(scope="module")
def tokens(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("sft")
    return render(root, arithmetic(root), tokenizer_of(root, tokenizer))


@pytest.fixture(scope="module")
def trained(tokens: Artifact) -> tuple[Artifact, Artifact]:
    """A checkpoint of two steps, and what two steps of fine-tuning make of it."""
    root = Path(tokens.url).parents[1]
    tatara.cluster.connect(num_cpus=2)
    try:
        sizes = {"model.hidden_size": 32, "model.ffn_hidden_size": 48, "model.num_layers": 2}
        first = config.load(PretrainConfig, {}, {**SHORT, **sizes})
        with standalone(PRETRAIN, first, inputs={"tokens": tokens}, root=root, name="p") as attempt:
            before = attempt.commit(pretrain_run.run(first, attempt.stage_run))
        second = config.load(SftConfig, {}, {**SHORT, "optimizer.learning_rate": 1e-3})
        inputs = {"checkpoint": before, "tokens": tokens}
        with standalone(STAGE, second, inputs=inputs, root=root, name="s") as attempt:
            return before, attempt.commit(sft_run.run(second, attempt.stage_run))
    finally:
        tatara.cluster.disconnect()


@pytest.mark.ray
def test_the_loss_is_that_of_the_answers_alone(
    tokens: Artifact, trained: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    """Packed, masked and weighted, it is what transformers computes conversation by conversation."""
    import torch
    from transformers import AutoModelForCausalLM

    from tatara.train.convert.export import ExportConfig
    from tatara.train.convert.export_run import export_directory

    export_directory(ExportConfig(proof_tokens=0), trained[1].local(), tmp_path)
    check_chat(tmp_path)
    renderer = Renderer(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    stop = renderer.stop_token_ids[0]
    assert model.generation_config.eos_token_id == [stop, 0]
    losses = []
    for each in read_conversations(
        Store(Path(tokens.url).parents[1]).open("conversations/sums").file_url("validation.jsonl")
    ):
        prompt = renderer.prompt_ids(each.prompt)
        answer = [*renderer.prompt_ids([*each.messages, each.prompt[0]])[len(prompt) :]]
        answer = answer[: answer.index(stop) + 1]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none").tolist()
    assert trained[1].metrics["validation_loss"] == pytest.approx(math.fsum(losses) / len(losses), abs=2e-5)


@pytest.mark.ray
def test_the_template_goes_with_the_checkpoint(tokens: Artifact, trained: tuple[Artifact, Artifact]) -> None:
    template = ChatTemplate.load(tokens.local("tokenizer"))
    for checkpoint in trained:
        assert ChatTemplate.load(checkpoint.local("tokenizer")) == template
    assert trained[1].metrics["chat_template_sha256"] == template.sha256
    assert trained[1].metrics["chat_template"] == "chatml@1"
    assert trained[1].metrics["loss"] != trained[0].metrics["loss"]


def test_tokens_that_were_not_rendered_are_refused(tokens: Artifact, tokenizer: Path, tmp_path: Path) -> None:
    plain = tokenizer_of(tmp_path, tokenizer)
    for given, lacking in ((plain, "chat template"),):
        with pytest.raises(DataError, match=rf"{given.reference} has no {lacking}.*`tatara render`"):
            with standalone(
                STAGE, SftConfig(), inputs={"checkpoint": plain, "tokens": given}, root=tmp_path
            ) as attempt:
                sft_run.run(SftConfig(), attempt.stage_run)


def test_a_checkpoint_of_another_template_stops_with_both_hashes(
    tokens: Artifact, tokenizer: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tokenizer, other / "tokenizer")
    llama3, chatml = ChatTemplate.built_in("llama3"), ChatTemplate.built_in("chatml")
    sources = {"tokens": tokens.local()}
    assert tokenizer_directory(sources, other) == tokens.local() / "tokenizer"
    # Replay of tokens without a template does not take it away, nor does training on with them alone.
    assert tokenizer_directory({"replay": other, **sources}) == tokens.local() / "tokenizer"
    assert tokenizer_directory({"replay": other}, tokens.local()) == tokens.local() / "tokenizer"
    assert tokenizer_directory({"replay": other}, other) == other / "tokenizer"
    llama3.save(other / "tokenizer")
    with pytest.raises(ArtifactError) as caught:
        tokenizer_directory(sources, other)
    assert llama3.sha256 in str(caught.value)
    assert chatml.sha256 in str(caught.value)


def test_it_is_pretraining_with_other_defaults() -> None:
    assert set(SftConfig.model_fields) == set(PretrainConfig.model_fields)
    assert SftConfig().optimizer.weight_decay == 0
    assert SftConfig().initial.optimizer == "reset"
    assert SftConfig().optimizer.learning_rate < PretrainConfig().optimizer.learning_rate
