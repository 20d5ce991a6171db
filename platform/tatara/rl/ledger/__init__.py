"""The pure core of the buffer: what each group is waiting for, by events in and state out."""

from tatara.rl.ledger.apply import apply
from tatara.rl.ledger.outcome import pass_at_k
from tatara.rl.ledger.state import Group, Settings, State, restore, snapshot

__all__ = ["Group", "Settings", "State", "apply", "pass_at_k", "restore", "snapshot"]
