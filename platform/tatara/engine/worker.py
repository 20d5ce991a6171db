"""What Tatara adds to vLLM's workers, the processes that hold the model."""

import os
import threading
import time

EXTENSION = "tatara.engine.worker.WorkerExtension"
POLL_SECONDS = 1.0


class WorkerExtension:
    """Methods that the engine calls in its workers (vLLM's ``worker_extension_cls``)."""

    def end_with_parent(self) -> None:
        """End this process when the one that started it dies.

        vLLM ends its engine process in an orderly shutdown only; after a SIGKILL of the parent it would stay for ever
        and keep its memory.
        """
        threading.Thread(target=_watch, args=(os.getppid(),), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    # Nobody is left to answer and the main thread may be inside a kernel: nothing is worth cleaning up.
    os._exit(1)
