"""A Llama in plain PyTorch, trained the way torchtitan trains on one GPU: the peer of `bench_gpu`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.heads, self.groups, self.size = spec.num_attention_heads, spec.num_query_groups, spec.head_size
        self.q = nn.Linear(spec.hidden_size, self.heads * self.size, bias=False)
        self.k = nn.Linear(spec.hidden_size, self.groups * self.size, bias=False)
        self.v = nn.Linear(spec.hidden_size, self.groups * self.size, bias=False)
        self.o = nn.Linear(self.heads * self.size, spec.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, rope: torch.Tensor, mask: Any) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (part(x).view(batch, length, -1, self.size).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = rotate(q, rope), rotate(k, rope)
        if mask is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.groups)
        elif torch.is_tensor(mask):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=self.heads != self.groups)
        else:
            from torch.nn.attention.flex_attention import flex_attention

            out = flex_attention(q, k, v, block_mask=mask, enable_gqa=self.heads != self.groups)
        return self.o(out.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.norm, self.attention = nn.RMSNorm(spec.hidden_size, spec.rms_norm_eps), Attention(spec)
        self.ffn_norm = nn.RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.gate = nn.Linear(spec.hidden_size, spec.ffn_hidden_size, bias=False)
        self.up = nn.Linear(spec.hidden_size, spec.ffn_hidden_size, bias=False)
        self.down = nn.Linear(spec.ffn_hidden_size, spec.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, rope: torch.Tensor, mask: Any) -> torch.Tensor:
        x = x + self.attention(self.norm(x), rope, mask)
        y = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.num_layers))
        self.norm = nn.RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.output = nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=spec.init_std)
        if spec.tie_word_embeddings:
            self.output.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor, rope: torch.Tensor, mask: Any) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, rope, mask)
        return self.output(self.norm(x))


def rotate(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Rotary positions; ``rope`` is ``[2, length, head]``, cosines and sines."""
    left, right = x.chunk(2, dim=-1)
    return (x * rope[0] + torch.cat([-right, left], dim=-1) * rope[1]).to(x.dtype)


def rotary(spec: Any, length: int, device: torch.device) -> torch.Tensor:
    frequencies = spec.rope_theta ** (-torch.arange(0, spec.head_size, 2, device=device) / spec.head_size)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def document_mask(ids: torch.Tensor) -> Any:
    """A FlexAttention block mask on a GPU, a boolean mask elsewhere; None where every row is one document."""
    if (ids == ids[:, :1]).all():
        return None
    batch, length = ids.shape
    if ids.device.type == "cuda":
        from torch.nn.attention.flex_attention import create_block_mask

        def same(b: Any, _: Any, q: Any, k: Any) -> Any:
            return (q >= k) & (ids[b, q] == ids[b, k])

        return create_block_mask(same, batch, None, length, length, device=ids.device)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return ((ids[:, :, None] == ids[:, None, :]) & causal)[:, None]


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")


def train_step(spec: Any, micro: int, compiled: bool) -> Callable[[Any], float]:
    """A function that trains on one batch and returns its loss in nats."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Llama(spec).to(device)
    mesh = init_device_mesh(device.type, (1,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    loss_of = torch.compile(cross_entropy) if compiled else cross_entropy
    for block in model.blocks:
        if compiled:
            block.compile(fullgraph=True)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tables: dict[int, torch.Tensor] = {}

    def step(batch: Any) -> float:
        total = torch.zeros((), device=device)
        for part in batch.split(micro):
            tokens, targets, ids = (
                torch.from_numpy(array).to(device) for array in (part.tokens, part.targets, part.document_ids)
            )
            rope = tables.setdefault(tokens.shape[1], rotary(spec, tokens.shape[1], device))
            loss = loss_of(model(tokens, rope, document_mask(ids)), targets)
            (loss / batch.tokens.size).backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(total) / batch.tokens.size

    return step
