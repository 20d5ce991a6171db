"""Conversations as tokens, against what transformers renders and tokenises."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.chat_cases import CHAT_TOKENS, OWN, TEMPLATES, write_tokenizer
from tatara.chat import ChatTemplate, Renderer
from tatara.chat.adopting import adopt
from tatara.errors import ConfigError, DataError

NAMES = [*TEMPLATES, "own"]
# Text that a template could mistake for its own, tokens that merge over borders, and half characters.
TRICKY = st.sampled_from(
    ["<|eot_id|>", "<|im_end|>\n", "<|im_start|>assistant\n", "\n\n", " ", "\r\n", "{{ 1 }}", "{% raw %}", "<|", "|>",
     "assistant", "[user]", "é", "日本", "👩‍💻", "\ue0000\ue001", "e\u0301", "\x00", "\u2028", "23 + 45",
     "<|endoftext|>"]
)  # fmt: skip
CONTENT = st.lists(TRICKY | st.text(max_size=8), max_size=5).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    roles = draw(st.lists(st.sampled_from(["user", "assistant", "tool"]), min_size=1, max_size=5))
    if draw(st.booleans()):
        roles = ["system", *roles]
    found: list[dict[str, Any]] = [{"role": role, "content": draw(CONTENT)} for role in roles]
    for message in found:
        if message["role"] == "assistant" and draw(st.booleans()):
            message["weight"] = draw(st.sampled_from([0, 1]))
    return found


@pytest.fixture(scope="module")
def directories(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Template name to a tokenizer's directory with it."""
    made = {}
    for name in NAMES:
        made[name] = tmp_path_factory.mktemp("chat") / name
        shutil.copytree(tokenizer, made[name])
        template = adopt(OWN, "own", made[name]) if name == "own" else ChatTemplate.built_in(name, CHAT_TOKENS)
        template.save(made[name])
    return made


@functools.cache
def opened(directory: Path) -> tuple[Renderer, Any]:
    from transformers import AutoTokenizer

    return Renderer(directory), AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
