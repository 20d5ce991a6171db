"""A user's environment: it answers some turns, and is finished with others."""

from collections.abc import Sequence
from typing import Any

from tatara.rl.environments.environment import Reply


class Echo:
    def reply(self, prompt: Any, turns_so_far: Sequence[str], last_turn: str) -> Reply | None:
        assert prompt.metadata["answer"] == int(prompt.id.split("-")[1]) + 1
        if len(last_turn) % 4 == 3:
            return None
        if len(last_turn) % 4 == 2 and turns_so_far:
            return Reply(finish="environment")
        return Reply(({"role": "user", "content": f"{len(turns_so_far)} more"},))
