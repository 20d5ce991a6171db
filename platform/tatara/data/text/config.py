"""The configuration of repair."""

from typing import ClassVar

from tatara.data.steps import StepConfig


class RepairConfig(StepConfig):
    """Repair mojibake, control characters, line ends and the like with ftfy; the result is NFC.

    Curly quotes, ligatures, full-width forms and entities stay as they are: they are the author's choice.
    """

    step: ClassVar[str] = "repair"
    implementation: ClassVar[str] = "tatara.data.text.repair:RepairStep"
