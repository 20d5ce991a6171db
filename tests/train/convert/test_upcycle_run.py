"""The stage as the framework runs it, on a Ray cluster."""

import json
import shutil
import uuid

import pytest

from model.megatron_cases import layout
from model.ranks import run_ranks
from tatara.artifact import Draft, Store
from tatara.errors import ConfigError
from tatara.recipe.stages import find_stage
from tatara.stage import standalone
from tatara.train.convert.upcycle import STAGE, UpcycleConfig
from tatara.train.convert.upcycle_run import run
from train.convert import export_cases

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_with_s3")]


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "payload"
    run_ranks(1, export_cases.save_checkpoint, directory, layout())
    (directory / "training.json").write_text(json.dumps({"step": 3, "tokens": 9}))
    return directory


def commit(payload, root):
    attempt = Store(root).begin(Draft("checkpoint", "dense", 1, "pretrain", uuid.uuid4().hex))
    shutil.copytree(payload, attempt.path, dirs_exist_ok=True)
    return attempt.commit({}, 1.0)


def upcycle(checkpoint, root, **config):
    settings = UpcycleConfig.model_validate(config)
    with standalone(STAGE, settings, inputs={"checkpoint": checkpoint}, root=root, name="sparse") as opened:
        summary = run(settings, opened.stage_run)
        return summary, opened.stage_run.reports, opened.commit(summary)


def test_an_artifact_on_s3_is_upcycled_and_its_proof_reported(payload, s3_bucket):
    root = f"{s3_bucket}/upcycle"
    summary, reports, made = upcycle(commit(payload, root), root, method="copy", moe={"num_experts": 4})
    assert made.kind == "checkpoint"
    assert {"model.json", "training.json", "proof.json", "tokenizer/tokenizer.json", "model/.metadata"} <= {
        entry.path for entry in made.files()
    }
    proof = json.loads(made.local("proof.json").read_text())
    assert reports["proof"] == proof
    assert summary == {name: proof[name] for name in summary}
    assert abs(summary["dense_loss"] - summary["sparse_loss"]) < 1e-5
    assert abs(summary["mean_expert_similarity"] - 1) < 1e-6


def test_what_does_not_fit_is_refused_before_anything_runs(payload, tmp_path):
    with pytest.raises(ConfigError, match="granularity=5 does not divide the 96 neurons"):
        upcycle(
            commit(payload, tmp_path),
            tmp_path,
            method="granular",
            granularity=5,
            moe={"num_experts": 10, "top_k": 5},
            num_cpus=64,
        )
    assert Store(tmp_path).versions("checkpoint", "sparse") == []


def test_the_stage_is_listed():
    assert find_stage("upcycle") is STAGE
