"""The process that talks to Weights & Biases: reads a header and metric lines on standard input until it ends.

Started by path by ``tatara.tracking.wandb_sink``; it imports nothing of Tatara, so that it starts quickly. It answers
with one line on standard output: ``ready``, or what is wrong.
"""

import json
import os
import socket
import sys
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

CONNECT_SECONDS = 5.0
ONLINE_SECONDS = 15.0


def main() -> int:
    """Run until standard input ends; the exit status is 1 where no run could be opened."""
    lines = sys.stdin.buffer
    header = json.loads(lines.readline())
    # wandb prints here and there in spite of its settings: the answer has a channel of its own.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        run, message = _open_run(header)
    except Exception as error:  # Anything: the reason has to reach the stage's log in one line.
        print(_one_line(error), file=answer, flush=True)
        return 1
    print(message, file=answer, flush=True)
    for line in lines:
        if not line.endswith(b"\n"):
            break  # The writer was killed within a line.
        run.log(_values(json.loads(line)))
    run.finish()
    return 0


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """What a line says, as the client takes it: a table where there are rows, else numbers."""
    step = {"step": int(given["step"])}
    if isinstance(given.get("rows"), list):
        import wandb

        # Cells of a column may be of several types, or missing.
        return step | {
            given["table"]: wandb.Table(columns=given["columns"], data=given["rows"], allow_mixed_types=True)
        }
    return {name: float(value) for name, value in given.items()} | step


def _open_run(header: dict[str, Any]) -> tuple[Any, str]:
    import wandb

    def start(mode: Literal["online", "offline"]) -> Any:
        run = wandb.init(
            project=header["project"],
            name=header["name"],
            config=header["config"],
            dir=header["dir"],
            mode=mode,
            settings=wandb.Settings(
                init_timeout=ONLINE_SECONDS,
                login_timeout=ONLINE_SECONDS,
                console="off",
                silent=True,
                # The process that is measured is this one, not the stage's.
                x_disable_stats=True,
            ),
        )
        # A resumed run repeats steps, which W&B's own step counter would refuse.
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run

    os.makedirs(header["dir"], exist_ok=True)
    if header["mode"] == "online":
        try:
            _probe(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
            return start("online"), "ready"
        except Exception as error:  # Whatever the network or the server does, the run is kept on disk.
            return start("offline"), f"no connection, so the run is kept offline ({_one_line(error)})"
    return start("offline"), "ready"


def _probe(address: str) -> None:
    """Fail quickly where no connection can be made; the client itself would try again for minutes."""
    url = urlsplit(address)
    if url.hostname and url.scheme not in getproxies():
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname, port), timeout=CONNECT_SECONDS).close()


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    sys.exit(main())
