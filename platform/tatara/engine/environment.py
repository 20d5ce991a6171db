"""The environment variables a vLLM process needs before it imports torch."""


def engine_environment(cuda: bool, threads: int = 1) -> dict[str, str]:
    """Environment for a process that runs an engine; set it before torch and vLLM are imported.

    Args:
        cuda: Whether the engine runs on a GPU: then only what holds on every machine is set.
        threads: Compute threads of an engine without a GPU.
    """
    everywhere = {
        "VLLM_NO_USAGE_STATS": "1",
        # A model is a directory here; a look-up on the Hub would only delay the error about a wrong one.
        "HF_HUB_OFFLINE": "1",
        # The request log belongs to the server, not to the terminal of whoever started it.
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if cuda:
        return everywhere
    return everywhere | {
        # More threads than cores that are free cost an engine up to 95 % of its speed.
        "OMP_NUM_THREADS": str(threads),
        # By default every engine process pins itself to the first core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # The engine process runs the model itself instead of starting one more process that imports everything again.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Compiling takes longer than a small model's whole run, and eager mode does not need it.
        "TORCHDYNAMO_DISABLE": "1",
    }
