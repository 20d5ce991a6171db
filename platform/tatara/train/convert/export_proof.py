"""Proves that exported files compute what the Megatron model computes, by loading them as a stranger would."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from tatara.errors import ArtifactError
from tatara.model.hf_names import hf_shapes
from tatara.model.safetensors_files import TensorDirectory
from tatara.model.spec import ModelSpec

TEXT = (
    "The furnace was built of clay, and for three days and three nights charcoal and iron sand went in at the top. "
    "On the fourth morning they broke the walls. 砂鉄と木炭を交互に入れ、三日三晩燃やし続ける。 "
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n"
    "Der Stahl, 2.5 kg schwer, glänzte: 12 % Schlacke, 88 % Eisen. ¿Cuánto pesa? Environ 3 000 grammes.\n"
)


@dataclass(frozen=True)
class Difference:
    """How far the logits of two models are apart."""

    largest: float
    """Largest absolute difference of any logit."""
    tokens: int
    """Tokens that were compared."""


def prove(
    directory: Path, spec: ModelSpec, batches: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float
) -> dict[str, Any]:
    """Load the exported files afresh with transformers and compare their logits with what Megatron computed.

    Args:
        directory: The exported directory.
        spec: The architecture that was trained.
        batches: Token ids, each `[batch, sequence]`.
        expected: Megatron's logits in float32, each `[batch, sequence, vocab_size]`.
        tolerance: Largest absolute difference that passes.

    Raises:
        ArtifactError: A tensor is missing, unknown or of another shape; the number of parameters is not the
            architecture's; or a logit differs by more than the tolerance.
    """
    counted = account(directory, spec)
    model = load_transformers(directory, torch.float32)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters != counted["parameters"]:
        raise ArtifactError(f"transformers counts {parameters} parameters in the export, not {counted['parameters']}")
    difference = compare(model, batches, expected)
    # Written so that NaN fails.
    if not difference.largest <= tolerance:
        raise ArtifactError(
            f"the export does not compute what Megatron does: a logit differs by {difference.largest:.2e}, "
            f"more than tolerance {tolerance:.0e}, over {difference.tokens} tokens"
        )
    return {
        **counted,
        "max_abs_logit_diff": difference.largest,
        "tolerance": tolerance,
        "tokens_compared": difference.tokens,
    }


def account(directory: Path, spec: ModelSpec) -> dict[str, Any]:
    """Compare the tensors in the files with those of the architecture, without reading them.

    Raises:
        ArtifactError: One is missing, unknown or of another shape.
    """
    files = sorted(directory.glob("*.safetensors"))
    found, shapes = TensorDirectory(directory).shapes(), hf_shapes(spec)
    if found != shapes:
        wrong = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
        raise ArtifactError(f"the export is not the model that was trained: {len(wrong)} tensors differ, {wrong[0]}")
    return {
        "tensors": len(found),
        # The bias of a router is none.
        "parameters": sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith("_bias")),
        "missing_tensors": 0,
        "unexpected_tensors": 0,
        "sha256": {file.name: _sha256(file) for file in files},
    }


def load_transformers(directory: Path, dtype: torch.dtype) -> Any:
    """The model of a directory as transformers loads it, ready to compute.

    Raises:
        ArtifactError: A tensor is missing, unknown, or could not be converted.
    """
    disable_progress_bar()
    model, loading = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, output_loading_info=True, local_files_only=True
    )
    problems = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
    if problems:
        kind, names = next(iter(problems.items()))
        raise ArtifactError(f"transformers cannot load {directory} completely: {kind}: {', '.join(names[:3])}")
    return model.eval()


def compare(model: Any, batches: list[torch.Tensor], expected: list[torch.Tensor]) -> Difference:
    """The largest difference between a transformers model's logits and the expected ones."""
    worst = torch.zeros(())
    with torch.inference_mode():
        for tokens, logits in zip(batches, expected, strict=True):
            # torch.maximum keeps a NaN, Python's max does not.
            worst = torch.maximum(worst, (model(tokens, use_cache=False).logits - logits).abs().max())
    return Difference(largest=float(worst), tokens=sum(batch.numel() for batch in batches))


def proof_batches(directory: Path, spec: ModelSpec, wanted: int) -> Iterator[torch.Tensor]:
    """Random tokens, then text in the exported tokenizer, each about half of the wanted tokens.

    Yields:
        `[batch, sequence]` token ids, with sequences as long as the model allows.
    """
    length = min(spec.max_position_embeddings, wanted // 2)
    rows = -(-(wanted // 2) // length)
    yield torch.randint(0, spec.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    ids = AutoTokenizer.from_pretrained(directory, local_files_only=True)(TEXT, add_special_tokens=False)["input_ids"]
    yield torch.tensor((ids * (rows * length // len(ids) + 1))[: rows * length]).view(rows, length)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
