"""The stage as the framework runs it, on a Ray cluster."""

import json
import shutil
from pathlib import Path

import pytest

from model.hf_cases import transformers_model
from model.megatron_cases import small_spec
from tatara.errors import ConfigError
from tatara.stage import standalone
from tatara.train.convert.import_config import STAGE, ImportConfig
from tatara.train.convert.import_run import run
from train.convert.export_cases import write_tokenizer

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_with_s3")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    transformers_model(small_spec()).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def test_a_directory_becomes_a_checkpoint_and_its_proof_is_reported(model, any_root):
    with standalone(STAGE, ImportConfig(path=str(model)), inputs={}, root=any_root, name="little") as opened:
        summary = run(ImportConfig(path=str(model)), opened.stage_run)
        reports, checkpoint = opened.stage_run.reports, opened.commit(summary)
    assert checkpoint.kind == "checkpoint"
    files = {entry.path for entry in checkpoint.files()}
    assert {"model.json", "training.json", "proof.json", "tokenizer/tokenizer.json", "model/.metadata"} <= files
    proof = json.loads(checkpoint.local("proof.json").read_text())
    assert reports["proof"] == proof
    assert summary == {name: proof[name] for name in summary}
    assert summary["max_abs_logit_diff"] <= 1e-4


def test_a_model_that_is_not_one_of_ours_is_refused_before_anything_starts(model, tmp_path):
    source = Path(shutil.copytree(model, tmp_path / "source"))
    config = json.loads((model / "config.json").read_text()) | {"hidden_act": "gelu"}
    (source / "config.json").write_text(json.dumps(config))
    settings = ImportConfig(path=str(source))
    with (
        pytest.raises(ConfigError, match=r"hidden_act='gelu' of config\.json is not supported") as raised,
        standalone(STAGE, settings, inputs={}, root=tmp_path, name="little") as opened,
    ):
        run(settings, opened.stage_run)
    assert str(source) in str(raised.value)
