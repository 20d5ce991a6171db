"""The FLOP formula against torch's own counter on Hugging Face models, and the bookkeeping around it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from tatara.model.spec import MixtureOfExperts, ModelSpec
from tatara.train.watch.flops import (
    DocumentLoad,
    Peak,
    device_peak,
    document_load,
    published_peak,
    speed,
)

ROWS, SEQUENCE = 2, 48
SIZES = {
    "vocab_size": 384, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": SEQUENCE,
    "tie_word_embeddings": False,
}  # fmt: skip


def counted(model: torch.nn.Module) -> float:
    tokens = torch.arange(ROWS * SEQUENCE).view(ROWS, SEQUENCE)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens).loss.backward()
    return float(counter.get_total_flops())


def full_square(spec: ModelSpec) -> float:
    """The eager attention that is counted computes the whole square of scores, twice what causality needs."""
    return DocumentLoad(ROWS * SEQUENCE, 2 * ROWS * SEQUENCE**2).flops(spec)


@pytest.mark.parametrize(("groups", "layers", "ffn"), [(4, 1, 96), (2, 3, 160), (1, 2, 96)])
def test_a_dense_model_costs_what_torch_counts(groups, layers, ffn):
    spec = ModelSpec(**SIZES, num_query_groups=groups, num_layers=layers, ffn_hidden_size=ffn)
    model = LlamaForCausalLM(
        LlamaConfig(
            **SIZES, num_key_value_heads=groups, num_hidden_layers=layers, intermediate_size=ffn,
            attn_implementation="eager",
        )
    )  # fmt: skip
    assert full_square(spec) == pytest.approx(counted(model), rel=1e-9)


def test_a_mixture_of_experts_costs_its_active_experts():
    experts = MixtureOfExperts(num_experts=8, top_k=2, expert_ffn_hidden_size=80)
    spec = ModelSpec(**SIZES, num_query_groups=2, num_layers=2, moe=experts)
    model = MixtralForCausalLM(
        MixtralConfig(
            **SIZES, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=80, num_local_experts=8,
            num_experts_per_tok=2, attn_implementation="eager", experts_implementation="eager",
        )
    )  # fmt: skip
    assert full_square(spec) == pytest.approx(counted(model), rel=1e-9)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 5))
def test_documents_are_counted_by_their_lengths(rows, padding):
    width = max(map(sum, rows)) + padding
    ids = np.full((len(rows), width), -1, dtype=np.int64)
    for row, lengths in enumerate(rows):
        for number, (start, end) in enumerate(itertools.pairwise([0, *itertools.accumulate(lengths)])):
            ids[row, start:end] = number
    lengths = [length for row in rows for length in row]
    load = document_load(ids)
    assert (load.tokens, load.squares) == (sum(lengths), sum(length**2 for length in lengths))
    parts = [document_load(ids[row : row + 1]) for row in range(len(rows))]
    assert sum(parts, DocumentLoad()) == load


def test_short_documents_make_a_step_cheaper():
    spec = ModelSpec()
    whole, packed = DocumentLoad(1024, 1024**2), DocumentLoad(1024, 8 * 128**2)
    heads = spec.head_size * spec.num_attention_heads
    assert whole.flops(spec) - packed.flops(spec) == pytest.approx(6 * spec.num_layers * heads * 1024 * (1024 - 128))
    assert document_load(np.full((2, 4), -1)) == DocumentLoad()
    assert DocumentLoad().flops(spec) == 0


def test_utilisation_is_the_share_of_all_devices_peaks():
    spec = ModelSpec()
    load = DocumentLoad(10_000, 1_000_000)
    measured = speed(spec, load, seconds=2.0, devices=4, peak=Peak(1e12, "published"))
    assert measured.flops_per_second == pytest.approx(load.flops(spec) / 8)
    assert measured.figures() == {
        "tflops_per_device": pytest.approx(load.flops(spec) / 8e12), "mfu": pytest.approx(load.flops(spec) / 8e12),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bfloat16", "fp8"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 1979e12),
        ("NVIDIA H100 PCIe", 756e12, 1513e12),
        ("NVIDIA H100 NVL", 835e12, 1671e12),
        ("NVIDIA H200", 989e12, 1979e12),
        ("NVIDIA H200 MIG 1g.18gb", None, None),
        ("NVIDIA A100-SXM4-80GB", 312e12, None),
        ("NVIDIA B200", 2250e12, 4500e12),
        ("NVIDIA L40S", 362e12, 733e12),
        ("NVIDIA L40", 181e12, 362e12),
        ("AMD Instinct MI300X", 1307e12, 2615e12),
        ("NVIDIA GeForce GTX 1050", None, None),
    ],
)
def test_peaks_are_the_published_ones(name, bfloat16, fp8):
    assert (published_peak(name), published_peak(name, "fp8")) == (bfloat16, fp8)


def test_a_cpu_is_measured():
    peak = device_peak(torch.device("cpu"), torch.float32)
    assert peak.source == "measured"
    # A core adds and multiplies at least eight numbers in each of a billion cycles, and no machine has a million.
    assert 1e9 < peak.flops_per_second < 1e16
