"""The stage as the framework runs it, on a Ray cluster."""

import json
import shutil
import uuid

import pytest
import torch

from model.megatron_cases import layout
from model.ranks import run_ranks
from tatara.artifact import Draft, Store
from tatara.errors import ArtifactError, ClusterError
from tatara.stage import standalone
from tatara.train.convert.export import STAGE, ExportConfig
from tatara.train.convert.export_run import run
from train.convert import export_cases as cases

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_with_s3")]


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "payload"
    run_ranks(1, cases.save_checkpoint, directory, layout())
    return directory


def commit(payload, root, name="little"):
    attempt = Store(root).begin(Draft("checkpoint", name, 1, "pretrain", uuid.uuid4().hex))
    shutil.copytree(payload, attempt.path, dirs_exist_ok=True)
    return attempt.commit({}, 1.0)


def export(checkpoint, root, **config):
    settings = ExportConfig(**config)
    with standalone(STAGE, settings, inputs={"checkpoint": checkpoint}, root=root, name="little") as opened:
        summary = run(settings, opened.stage_run)
        return summary, opened.stage_run.reports, opened.commit(summary)


def test_an_artifact_is_exported_and_its_proof_reported(payload, any_root):
    summary, reports, model = export(commit(payload, any_root), any_root)
    assert model.kind == "model"
    assert {"config.json", "generation_config.json", "model.safetensors", "proof.json", "tokenizer.json"} <= {
        entry.path for entry in model.files()
    }
    proof = json.loads(model.local("proof.json").read_text())
    assert reports["proof"] == proof
    assert summary == {name: proof[name] for name in summary}
    assert summary["max_abs_logit_diff"] <= 1e-4
    recorded = {entry.path: entry.sha256 for entry in model.files()}
    assert proof["sha256"] == {"model.safetensors": recorded["model.safetensors"]}


def test_the_adapter_stays_out_of_the_driver(payload, tmp_path):
    before = torch.cuda.current_device, torch.Tensor.cuda
    export(commit(payload, tmp_path), tmp_path)
    assert before == (torch.cuda.current_device, torch.Tensor.cuda)
    assert not torch.distributed.is_initialized()


def test_a_mistake_on_another_node_is_one_line_here(payload, tmp_path):
    broken = shutil.copytree(payload, tmp_path / "broken")
    (broken / "model.json").write_text("{}x")
    with pytest.raises(ArtifactError, match=r"model\.json does not describe a model: Invalid JSON") as raised:
        export(commit(broken, tmp_path), tmp_path)
    assert "\n" not in str(raised.value)
    assert Store(tmp_path).versions("model", "little") == []


def test_a_task_that_can_never_fit_is_refused(payload, tmp_path):
    with pytest.raises(ClusterError, match=r"no node holds \{CPU: 64\}"):
        export(commit(payload, tmp_path), tmp_path, num_cpus=64)
