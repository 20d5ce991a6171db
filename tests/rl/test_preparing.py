"""What a run is prepared from: the policy's tokenizer and template, and conversations; and what does not fit it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.posttrain_cases import arithmetic
from tatara.artifact import Artifact
from tatara.chat import ChatTemplate, Renderer
from tatara.config import load
from tatara.errors import ArtifactError, ConfigError, DataError
from tatara.model.spec import ModelSpec
from tatara.rl.grpo import GrpoConfig
from tatara.rl.preparing import Prepared, prepare
from tatara.rl.prompts import read_prompts

SPEC = ModelSpec(vocab_size=512, num_layers=2, hidden_size=64, ffn_hidden_size=96, max_position_embeddings=64)
STAGE = {"name": "only", "prompts": {"sums": 1}, "groups_per_batch": 2, "group_size": 2, "max_response_tokens": 8}
CONFIG = {
    "steps": 2,
    "stages": [STAGE],
    "rewards": {"right": {"kind": "math"}},
    "sequence_length": 64,
    "micro_batch_size": 2,
    "evaluation": {"interval": 1, "prompts": 3, "sampling": {"max_response_tokens": 8}},
}


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return arithmetic(tmp_path_factory.mktemp("sums"), train=12, validation=6)


@pytest.fixture
def policy(tokenizer: Path, tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(tokenizer, tmp_path / "policy"))
    ChatTemplate.built_in("chatml").save(directory)
    return directory


def prepared(policy: Path, sums: Artifact, **changes: object) -> Prepared:
    return prepare(load(GrpoConfig, CONFIG, changes), SPEC, policy, {"sums": sums}, policy.parent)


def test_prompts_are_rendered_by_the_policys_template_and_leave_room_for_the_response(policy, sums):
    found = prepared(policy, sums)
    renderer, prompts = Renderer(policy), read_prompts(found.prompts)
    assert len(prompts) == 12
    assert all(list(each.token_ids) == renderer.prompt_ids(each.messages) for each in prompts)
    assert found.buffer.stages[0].max_prompt_tokens == 64 - 8
    assert found.buffer.stop_token_ids == renderer.stop_token_ids
    assert len(read_prompts(found.held_out)) == 3


def test_conversations_for_another_template_are_refused_with_both_hashes(policy, sums):
    copy = Path(shutil.copytree(sums.local(), policy.parent / "copy"))
    other = ChatTemplate.built_in("llama3")
    other.save(copy)
    with pytest.raises(ArtifactError, match="the policy and the prompts of sums") as caught:
        prepared(policy, replace(sums, url=str(copy)))
    assert other.sha256 in str(caught.value)
    assert ChatTemplate.built_in("chatml").sha256 in str(caught.value)


def test_a_policy_without_a_template_is_refused(tokenizer, tmp_path, sums):
    with pytest.raises(ArtifactError, match="chat template"):
        prepared(Path(shutil.copytree(tokenizer, tmp_path / "bare")), sums)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"stages": [STAGE | {"max_response_tokens": 64}]}, ConfigError, "stage 'only' allows responses of 64 tokens"),
        (
            {"stages": [STAGE | {"max_response_tokens": 60}]},
            DataError,
            "of 'sums' has .* tokens, stage 'only' allows 4",
        ),
        ({"evaluation.sampling.max_response_tokens": 62}, DataError, "no held-out prompt is shorter than the 2 tokens"),
    ],
    ids=["response", "prompts", "held out"],
)
def test_what_does_not_fit_the_context_is_named(policy, sums, changes, error, message):
    with pytest.raises(error, match=message):
        prepared(policy, sums, **changes)
