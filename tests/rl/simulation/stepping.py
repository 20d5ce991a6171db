"""The loop simulated once more, in small steps of time and by plain lists: slow, and nothing of it shared."""

import random

from tatara.rl.simulation.loop import Loop


def batch_times(loop: Loop, batches: int, seed: int, tick: float) -> list[float]:
    """When each batch was published, seconds. Responses continue over updates; no group is dropped, scoring is free."""
    draw = random.Random(seed)
    engines = [{"version": 0, "loading": 0.0, "running": []} for _ in range(loop.engines)]
    groups: list[dict] = []
    waiting: list[tuple[int, float]] = []
    now, version, published, busy = 0.0, 0, [], 0.0
    while len(published) < batches:
        while True:
            free = [e for e in engines if e["loading"] <= 0 and len(e["running"]) < loop.concurrency]
            if not free:
                break
            engine = min(free, key=lambda e: len(e["running"]))
            if not waiting:
                if len(groups) >= (engine["version"] + loop.staleness + 1) * loop.groups_per_batch:
                    break
                lengths = loop.lengths.draw(draw, loop.group_size)
                groups.append({"began": engine["version"], "left": loop.group_size, "tokens": sum(lengths), "in": None})
                waiting = [(len(groups) - 1, float(length)) for length in lengths]
            room = loop.concurrency - len(engine["running"])
            engine["running"] += [list(each) for each in waiting[:room]]
            waiting = waiting[room:]
        for engine in engines:
            if engine["loading"] > 0:
                engine["loading"] -= tick
                if engine["loading"] <= 0:
                    engine["version"] = engine["next"]
            elif engine["running"]:
                grown = tick / (loop.engine.start + loop.engine.each * len(engine["running"]))
                for response in engine["running"]:
                    response[1] -= grown
                for group, _ in [each for each in engine["running"] if each[1] <= 0]:
                    groups[group]["left"] -= 1
                engine["running"] = [each for each in engine["running"] if each[1] > 0]
        now += tick
        if busy > 0:
            busy -= tick
            if busy <= 0:
                version += 1
                published.append(now)
                for engine in engines:
                    engine["loading"], engine["next"] = loop.load, version
        if busy <= 0:
            busy = _train(loop, groups, version)
    return published


def _train(loop: Loop, groups: list[dict], batch: int) -> float:
    """Put a batch together; seconds that it takes, 0 where there is none. For staleness 0 and 1 only."""
    open_groups = [group for group in groups if group["in"] is None]
    due = [group for group in open_groups if group["began"] + loop.staleness == batch]
    done = [group for group in open_groups if group["left"] == 0]
    if any(group["left"] for group in due) or len(done) < loop.groups_per_batch:
        return 0.0
    chosen = (due + [group for group in done if group not in due])[: loop.groups_per_batch]
    for group in chosen:
        group["in"] = batch
    return loop.learner.seconds(sum(group["tokens"] for group in chosen)) + loop.publish
