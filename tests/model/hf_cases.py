"""What the ranks of the weight stream's tests do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from model.megatron_cases import SEQUENCE, chunks, layout, packed_batch, small_spec
from tatara.errors import ArtifactError
from tatara.model.hf import hf_config, stream_to_hf
from tatara.model.hf_files import write_to_hf
from tatara.model.hf_loading import load_from_directory, load_from_hf
from tatara.model.megatron import global_parameters
from tatara.model.safetensors_files import TensorDirectory
from tatara.model.spec import ModelSpec

EXPERTS = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 32}
SIGMOID = {"score": "sigmoid", "balancing": "bias"}
YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"rope_scaling": LLAMA3},
    "llama tied": {"tie_word_embeddings": True, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama wide heads": {"num_query_groups": 1, "head_dim": 32, "dtype": "bfloat16"},
    "qwen3": {"qk_norm": "head", "head_dim": 32, "rope_scaling": YARN, "tie_word_embeddings": True},
    "instella": {"qk_norm": "full", "num_query_groups": 4},
    "instella grouped": {"qk_norm": "full"},
    "mixtral": {"moe": EXPERTS},
    "qwen3 moe": {"qk_norm": "head", "head_dim": 32, "moe": EXPERTS | {"normalize_top_k": False}},
    "olmoe": {"qk_norm": "full", "moe": EXPERTS | {"normalize_top_k": False}},
    "glm4 moe": {
        "qk_norm": "head",
        "moe": EXPERTS | SIGMOID | {"shared_expert_ffn_hidden_size": 64, "scaling_factor": 2.5},
        "dtype": "bfloat16",
    },
    "glm4 moe unshared": {"moe": EXPERTS | {"score": "sigmoid"}},
}


def transformers_model(spec: ModelSpec) -> Any:
    """Random weights, none of them the value that it begins with."""
    torch.manual_seed(3)
    # The default initialisation of zeros and ones would hide a tensor that is not loaded.
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**hf_config(spec, 0)))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("norm.weight"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("gate.weight") and spec.moe is None:
                # The router over one expert, which decides nothing.
                tensor.zero_()
            elif "shared_experts" in name and spec.moe is not None and not spec.moe.shared_expert_ffn_hidden_size:
                tensor.zero_()
            elif not name.endswith("_bias"):
                tensor.normal_(std=0.15)
            elif spec.moe is not None and spec.moe.balancing == "bias":
                tensor.normal_(std=0.2)
    dtype = getattr(torch, spec.dtype)
    model = model.to(dtype)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.data = buffer.data.float()
    return model.eval()


def save_references(root: Path) -> None:
    """Every architecture as transformers writes it."""
    for name, changes in ARCHITECTURES.items():
        transformers_model(small_spec(**changes)).save_pretrained(root / name)


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def round_trips(layouts: list[dict[str, Any]], names: list[str], references: Path, scratch: Path) -> list[str]:
    """Files to Megatron and back in each layout; returns what did not come back, and how often something did."""
    wrong, done = [], 0
    for sizes in layouts:
        for name in names:
            spec = small_spec(**ARCHITECTURES[name])
            if "ep" in sizes and spec.moe is None:
                continue
            stored = TensorDirectory(references / name)
            expected = dict(stored)
            model = chunks(spec, layout(**sizes), seed=9)
            load_from_directory(model, spec, stored)
            if not _equal({key: value.clone() for key, value in stream_to_hf(model, spec)}, expected):
                wrong.append(f"{name} in {sizes}: stream")
            written = scratch / f"{name} {sizes}"
            written.mkdir(exist_ok=True)
            write_to_hf(model, spec, written, max_shard_size=100_000)
            if not _equal(dict(TensorDirectory(written)), expected):
                wrong.append(f"{name} in {sizes}: files")
            done += 1
            parallel_state.destroy_model_parallel()
    return [*wrong, f"{done} round trips"]


def stream(sizes: Any, **changes: Any) -> dict[str, torch.Tensor]:
    spec = small_spec(**changes)
    return {name: tensor.clone() for name, tensor in stream_to_hf(chunks(spec, sizes), spec)}


def reload(sizes: Any, tensors: dict[str, torch.Tensor], **changes: Any) -> dict[str, torch.Tensor]:
    """Load tensors into a model of other weights, and stream that."""
    spec = small_spec(**changes)
    model = chunks(spec, sizes, seed=9)
    load_from_hf(model, spec, reversed(tensors.items()))
    tied = [chunk.shared_embedding_or_output_weight() for chunk in model if spec.tie_word_embeddings]
    for table in tied:
        if table is not None:
            assert torch.equal(table[: spec.vocab_size], tensors["model.embed_tokens.weight"])
    return {name: tensor.clone() for name, tensor in stream_to_hf(model, spec)}


def logits(references: Path, scratch: Path) -> dict[str, tuple[float, float, float]]:
    """Spread of transformers' logits and largest difference of ours, in float32, by architecture.

    The third number is the same for transformers with what we stream, loaded from our files.
    """
    found = {}
    for name, changes in ARCHITECTURES.items():
        spec = small_spec(**changes | {"dtype": "float32"})
        (model,) = chunks(spec, layout())
        theirs = AutoModelForCausalLM.from_pretrained(references / name, dtype=torch.float32)
        load_from_directory([model], spec, TensorDirectory(references / name))
        tokens = packed_batch(spec)["tokens"]
        # Another directory: transformers maps the files into memory.
        AutoConfig.for_model(**hf_config(spec)).save_pretrained(scratch / name)
        write_to_hf([model], spec, scratch / name, max_shard_size=1 << 30)
        again, loading = AutoModelForCausalLM.from_pretrained(
            scratch / name, dtype=torch.float32, output_loading_info=True
        )
        assert not any(loading.values()), loading
        with torch.no_grad():
            mine = model.eval()(tokens, torch.arange(SEQUENCE).expand_as(tokens), None)[..., : spec.vocab_size]
            reference = theirs(tokens, use_cache=False).logits
            exported = again(tokens, use_cache=False).logits
        difference = float((mine - reference).abs().max())
        found[name] = (float(reference.std()), difference, float((exported - reference).abs().max()))
        parallel_state.destroy_model_parallel()
    return found


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make while it is on, and the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in _flat((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in _flat(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: held for key, held in self._live.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._live.values()))
        return result


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def memory(directory: Path, sizes: dict[str, Any], **changes: Any) -> tuple[int, int, int]:
    """Most bytes made while writing, and while reading, and the largest tensor of Megatron's."""
    spec = small_spec(**changes)
    model = chunks(spec, layout(**sizes))
    with LiveBytes() as writing:
        write_to_hf(model, spec, directory, max_shard_size=200_000)
    stored = TensorDirectory(directory)
    with LiveBytes() as reading:
        load_from_directory(model, spec, stored)
    largest = max(parameter.nbytes for _, parameter in global_parameters(model))
    everywhere = torch.tensor(largest)
    dist.all_reduce(everywhere, op=dist.ReduceOp.MAX)
    return writing.most, reading.most, int(everywhere)


