"""What a training stage reports, and its metric series beside the losses."""

from typing import Any


def reports(text: str) -> dict[str, Any]:
    """Every key that the training section draws; ``text`` stands wherever a user's text can."""
    parts = [("training steps", 930.0), ("waiting for data", 12.5), ("restarts", 57.5), (text, 1e-4)]
    shares = {text: 0.25, "web": 0.5, "code": 0.25}
    return {
        "time_account": {
            "effective": 0.93, "wall_seconds": 1000.0, "steps": 400, "restarts": 2,
            "parts": [{"cause": cause, "seconds": seconds} for cause, seconds in parts],
        },
        "guard": [
            {"step": 12, "action": "skip", "reason": text, "loss": 9.0, "gradient_norm": 70.0, "positions": [88, 96]},
            {"step": 40, "action": text, "reason": text, "loss": float("nan"), "positions": text},
        ],
        "stragglers": [
            {
                "step": 50, "rank": 3, "host": text, "ratio": 1.42, "seconds": 0.31, "usual_seconds": 0.22,
                "cause": "data",
            }
        ],
        "hangs": [{"step": 60, "message": text}],
        "checkpoints": [{"step": 100, "seconds": 4.5, "blocked_seconds": 0.25, "bytes": 2**20}],
        "mixture": {
            "phases": [
                {"name": text, "from_step": 0, "until_step": 300, "sequence_length": 2048, "shares": shares},
                {"name": "anneal", "from_step": 300, "until_step": 400, "shares": {"code": 1.0}},
            ],
            "epochs": {"web": 0.75, text: 2.0},
        },
        "router": {"step": 400, "layers": [0, 2], "loads": [[1.0, 2.5, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0]]},
    }  # fmt: skip


def series(steps: int) -> list[dict[str, Any]]:
    """Metrics of families, every 50 steps."""
    return [
        {
            "step": step,
            "train.validation_loss": 3.0 - step / 1000,
            "train.validation_loss.web": 3.1 - step / 1000,
            "train.validation_loss.code": 2.9 - step / 1000,
            "train.parameter_norm.feed_forward": 40.0 + step / 100,
            "train.update_ratio.feed_forward": 1e-3,
            "train.mfu": 0.41,
        }
        for step in range(50, steps + 1, 50)
    ]
