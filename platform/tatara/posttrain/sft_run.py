"""The ``sft`` stage: that tokens and checkpoint belong together, then a training run."""

from typing import Any

from tatara.chat import find_template
from tatara.errors import DataError
from tatara.posttrain.sft import SftConfig
from tatara.stage import StageRun
from tatara.train import pretrain_run


def run(config: SftConfig, stage_run: StageRun) -> dict[str, Any]:
    """Fine-tune a checkpoint; see `tatara.train.pretrain_run.run`.

    The checkpoint that is made holds the chat template of the tokens in ``tokenizer/``.

    Returns:
        Figures of the run, and the template's name and hash.

    Raises:
        DataError: The tokens were not made from conversations.
        ArtifactError: The checkpoint goes with another chat template or tokenizer.
    """
    tokens = stage_run.inputs["tokens"]
    template = find_template(tokens.local() / "tokenizer")
    if template is None or not tokens.files("train-weights.bin"):
        lacking = "chat template" if template is None else "loss weights"
        raise DataError(
            f"{tokens.reference} has no {lacking}, so what the assistant says cannot be told: make the tokens of sft "
            "with `tatara render`, not with `tatara tokenize`"
        )
    stage_run.log(f"chat template {template.name}@{template.version} {template.sha256[:12]}")
    figures = pretrain_run.run(config, stage_run)
    return figures | {"chat_template": f"{template.name}@{template.version}", "chat_template_sha256": template.sha256}