def refusals() -> dict[str, str]:
    """What is said to weights that do not fit."""
    spec = small_spec()
    model = chunks(spec, layout())
    good = dict(stream_to_hf(model, spec))
    name = "model.layers.2.self_attn.k_proj.weight"

    def refused(tensors: Iterator[tuple[str, torch.Tensor]]) -> str:
        try:
            load_from_hf(model, spec, tensors)
        except ArtifactError as error:
            return str(error)
        return "loaded"

    said = {
        "missing": refused((key, value) for key, value in good.items() if key != name),
        "unexpected": refused(iter([*good.items(), ("model.layers.4.mlp.up_proj.weight", good[name])])),
        "twice": refused(iter([*good.items(), (name, good[name])])),
        "shape": refused(iter((good | {name: good[name][:-1]}).items())),
    }
    other = small_spec(num_layers=3)
    try:
        list(stream_to_hf(model, other))
    except ArtifactError as error:
        said["other architecture"] = str(error)
    return said


def a_bias_without_a_place() -> str:
    spec = small_spec(**ARCHITECTURES["glm4 moe unshared"])
    model = chunks(spec, layout())
    tensors = {name: tensor.clone() for name, tensor in stream_to_hf(model, spec)}
    tensors["model.layers.1.mlp.gate.e_score_correction_bias"][2] = 0.1
    try:
        load_from_hf(model, spec, tensors.items())
    except ArtifactError as error:
        return str(error)
    return "loaded"


def names(sizes: Any) -> list[str]:
    return [name for name, _ in global_parameters(chunks(small_spec(), sizes))]
