"""The mean of checkpoints, against PyTorch's reading of their files and plain arithmetic."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.ranks import run_ranks
from tatara.errors import ArtifactError, ConfigError
from tatara.train.convert.average import AverageConfig
from tatara.train.convert.average_run import Source, average_directories, shares_of
from train.checkpoint import average_cases
from train.tokens_cases import write_tokens


@pytest.fixture(scope="module")
def payloads(tmp_path_factory):
    directory = tmp_path_factory.mktemp("soup")
    tokens = str(write_tokens(directory / "tokens"))
    run_ranks(1, average_cases.soup, tokens, str(directory))
    return [directory / name / "step-00000001" for name in ("one", "two")]


def sources(payloads, *shares):
    return [Source(name, path, share) for name, path, share in zip(("one", "two"), payloads, shares, strict=False)]


@pytest.mark.parametrize("which", ["model", "ema"])
def test_it_is_the_mean_of_the_state_dicts(payloads, tmp_path, which):
    config = AverageConfig(which=which, largest_read=1000)
    summary = average_directories(config, sources(payloads, 0.25, 0.75), tmp_path)
    prefix = "ema." if which == "ema" else ""
    plain = [average_cases.state_dict(path / "model") for path in payloads]
    got = average_cases.state_dict(tmp_path / "model")
    models = ("embedding.", "decoder.", "output_layer.")
    weights = [key for key, value in plain[0].items() if key.startswith(models) and torch.is_tensor(value)]
    assert sorted(key for key, value in got.items() if torch.is_tensor(value)) == sorted(weights)
    for key in weights:
        first, second = (each[prefix + key].double() for each in plain)
        assert torch.equal(got[key], (0.25 * first + 0.75 * second).float()), key
    assert summary["tensors"] == len(weights)
    assert summary["parameters"] == sum(got[key].numel() for key in weights)
    training = json.loads((tmp_path / "training.json").read_text())
    assert training["average"] == {"which": which, "shares": {"one": 0.25, "two": 0.75}}
    assert "layout" not in training
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_text() == "{}"


def test_one_checkpoint_gives_its_own_weights(payloads, tmp_path):
    average_directories(AverageConfig(), sources(payloads, 1.0), tmp_path)
    got = average_cases.state_dict(tmp_path / "model")
    plain = average_cases.state_dict(payloads[0] / "model")
    assert all(torch.equal(value, plain[key]) for key, value in got.items() if torch.is_tensor(value))


def changed(payload: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(payload, target)
    spec = json.loads((target / "model.json").read_text())
    (target / "model.json").write_text(json.dumps(spec | changes))
    return target


def test_other_architectures_and_tokenizers_are_refused(payloads, tmp_path):
    (tmp_path / "out").mkdir()
    other = changed(payloads[1], tmp_path / "other", rope_theta=500.0)
    with pytest.raises(ArtifactError, match=r"rope_theta is 10000.0 in one, but 500.0 in two"):
        average_directories(AverageConfig(), sources([payloads[0], other], 0.5, 0.5), tmp_path / "out")
    other = changed(payloads[1], tmp_path / "tokenizer")
    (other / "tokenizer" / "tokenizer.json").write_text("{ }")
    with pytest.raises(ArtifactError, match=r"different tokenizers have no mean: 44136fa355b3678a in one, but \w+ in"):
        average_directories(AverageConfig(), sources([payloads[0], other], 0.5, 0.5), tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"one .* keeps no average of kind last: turn it on"):
        average_directories(AverageConfig(which="last"), sources(payloads, 0.5, 0.5), tmp_path / "out")


def test_shares(payloads):
    assert shares_of(AverageConfig(), ["a", "b"]) == {"a": 0.5, "b": 0.5}
    assert shares_of(AverageConfig(weights={"a": 1, "b": 3}), ["a", "b"]) == {"a": 0.25, "b": 0.75}
    with pytest.raises(ConfigError, match="weights is for a, but the inputs are a, b"):
        shares_of(AverageConfig(weights={"a": 1}), ["a", "b"])
    with pytest.raises(ConfigError, match=r"weights.b=0.0 must be positive"):
        shares_of(AverageConfig(weights={"a": 1, "b": 0}), ["a", "b"])
