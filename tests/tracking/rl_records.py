"""What a stage of reinforcement learning reports, and its metric series."""

import math
from typing import Any


def reports(text: str) -> dict[str, Any]:
    """Every key that the section draws; ``text`` stands wherever a user's text can."""
    rollout = [[0.0, 6.0, "generate"], [6.0, 1.0, "sync"], [7.0, 2.0, "generate"], [9.0, 1.0, "wait"]]
    transcript = {
        "purpose": "train", "batch": 3, "position": 17, "index": 2, "response": f"R {text}", "finish": "stop",
        "tokens": 41, "versions": [2, 3], "reward": 1.0, "parts": {"math": 1.0, text: 0.25}, "errors": {},
    }  # fmt: skip
    return {
        "rl_timeline": [
            {"name": "rollout-0", "kind": "rollout", "spans": rollout},
            {"name": text, "kind": "reward", "spans": [[1.0, 4.0, "score"], [5.0, 1.0, text], [6.0, 4.0, "wait"]]},
            {"name": "rollout-1", "kind": "rollout", "spans": [[2.0, 8.0, "generate"]]},
            {"name": "learner", "kind": "learner", "spans": [[6.0, 3.0, "train"], [9.0, 0.5, "checkpoint"]]},
        ],
        "rl_figures": {"idle_share": 0.08, text: 3},
        "rl_staleness": {"0": 120, "1": 40, "10": 1},
        "rl_stages": [{"name": text, "from_step": 0}, {"name": "longer", "from_step": 20}],
        "rl_groups": {"trained": 320, "dropped": {"no signal": 12, text: 3}, "replayed": 4},
        "rl_evaluations": [
            {"version": version, "pass@1": 0.5 + version / 100, "pass@4": 0.8, "reward": 0.6, "length": 12.0,
             "rollouts": 64, "name": name}
            for version in (0, 20, 40) for name in ("arithmetic", text)
        ],
        "rl_incidents": [{"seconds": 65.0, "who": "rollout-1", "what": "died", "detail": text}],
        "rl_transcripts": [
            {**transcript, "prompt": f"P {text}"},
            {**transcript, "prompt": [{"role": "user", "content": f"Q {text}"}], "errors": {text: text}},
            {**transcript, "purpose": text, "finish": text, "prompt": text},
        ],
    }  # fmt: skip


def series(steps: int) -> list[dict[str, Any]]:
    """Metrics of every rollout batch."""
    return [
        {
            "step": step,
            "rl.reward": 1 - math.exp(-step / 20),
            "rl.reward_deviation": 0.4,
            "rl.parts.math": 1 - math.exp(-step / 20),
            "rl.parts.format": 0.9,
            "rl.passed": 0.5,
            "rl.length": 40.0 + step,
            "rl.longest": 64.0,
            "rl.finish.length": 0.02,
            "rl.finish.stop": 0.98,
            "rl.novelty": 3.0,
            "rl.probe_difference": 1e-6,
            "rl.rollout_tokens_per_second": 900.0 + step,
            "rl.learner_tokens_per_second": 800.0,
            "rl.idle_share": 0.05,
            "train.ratio_mean": 1.0,
            "train.ratio_min": 0.8,
            "train.ratio_max": 1.0 + step,
            "train.entropy": 0.7,
            "train.mismatch_mean": 1e-6,
        }
        for step in range(1, steps + 1)
    ]
