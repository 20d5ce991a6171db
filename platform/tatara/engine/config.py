"""What an engine is made from: the few settings Tatara names, and vLLM's own arguments untouched."""

from typing import Any, Literal

from pydantic import Field

from tatara.config import Config, operational
from tatara.engine.worker import EXTENSION

CPU_KV_CACHE_BYTES = 128 << 20


class EngineConfig(Config):
    """Settings of one vLLM engine."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations; "auto" takes the checkpoint's own."""

    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt plus completion, in tokens; null takes the model's own limit."""

    kv_cache_bytes: int | None = operational(None, ge=1 << 20)
    """Memory of the key-value cache, in bytes; null is 128 MiB on a CPU and vLLM's share of the memory on a GPU."""

    max_num_seqs: int | None = operational(None, ge=1)
    """Most sequences decoded in one step; null takes vLLM's default."""

    enforce_eager: bool | None = operational(None)
    """Run without compiled graphs; null is true on a CPU, where compiling costs more than it saves, false on a GPU."""

    seed: int = Field(default=0, ge=0)
    """Seed of requests that bring none of their own."""

    vllm_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM by their Python names, passed through untouched; they win over the fields above.
    A ``worker_extension_cls`` must derive from `tatara.engine.worker.WorkerExtension`."""

    def arguments(self, cuda: bool) -> dict[str, Any]:
        """The keyword arguments of ``vllm.AsyncEngineArgs`` (model and served name apart).

        Args:
            cuda: Whether the engine will run on a GPU.
        """
        given = {
            "dtype": self.dtype,
            "seed": self.seed,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            # vLLM sizes the cache as a share of all memory, which fails on a busy machine without a GPU.
            "kv_cache_memory_bytes": self.kv_cache_bytes or (None if cuda else CPU_KV_CACHE_BYTES),
            "enforce_eager": (not cuda) if self.enforce_eager is None else self.enforce_eager,
            # A progress bar for a file that loads in milliseconds is noise in a log.
            "use_tqdm_on_load": False,
            "worker_extension_cls": EXTENSION,
        }
        return {name: value for name, value in given.items() if value is not None} | self.vllm_args
