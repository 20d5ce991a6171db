"""Chat templates as files: what is written, found again, and refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from chat.chat_cases import CHAT_TOKENS, OWN, TEMPLATES
from tatara.chat import ChatTemplate, check_same, find_template
from tatara.chat.adopting import adopt, own_template
from tatara.chat.model_files import check_chat, end_ids, stop_ids
from tatara.errors import ArtifactError, ConfigError

HASHES = {
    "llama3": "adb8f1681c2eaae0",
    "chatml": "75ca5b04475bd648",
}
"""Models were trained with these: another text under the same version would be another template."""


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_built_in_stays_what_it_is(name: str) -> None:
    template = ChatTemplate.built_in(name)
    assert hashlib.sha256(template.text.encode()).hexdigest()[:16] == HASHES[name], "raise the version"
    assert template.version == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_found_as_it_was_saved(name: str, tmp_path: Path) -> None:
    template = ChatTemplate.built_in(name, CHAT_TOKENS)
    template.save(tmp_path)
    assert ChatTemplate.load(tmp_path) == find_template(tmp_path) == template
    assert json.loads((tmp_path / "chat_template.json").read_text())["sha256"] == template.sha256


def test_no_template_is_none_or_an_error(tmp_path: Path) -> None:
    assert find_template(tmp_path) is None
    with pytest.raises(ArtifactError, match="holds no chat template"):
        ChatTemplate.load(tmp_path)
    with pytest.raises(ConfigError, match="there are chatml, llama3"):
        ChatTemplate.built_in("alpaca")


def test_a_changed_template_stops_with_both_hashes(tmp_path: Path) -> None:
    template = ChatTemplate.built_in("chatml")
    template.save(tmp_path)
    path = tmp_path / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant", "model"))
    with pytest.raises(ArtifactError) as caught:
        find_template(tmp_path)
    changed = ChatTemplate("chatml", 1, path.read_text(), template.special_tokens, template.stop_tokens)
    assert template.sha256 in str(caught.value)
    assert changed.sha256 in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["{", "{}", '{"name": "chatml"}'])
def test_a_damaged_description_is_named(damage: str, tmp_path: Path) -> None:
    ChatTemplate.built_in("chatml").save(tmp_path)
    (tmp_path / "chat_template.json").write_text(damage)
    with pytest.raises(ArtifactError, match=r"chat_template.json does not describe a chat template"):
        find_template(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    ChatTemplate.built_in("chatml").save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ArtifactError, match=r"cannot read the chat template .*chat_template.jinja"):
        find_template(tmp_path)


def test_two_templates_are_compared_by_hash() -> None:
    first, second = ChatTemplate.built_in("chatml"), ChatTemplate.built_in("llama3")
    check_same(first, first.sha256, "nowhere")
    with pytest.raises(ArtifactError) as caught:
        check_same(first, second, "the learner and the engine differ")
    assert first.sha256 in str(caught.value)
    assert second.sha256 in str(caught.value)
    assert str(caught.value).startswith("the learner and the engine differ: ")


def test_a_template_of_the_users_is_understood(tokenizer: Path) -> None:
    template = adopt(OWN, "mine", tokenizer)
    assert template.stop_tokens == ("<|eot_id|>",)
    assert template.special_tokens == ("<|endoftext|>", "<|eot_id|>")
    assert template.named == {"bos_token": "<|endoftext|>"}
    chatml = ChatTemplate.built_in("chatml")
    assert adopt(chatml.text, "chatml", tokenizer) == chatml


def test_a_template_that_a_tokenizer_brings_is_found(tokenizer: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizer, tmp_path / "t")
    assert own_template(tmp_path / "t") is None
    settings = tmp_path / "t" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": OWN}))
    assert own_template(tmp_path / "t") == OWN
    (tmp_path / "t" / "chat_template.jinja").write_text("newer")
    assert own_template(tmp_path / "t") == "newer"


def test_a_model_must_stop_where_turns_end(tokenizer: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    model = tmp_path / "model"
    shutil.copytree(tokenizer, model)
    check_chat(model)
    assert end_ids(model, 0) == 0
    template = ChatTemplate.built_in("llama3", CHAT_TOKENS)
    template.save(model)
    stop = Tokenizer.from_file(str(model / "tokenizer.json")).token_to_id("<|eot_id|>")
    assert stop_ids(model, template) == (stop,)
    assert end_ids(model, 0) == [stop, 0]
    for wrong in (None, 0, [0, stop + 1]):
        (model / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(ArtifactError, match=rf"end with <\|eot_id\|> \({stop}\): add it"):
            check_chat(model)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, stop]}))
    check_chat(model)
