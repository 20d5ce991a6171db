import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tatara.artifact import Artifact, Draft, Store
from tatara.serve.config import STAGE, ServeConfig
from tatara.stage import standalone


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Artifact:
    attempt = Store(tmp_path / "root").begin(Draft("model", "little", 1, "export", "0" * 64))
    shutil.copytree(tiny_llama, attempt.path, dirs_exist_ok=True)
    return attempt.commit({}, 0.0)


def test_where_it_listens_is_not_its_identity() -> None:
    assert ServeConfig(port=1, host="0.0.0.0", replicas=3).identity() == ServeConfig().identity()
    assert ServeConfig(prompts=("x",)).identity() != ServeConfig().identity()


@pytest.mark.ray
@pytest.mark.slow
def test_the_stage_serves_the_model_and_keeps_its_answers(
    ray_cluster: None, model: Artifact, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    config = ServeConfig(port=free_port(), prompts=("the quick", "iron sand"), max_tokens=8)
    with standalone(STAGE, config, inputs={"model": model}, root=tmp_path / "root", name="little") as opened:
        opened.commit(STAGE.resolve(STAGE.run)(config, opened.stage_run))
        generations = opened.stage_run.reports["generations"]
    result = opened.artifact
    assert result is not None
    assert result.kind == "endpoint"
    assert result.metrics["answers"] == 2
    assert result.metrics["model"] == "little"
    answers = json.loads(result.local("answers.json").read_text())
    assert [answer["prompt"] for answer in answers] == ["the quick", "iron sand"]
    assert all(answer["streamed"] == answer["completion"] for answer in answers)
    assert all(answer["time_to_first_token"] > 0 for answer in answers)
    assert [item["completion"] for item in generations] == [answer["completion"] for answer in answers]
    assert result.read_json("endpoint.json")["model"] == "little"
