"""Runs Megatron-core 0.16 on machines without a GPU, over gloo.

Megatron-core names CUDA where it means "the accelerator". `install` rebinds those names for this process, and only
where PyTorch sees no GPU: with one, the adapter is absent, not merely idle. Nothing intercepts the tensor operations of
a training step: each Megatron module that spells a CUDA device gets its own view of `torch` whose tensor factories
allocate on the CPU, and the rest are replacements of single functions. (A `TorchFunctionMode` would be shorter, but
every torch call of the step would go through Python.)

Every replacement first checks that what it replaces is what Megatron-core 0.16 ships, so that an upgrade fails here,
by name, and not silently in the gradients.
"""

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from tatara.errors import EngineError
from tatara.train.cpu_collectives import all_gather, reduce_scatter

SUPPORTED = "0.16."
_CPU = torch.device("cpu")
_FACTORIES = ("empty", "empty_like", "full", "ones", "tensor", "zeros")

# Modules that spell the device out, each with a piece of source that shows they still do.
_MODULES_THAT_NAME_CUDA = {
    "megatron.core.dist_checkpointing.exchange_utils": 'device="cuda"',
    "megatron.core.dist_checkpointing.mapping": "def init_data(self, device",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver": "device='cuda'",
    "megatron.core.models.common.embeddings.rope_utils": "pin_memory=True",
    "megatron.core.optimizer.clip_grads": "device='cuda'",
    "megatron.core.optimizer.grad_scaler": "device='cuda'",
    "megatron.core.optimizer.optimizer": "device='cuda'",
    "megatron.core.pipeline_parallel.schedules": 'device="cuda"',
    "megatron.core.tensor_parallel.data": "device='cuda'",
    "megatron.core.transformer.moe.moe_utils": 'device="cuda"',
    "megatron.core.transformer.utils": 'device="cuda"',
    "megatron.core.utils": 'device="cuda"',
}

_installed = False


def install() -> bool:
    """Make Megatron-core usable without a GPU in this process; safe to call again.

    Returns:
        True where the adapter is in place, False where PyTorch sees a GPU and nothing was touched.

    Raises:
        EngineError: Megatron-core is not 0.16, or something the adapter replaces is not there any more.
    """
    global _installed
    if torch.cuda.is_available():
        return False
    if _installed:
        return True
    version = importlib.import_module("megatron.core").__version__
    if not version.startswith(SUPPORTED):
        raise EngineError(f"the CPU adapter knows megatron-core {SUPPORTED}x, but {version} is installed")
    _replace_cuda_runtime()
    _replace_device_names()
    _replace_random_state()
    _replace_optimizer_parts()
    _replace_collectives()
    _replace_mixture_of_experts_parts()
    _installed = True
    return True


class _Stream:
    """The one and only stream of a CPU: everything on it has already happened."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record_event(self, *_: Any) -> "_Event":
        return _Event()

    def synchronize(self) -> None:
        pass

    def wait_event(self, *_: Any) -> None:
        pass

    def wait_stream(self, *_: Any) -> None:
        pass


class _Event:
    """An event on that stream."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def elapsed_time(self, _: "_Event") -> float:
        return 0.0

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def wait(self, *_: Any) -> None:
        pass


def _replace_cuda_runtime() -> None:
    """Give `torch.cuda` the CPU as its device and streams that need no waiting."""
    stream = _Stream()
    replacements: dict[str, Any] = {
        "Event": _Event,
        "Stream": _Stream,
        "current_device": lambda: _CPU,
        "current_stream": lambda *_: stream,
        "default_stream": lambda *_: stream,
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "is_current_stream_capturing": lambda: False,
        "manual_seed": torch.manual_seed,
        "set_device": lambda *_: None,
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "stream": lambda _: contextlib.nullcontext(),
        "synchronize": lambda *_, **__: None,
    }
    for name, value in replacements.items():
        _replace(torch.cuda, name, value)
    _replace(torch.Tensor, "cuda", lambda self, *_, **__: self)
    _replace(torch.nn.Module, "cuda", lambda self, *_, **__: self)


def _replace_device_names() -> None:
    """Give each Megatron module that allocates on "cuda" a `torch` whose factories allocate on the CPU."""
    for name, evidence in _MODULES_THAT_NAME_CUDA.items():
        module = importlib.import_module(name)
        if getattr(module, "torch", None) is not torch or evidence not in inspect.getsource(module):
            raise EngineError(f"the CPU adapter does not know this {name}: {evidence!r} and `import torch` expected")
        module.torch = _torch_on_cpu()  # type: ignore[attr-defined]


