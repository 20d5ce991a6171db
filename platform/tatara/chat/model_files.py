"""Chat in a model's directory: that what serves it renders and stops as it was trained to."""

import json
from pathlib import Path

from tatara.chat.template import ChatTemplate, find_template
from tatara.errors import ArtifactError

GENERATION = "generation_config.json"


def stop_ids(directory: Path, template: ChatTemplate) -> tuple[int, ...]:
    """Numbers of the template's stop tokens, without loading the tokenizer.

    Raises:
        ArtifactError: ``tokenizer.json`` cannot be read or has no such token.
    """
    path = directory / "tokenizer.json"
    try:
        added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", [])
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read the tokenizer {path}: {error}") from None
    numbers = {str(token["content"]): int(token["id"]) for token in added}
    missing = [token for token in template.stop_tokens if token not in numbers]
    if missing:
        raise ArtifactError(
            f"{path} has no {', '.join(missing)}, with which the chat template {template.name} ends a turn: it "
            "is not the tokenizer that the template was made for, put the right one back"
        )
    return tuple(numbers[token] for token in template.stop_tokens)


def end_ids(directory: Path, eos: int | None) -> int | list[int] | None:
    """What ends generation: the chat template's stop tokens, where there is one, and the end of a text.

    Args:
        directory: Holds the tokenizer.
        eos: The token that ends a text.
    """
    template = find_template(directory)
    if template is None:
        return eos
    return list(dict.fromkeys([*stop_ids(directory, template), *([] if eos is None else [eos])]))


def check_chat(directory: Path) -> None:
    """Refuse a model whose chat template is not the one it was trained with, or whose answers would not end.

    Raises:
        ArtifactError: The template's files do not belong together (with both hashes), or generation does not end with
            its stop tokens. A model without a described template passes.
    """
    template = find_template(directory)
    if template is None:
        return
    path = directory / GENERATION
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {error}") from None
    ends = set(found if isinstance(found, list) else [found])
    stops = stop_ids(directory, template)
    if not ends.issuperset(stops):
        raise ArtifactError(
            f"eos_token_id in {path} is {found}, but turns of the chat template {template.name} end with "
            f"{', '.join(template.stop_tokens)} ({', '.join(map(str, stops))}): add it, or export the model again"
        )
