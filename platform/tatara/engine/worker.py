"""What Tatara adds to vLLM's workers, the processes that hold the model."""

import os
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

EXTENSION = "tatara.engine.worker.WorkerExtension"
POLL_SECONDS = 1.0


class WorkerExtension:
    """Methods that the engine calls in its workers (vLLM's ``worker_extension_cls``)."""

    model_runner: Any
    """vLLM's own: it holds the model."""

    def end_with_parent(self) -> None:
        """End this process when the one that started it dies.

        vLLM ends its engine process in an orderly shutdown only; after a SIGKILL of the parent it would stay for ever
        and keep its memory.
        """
        threading.Thread(target=_watch, args=(os.getppid(),), name="end-with-parent", daemon=True).start()

    def allow_tiles(self) -> None:
        """Ask the kernel for the matrix unit of the CPU (AMX), where there is one, before the first request.

        vLLM's bfloat16 attention uses it without asking, which is an illegal instruction and the end of the process
        unless a large matrix product happens to have asked before: it depends on which requests come first.
        """
        import torch

        if torch.cpu._is_amx_tile_supported():
            torch.cpu._init_amx()

    def renew_kernels(self) -> None:
        """Have kernels of experts on a CPU set up again with the weights that come next.

        vLLM packs experts only while it sets their kernel up, and would take new ones for packed. (On a GPU captured
        graphs need the kernel that there is.)
        """
        model = self.model_runner.get_model()
        if next(model.parameters()).device.type != "cpu":
            return
        for layer in model.modules():
            method = getattr(layer, "quant_method", None)
            if method is not None and getattr(method, "moe_kernel", None) is not None:
                method.moe_kernel = None

    def begin_weights(self) -> None:
        """Make ready for new weights; nothing may be computed before `end_weights`."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.renew_kernels()
        initialize_layerwise_reload(self.model_runner.get_model())

    def load_weights_bucket(self, bucket: "bytes | np.ndarray") -> None:
        """Load some of the weights; each worker takes its part of every tensor.

        Args:
            bucket: See `tatara.engine.buckets`. Tensors of a layer whose others are in a later bucket keep it alive.
        """
        from tatara.engine.buckets import unpacked

        self.model_runner.get_model().load_weights(unpacked(bucket))

    def end_weights(self) -> None:
        """Finish what `begin_weights` began; quantised layers are processed as at the start."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        runner = self.model_runner
        finalize_layerwise_reload(runner.get_model(), runner.model_config)
        # As vLLM's own `reload_weights` does: whatever came of the old weights.
        runner.reset_lora_state()
        runner.reset_encoder_cache()
        runner.reset_mm_cache()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    # Nobody is left to answer and the main thread may be inside a kernel: nothing is worth cleaning up.
    os._exit(1)
