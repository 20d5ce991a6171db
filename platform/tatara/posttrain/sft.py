"""The ``sft`` stage: its configuration."""

from pydantic import Field

from tatara.stage import Stage
from tatara.train.optimizer import AdamSettings
from tatara.train.pretrain import PretrainConfig
from tatara.train.schedule import Schedule


class SftConfig(PretrainConfig):
    """Supervised fine-tuning: training of a checkpoint on conversations, with loss on the assistant's tokens alone.

    It is the training of ``pretrain`` with other defaults; the architecture is the checkpoint's. Further tokens (inputs
    of any name, without a chat template for instance) can be mixed in by ``phases``.

    Published: Llama 3 fine-tunes 405B for 8,500 to 9,000 steps at a learning rate of 1e-5 (arXiv:2407.21783, section
    4.1.3); small models bear more.
    """

    optimizer: AdamSettings = AdamSettings(learning_rate=1e-4, weight_decay=0.0)
    """Adam and the peak learning rate; nothing pulls the weights to zero."""
    schedule: Schedule = Schedule(shape="linear", warmup_steps=10, min_ratio=0.0)
    """The learning rate over the run."""
    steps: int = Field(default=200, ge=1)
    """Optimizer steps."""


STAGE = Stage(
    name="sft",
    kind="checkpoint",
    config=SftConfig,
    inputs={"checkpoint": "checkpoint", "tokens": "tokens"},
    more="tokens",
    run="tatara.posttrain.sft_run:run",
)
