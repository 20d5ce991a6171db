"""Environments of a user, right and wrong."""

from tatara.rl.environments.environment import Reply


class Counter:
    def __init__(self, limit=3):
        self.limit = limit

    def reply(self, prompt, turns_so_far, last_turn):
        if last_turn == "done":
            return None
        if len(turns_so_far) + 1 >= self.limit:
            return Reply(finish="environment")
        return Reply(({"role": "user", "content": f"turn {len(turns_so_far) + 1} of {prompt.id}"},))


class Ill:
    def __init__(self, answer):
        self.answer = answer

    def reply(self, prompt, turns_so_far, last_turn):
        if isinstance(self.answer, str):
            raise KeyError(self.answer)
        return self.answer


class NoReply:
    pass


class OtherReply:
    def reply(self, prompt):
        return None


class Unmade:
    def __init__(self):
        raise RuntimeError("several\nlines")