@functools.cache
def _torch_on_cpu() -> ModuleType:
    """A module that is `torch` in everything but the device of new tensors."""
    view = ModuleType("torch", torch.__doc__)
    view.__dict__.update(torch.__dict__)
    # torch loads some submodules on first use.
    view.__getattr__ = functools.partial(getattr, torch)  # type: ignore[method-assign]
    for name in _FACTORIES:
        setattr(view, name, _allocate_on_cpu(getattr(torch, name)))
    return view


def _allocate_on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def allocate(*args: Any, **kwargs: Any) -> torch.Tensor:
        if "device" in kwargs and kwargs["device"] is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return allocate


def _replace_random_state() -> None:
    """One generator: the CPU's."""
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    _replace(random, "_get_cuda_rng_state", lambda *_, **__: torch.get_rng_state(), "device", "clone", "graph_safe")
    _replace(
        random,
        "_set_cuda_rng_state",
        lambda new_state, *_, **__: torch.set_rng_state(new_state),
        *("new_state", "device", "graph_safe"),
    )


def _replace_optimizer_parts() -> None:
    """Let the optimizers accept CPU parameters."""
    distributed = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    mixed = importlib.import_module("megatron.core.optimizer.optimizer")
    if _find(distributed, "HAVE_APEX_OR_TE"):
        raise EngineError("the CPU adapter expects torch's Adam: uninstall apex and transformer-engine, or use a GPU")

    optimizer = _find(distributed, "DistributedOptimizer")
    for owner, name in (
        (optimizer, "__init__"),
        (_find(mixed, "Float16OptimizerWithFloat16Params"), "__init__"),
        (mixed, "clip_grad_by_total_norm_fp32"),
    ):
        _replace(owner, name, _with_cuda_type_names(_find(owner, name)))


def _replace_collectives() -> None:
    """Sum gradients and share parameters by what gloo does fast: its own way takes twice as long."""
    buffers = importlib.import_module("megatron.core.distributed.param_and_grad_buffer")
    _replace(buffers, "dist_reduce_scatter_func", reduce_scatter)
    _replace(buffers, "dist_all_gather_func", all_gather)


def _with_cuda_type_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that compares `Tensor.type()` with the names of CUDA tensors."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _cuda_type_names():
            return function(*args, **kwargs)

    return call


@contextlib.contextmanager
def _cuda_type_names() -> Iterator[None]:
    original = torch.Tensor.type

    def named(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = original(tensor, *args, **kwargs)
        return answer if args or kwargs else answer.replace("torch.", "torch.cuda.", 1)

    torch.Tensor.type = named
    try:
        yield
    finally:
        torch.Tensor.type = original


def _replace_mixture_of_experts_parts() -> None:
    """Route without Transformer Engine's GEMM, and with token counts that are already on the host."""
    utils = importlib.import_module("megatron.core.transformer.moe.moe_utils")
    if not hasattr(utils, "te_general_gemm"):
        # Megatron tests this name for None but binds it only where Transformer Engine is installed.
        utils.te_general_gemm = None  # type: ignore[attr-defined]
    dispatcher = importlib.import_module("megatron.core.transformer.moe.token_dispatcher")
    _replace(dispatcher, "maybe_move_tensor_to_cpu", _already_on_cpu, "tensor", "as_numpy", "record_stream")


def _already_on_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


def _replace(owner: Any, name: str, value: Any, *parameters: str) -> None:
    """Rebind a name that must exist and, where parameters are given, be a function that takes exactly these."""
    original = _find(owner, name)
    found = tuple(inspect.signature(original).parameters) if parameters else ()
    if found != parameters:
        raise EngineError(
            f"the CPU adapter does not know this {_name(owner)}.{name}: "
            f"it takes {', '.join(found)}, not {', '.join(parameters)}"
        )
    setattr(owner, name, value)


def _find(owner: Any, name: str) -> Any:
    if not hasattr(owner, name):
        raise EngineError(f"the CPU adapter replaces {_name(owner)}.{name}, which this version does not have")
    return getattr(owner, name)


def _name(owner: Any) -> str:
    """A module's or a class's dotted name."""
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