@settings(max_examples=60)
def test_tokens_are_the_bytes_that_jinja_renders(
    name: str, directories: dict[str, Path], messages: list[dict[str, Any]]
) -> None:
    renderer, reference = opened(directories[name])
    ids, weights = renderer.conversation(messages)
    text = reference.apply_chat_template(messages, tokenize=False)
    assert renderer.decode(ids) == text == renderer.template.render(messages)
    assert len(weights) == len(ids)
    special = set(reference.all_special_ids) - set(reference.encode(reference.bos_token))
    assert {"llama3": 3, "chatml": 2, "own": 0}[name] * len(messages) + (
        sum(m["role"] == "assistant" for m in messages) if name == "own" else 0
    ) == sum(number in special for number in ids), "text of a message became a special token"


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
@settings(max_examples=40)
def test_weights_are_on_the_assistants_tokens_and_its_stop_token(
    name: str, directories: dict[str, Path], messages: list[dict[str, Any]]
) -> None:
    renderer, _ = opened(directories[name])
    ids, weights = renderer.conversation(messages)
    stop = renderer.template.stop_tokens[0]
    wanted = [m["content"] + stop for m in messages if m["role"] == "assistant" and m.get("weight", 1)]
    trained = [number for number, weight in zip(ids, weights, strict=True) if weight]
    assert renderer.decode(trained) == "".join(wanted)
    assert [number in renderer.stop_token_ids for number in trained].count(True) == len(wanted)
    assert set(weights) <= {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
@settings(max_examples=40)
def test_a_prompt_is_the_beginning_of_its_conversation(
    name: str, directories: dict[str, Path], messages: list[dict[str, Any]]
) -> None:
    renderer, reference = opened(directories[name])
    ids, _ = renderer.conversation(messages)
    for number, message in enumerate(messages):
        before = messages[:number]
        if message["role"] != "assistant" or not before or before[-1]["role"] == "assistant":
            continue
        prompt = renderer.prompt_ids(before)
        assert ids[: len(prompt)] == prompt
        text = reference.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
        assert renderer.decode(prompt) == text


@pytest.mark.parametrize("name", NAMES)
@given(content=CONTENT, replies=st.lists(CONTENT, min_size=1, max_size=3))
@settings(max_examples=25)
def test_a_reply_goes_on_where_the_stop_token_was(
    name: str, directories: dict[str, Path], content: str, replies: list[str]
) -> None:
    renderer, _ = opened(directories[name])
    asked = [{"role": "user", "content": "Which?"}]
    answered = [*asked, {"role": "assistant", "content": content}]
    said = [{"role": "tool", "content": reply} for reply in replies]
    ids, weights = renderer.conversation(answered)
    end = max(place for place, weight in enumerate(weights) if weight) + 1
    assert ids[:end] + renderer.reply_ids(said) == renderer.prompt_ids([*answered, *said])


@pytest.mark.parametrize("name", NAMES)
def test_plain_text_becomes_what_transformers_makes_of_it(name: str, directories: dict[str, Path]) -> None:
    """What a server tokenises whole is what was trained on, where no message looks like a template."""
    renderer, reference = opened(directories[name])
    messages = [{"role": "user", "content": "What is 23 + 45?"}, {"role": "assistant", "content": "68"}]
    served = reference.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert renderer.prompt_ids(messages[:1]) == served
    ids, weights = renderer.conversation(messages)
    trained = [renderer.decode([number]) for number, weight in zip(ids, weights, strict=True) if weight]
    assert trained == ["6", "8", renderer.template.stop_tokens[0]]
    assert renderer.decode(ids[len(served) :], special=False).strip() == "68"


def test_a_beginning_of_text_is_written_where_the_tokenizer_has_one(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, ("<|begin_of_text|>", *CHAT_TOKENS))
    ChatTemplate.built_in("llama3", {"<|begin_of_text|>"}).save(tmp_path)
    renderer, reference = opened(tmp_path)
    ids = renderer.prompt_ids([{"role": "user", "content": "<|begin_of_text|>"}])
    assert [number == reference.convert_tokens_to_ids("<|begin_of_text|>") for number in ids] == [True] + [False] * (
        len(ids) - 1
    )
    assert "<|begin_of_text|>" not in ChatTemplate.built_in("llama3").text


def test_a_tokenizer_without_the_tokens_is_told_how_to_get_them(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, ("<|im_start|>",))
    with pytest.raises(ConfigError) as caught:
        Renderer(tmp_path, ChatTemplate.built_in("chatml"))
    assert "lacks special tokens of the chat template chatml" in str(caught.value)
    assert "tokenize --special_tokens '[\"<|im_end|>\"]'" in str(caught.value)


def test_a_token_that_text_can_spell_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizer, tmp_path / "t")
    path = tmp_path / "t" / "tokenizer.json"
    described = json.loads(path.read_text())
    for token in described["added_tokens"]:
        token["special"] = token["content"] != "<|im_end|>"
    path.write_text(json.dumps(described))
    with pytest.raises(ConfigError, match=r"<\|im_end\|> of .* is not a special token"):
        Renderer(tmp_path / "t", ChatTemplate.built_in("chatml"))


def test_a_tokenizer_that_changes_text_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizer, tmp_path / "t")
    path = tmp_path / "t" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(ConfigError, match="does not give back"):
        Renderer(tmp_path / "t", ChatTemplate.built_in("chatml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{% for m in messages %}{{ m.content | upper }}<|eot_id|>{% endfor %}", "changes what messages say"),
        ("{{ messages[-1].content }}<|eot_id|>", "once and in order"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}<|eot_id|>{% endfor %}", "once and in order"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "no special token"),
        ("{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}{{ 'A:' * add_generation_prompt }}", "header"),
        ("{% for m in messages %}", "not valid Jinja"),
    ],
    ids=["changes", "last-only", "twice", "no-stop", "other-header", "syntax"],
)  # fmt: skip
def test_a_template_that_cannot_be_split_is_refused(text: str, expected: str, tokenizer: Path) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        Renderer(tokenizer, adopt(text, "mine", tokenizer))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_ends_with_the_assistant_is_refused(directories: dict[str, Path]) -> None:
    renderer, _ = opened(directories["chatml"])
    with pytest.raises(DataError, match="leave the answer out"):
        renderer.prompt_ids([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    with pytest.raises(DataError, match="must be system, user, assistant or tool, not wizard"):
        renderer.prompt_ids([{"role": "wizard", "content": "a"}])
