"""A reward model through vLLM and through transformers: the same scores as the model itself gives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tatara.errors import ConfigError
from tatara.rl.record import Prompt
from tatara.rl.rewards.completion import Completion, Failure
from tatara.rl.rewards.kinds import RewardModelConfig
from tatara.rl.rewards.reward_model import RewardModel, check_reward_model

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
QUESTION = Prompt("p", "s", ({"role": "user", "content": "the quick brown fox?"},), (5, 9, 100, 7))
COMPLETIONS = [
    Completion(QUESTION, "jumps over the lazy dog", (7, 8, 30)),
    Completion(QUESTION, "a furnace turns iron sand into steel", tuple(range(20, 60))),
    Completion(QUESTION, "def add(first, second)", tuple(range(100))),
]
SCRIPT = """
import json, sys
from rl.rewards.test_reward_model import COMPLETIONS
from tatara.rl.rewards.config import ScoringConfig
from tatara.rl.rewards.kinds import RewardModelConfig
from tatara.rl.rewards.scorer import Scorer

if __name__ == "__main__":
    settings = {"model": sys.argv[1], "vllm_args": {"kv_cache_memory_bytes": 32 << 20, "max_model_len": 96}}
    scorer = Scorer({"liked": RewardModelConfig(input="tokens", max_tokens=96, **settings)}, ScoringConfig())
    verdicts = [(verdict.parts, verdict.errors) for verdict in scorer.score(COMPLETIONS * 2)]
    scorer.close()
    print(json.dumps(verdicts))
"""


def write_reward_model(directory: Path, labels: int = 1) -> Path:
    """A tiny random Llama with a scalar head, and a tokenizer with a chat template."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    from engine.tiny_llama import write_tiny_llama

    write_tiny_llama(directory, context=128)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    (directory / "model.safetensors").unlink()
    config = LlamaConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        num_labels=labels, dtype="float32",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_reward_model(tmp_path_factory.mktemp("reward") / "model")


@pytest.fixture(scope="module")
def score_alone(directory):
    """The model's own score of a sequence of tokens, without any code of ours."""
    import torch
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification.from_pretrained(directory).eval()

    def score(tokens):
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0, 0].item()

    return score


def test_transformers_scores_the_conversation(directory, score_alone):
    from transformers import AutoTokenizer

    score = RewardModel(RewardModelConfig(model=str(directory), engine="transformers"), cuda=False).start()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    texts = [f"user: the quick brown fox?\nassistant: {each.response}\n" for each in COMPLETIONS]
    expected = [score_alone(tokenizer(text)["input_ids"]) for text in texts]
    assert score(COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.1


def test_a_sigmoid_and_a_limit(directory, score_alone):
    import math

    settings = {"engine": "transformers", "input": "tokens", "activation": "sigmoid", "max_tokens": 50}
    score = RewardModel(RewardModelConfig(model=str(directory), **settings), cuda=False).start()
    raw = [score_alone([*QUESTION.token_ids, *each.response_ids]) for each in COMPLETIONS[:2]]
    assert score(COMPLETIONS) == [
        pytest.approx(1 / (1 + math.exp(-raw[0])), abs=1e-6),
        pytest.approx(1 / (1 + math.exp(-raw[1])), abs=1e-6),
        Failure("104 tokens are more than the reward model's 50"),
    ]


@pytest.mark.alone
def test_vllm_scores_as_the_model_does(directory, score_alone):
    command = [sys.executable, "-c", SCRIPT, str(directory)]
    environment = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    verdicts = json.loads(done.stdout.strip().splitlines()[-1])
    expected = [score_alone([*QUESTION.token_ids, *each.response_ids]) for each in COMPLETIONS[:2]] * 2
    scored = [parts["liked"] for parts, errors in verdicts if not errors]
    assert scored == pytest.approx(expected, abs=1e-4)
    assert [errors for _, errors in verdicts][2] == {"liked": "104 tokens are more than the reward model's 96"}


def test_what_is_no_reward_model_is_refused(tmp_path, directory):
    two = write_reward_model(tmp_path / "two", labels=2)
    with pytest.raises(ConfigError, match=r"reward liked: .* has 2 labels; a reward model has one"):
        check_reward_model(RewardModelConfig(model=str(two)), "liked")
    (two / "config.json").write_text((directory / "config.json").read_text())
    (two / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"reward liked: .* has no chat template; set input to tokens"):
        check_reward_model(RewardModelConfig(model=str(two)), "liked")
    check_reward_model(RewardModelConfig(model=str(two), input="tokens"), "liked")
