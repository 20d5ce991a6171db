"""Run code that a model wrote: no network, no files but its own, no privileges, within limits, or not at all."""

from tatara.rl.sandbox.launch import available, run
from tatara.rl.sandbox.outcome import Limits, Outcome, Status

__all__ = ["Limits", "Outcome", "Status", "available", "run"]
