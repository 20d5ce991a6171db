import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tatara.artifact import Artifact, Draft, Store
from tatara.chat import Renderer
from tatara.chat.adopting import adopt
from tatara.engine.model_directory import check_model_directory
from tatara.errors import ArtifactError
from tatara.serve.config import STAGE, ServeConfig
from tatara.stage import standalone

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:\n{{ message.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Artifact:
    attempt = Store(tmp_path / "root").begin(Draft("model", "little", 1, "export", "0" * 64))
    shutil.copytree(tiny_llama, attempt.path, dirs_exist_ok=True)
    adopt(TEMPLATE, "plain", attempt.path).save(attempt.path)
    return attempt.commit({}, 0.0)


def test_where_it_listens_is_not_its_identity() -> None:
    assert ServeConfig(port=1, host="0.0.0.0", replicas=3).identity() == ServeConfig().identity()
    assert ServeConfig(prompts=("x",)).identity() != ServeConfig().identity()


@pytest.mark.ray
@pytest.mark.slow
def test_the_stage_serves_the_model_and_keeps_its_answers(
    ray_cluster: None, model: Artifact, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    asked = ["the quick", "iron sand", "how much is 2 + 3?"]
    config = ServeConfig(port=free_port(), prompts=asked[:2], questions=asked[2:], max_tokens=8)
    with standalone(STAGE, config, inputs={"model": model}, root=tmp_path / "root", name="little") as opened:
        opened.commit(STAGE.resolve(STAGE.run)(config, opened.stage_run))
        generations = opened.stage_run.reports["generations"]
    result = opened.artifact
    assert result is not None
    assert result.kind == "endpoint"
    assert result.metrics["answers"] == 3
    assert result.metrics["model"] == "little"
    answers = json.loads(result.local("answers.json").read_text())
    assert [answer["prompt"] for answer in answers] == asked
    # The engine reads a question in the template that the model was made with.
    rendered = Renderer(model.local()).prompt_ids([{"role": "user", "content": asked[2]}])
    assert answers[2]["prompt_tokens"] == len(rendered)
    assert all(answer["streamed"] == answer["completion"] for answer in answers)
    assert all(answer["time_to_first_token"] > 0 for answer in answers)
    assert [item["completion"] for item in generations] == [answer["completion"] for answer in answers]
    assert result.read_json("endpoint.json")["model"] == "little"


def test_a_model_whose_template_was_changed_is_not_served(model: Artifact, tmp_path: Path) -> None:
    directory = tmp_path / "changed"
    shutil.copytree(model.local(), directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE.replace("assistant", "model"))
    with pytest.raises(ArtifactError, match=r"chat template [0-9a-f]{64} is expected, but [0-9a-f]{64} is there"):
        check_model_directory(directory)
