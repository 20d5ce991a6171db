"""Weights on their way to an engine, compared with what the safetensors package and transformers say."""

from pathlib import Path

import pytest

from tatara.engine.buckets import buckets, described, unpacked
from tatara.engine.weights import ExpectedWeights, quantise_rows
from tatara.errors import EngineError


@pytest.fixture(scope="module")
def tensors():
    import torch

    generator = torch.Generator().manual_seed(0)
    made = {f"layer.{index}.weight": torch.randn(9, 7 + index, generator=generator) for index in range(9)}
    made["half"] = torch.randn(3, generator=generator).bfloat16()
    made["scalar"] = torch.tensor(2.5)
    made["nothing"] = torch.empty(0, 4)
    made["eighth"] = torch.randn(5, 3, generator=generator).to(torch.float8_e4m3fn)
    made["strided"] = torch.randn(6, 4, generator=generator).t()
    return made


@pytest.mark.parametrize("size", [1, 600, 1 << 20])
def test_a_bucket_is_a_safetensors_file_and_comes_back_without_a_copy(tensors, size: int) -> None:
    import numpy as np
    import torch
    from safetensors.torch import load

    packed = list(buckets(tensors.items(), size))
    assert len(packed) == {1: len(tensors), 1 << 20: 1}.get(size, len(packed))
    assert len(packed) <= len(tensors)
    found, theirs = {}, {}
    for bucket in packed:
        assert bucket.dtype == np.uint8
        body = sum(tensors[name].nbytes for name in described(bucket))
        assert body <= size or len(described(bucket)) == 1
        theirs |= load(bucket.tobytes())
        found |= dict(unpacked(bucket))
        assert {name: tuple(tensors[name].shape) for name in described(bucket)} == described(bucket)
    assert found.keys() == theirs.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == theirs[name].dtype == tensor.dtype
        for each in (found[name], theirs[name]):
            assert each.shape == tensor.shape
            assert torch.equal(each.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
    last = dict(unpacked(packed[-1]))
    shared = next(tensor for tensor in last.values() if tensor.numel())
    start = packed[-1].ctypes.data
    assert start <= shared.data_ptr() < start + packed[-1].nbytes


def test_weights_are_sent_in_the_type_that_is_asked_for(tensors) -> None:
    import torch

    given = {"layer.0.weight": tensors["layer.0.weight"]}
    (bucket,) = buckets(given.items(), dtype=torch.bfloat16)
    (sent,) = [tensor for _, tensor in unpacked(bucket)]
    assert torch.equal(sent, given["layer.0.weight"].bfloat16())
    with pytest.raises(EngineError, match=r"torch.int64 cannot be sent to an engine \(ids\)"):
        list(buckets([("ids", torch.arange(3))]))
    with pytest.raises(EngineError, match="at least 1 byte"):
        list(buckets(given.items(), 0))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"\1" * 40,
        lambda data: data[:20],
    ],
    ids=["short", "long", "empty", "noise", "header"],
)
def test_a_damaged_bucket_is_refused(tensors, damage) -> None:
    (bucket,) = buckets(tensors.items())
    with pytest.raises(EngineError, match="a bucket of weights"):
        list(unpacked(damage(bucket.tobytes())))


def test_an_update_is_refused_before_anything_is_loaded(tiny_llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = ExpectedWeights(tiny_llama)
    assert expected.names() == set(shapes)
    expected.check(shapes)
    first = min(shapes)
    for damaged, message in (
        ({name: shapes[name] for name in shapes if name != first}, f"lack 1 of {len(shapes)}, first {first}"),
        (shapes | {"more": (1,)}, "hold more, which"),
        (shapes | {first: (3,)}, rf"{first} has shape \[3\] in an update"),
    ):
        with pytest.raises(EngineError, match=message):
            expected.check(damaged)


def test_rows_are_quantised_within_the_rounding_of_eight_bits() -> None:
    import torch

    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, 16)[:, None]
    weight[5] = 0
    quantised, scales = quantise_rows(weight)
    assert quantised.dtype == torch.float8_e4m3fn
    assert scales.shape == (16, 1)
    back = quantised.double() * scales.double()
    largest = weight.double().abs().amax(1, keepdim=True)
    # 3 bits of mantissa: half a step is a 16th of the number; below 2**-6 of the scale steps are 2**-9.
    bound = torch.maximum(weight.double().abs() / 16, largest / 448 * 2**-10) * 1.0001
    assert torch.all((back - weight.double()).abs() <= bound)
    assert torch.equal(back[5], torch.zeros(64, dtype=torch.double))
