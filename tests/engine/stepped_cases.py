"""Run in a process of its own, which has the environment of an engine: each function is a test of `SteppedEngine`."""

import contextlib
import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tatara.engine.config import EngineConfig
from tatara.engine.stepped import SteppedEngine
from tatara.errors import EngineError

TOLERANCE = 1e-4
CAPACITY = 4
LONG = [(7 * place) % 1500 + 1 for place in range(200)]
"""A prompt longer than a block of the prefix cache, which has 128 tokens."""


@dataclass(frozen=True)
class Draw:
    max_tokens: int = 12
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()


@functools.cache
def engine(model: str) -> SteppedEngine:
    config = EngineConfig(max_num_seqs=CAPACITY, kv_cache_bytes=32 << 20)
    return SteppedEngine.start(Path(model), config, cuda=False)


@functools.cache
def reference(model: str, seed: int) -> Any:
    """The model, or (from seed 1) one of the same shape with other weights, in Hugging Face's implementation."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in loaded.parameters():
        if seed:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return loaded


def logprobs(loaded: Any, sequence: list[int], temperature: float = 1.0) -> list[float]:
    """Of every token but the first."""
    import torch

    with torch.no_grad():
        scores = (loaded(torch.tensor([sequence])).logits[0, :-1] / temperature).log_softmax(-1)
    return scores.gather(-1, torch.tensor(sequence[1:])[:, None])[:, 0].tolist()


def weights(loaded: Any) -> list[tuple[str, Any]]:
    """What a checkpoint of it holds."""
    names = set(loaded.state_dict()) - set(getattr(loaded, "_tied_weights_keys", None) or ())
    if not loaded.config.tie_word_embeddings:
        names = set(loaded.state_dict())
    return [(name, tensor) for name, tensor in loaded.state_dict().items() if name in names]


def finish(stepped: SteppedEngine) -> dict[str, Any]:
    found = {}
    while stepped.running:
        found |= {each.request_id: each for each in stepped.step()}
    return found


def largest_difference(one: Any, other: Any) -> float:
    return max((abs(left - right) for left, right in zip(one, other, strict=True)), default=0.0)


def set_version(stepped: SteppedEngine, model: str, seed: int, version: int, **options: Any) -> None:
    stepped.update_weights(weights(reference(model, seed)), version, **options)


@contextlib.contextmanager
def version_zero(model: str) -> Iterator[SteppedEngine]:
    """The engine with the weights of the directory, idle."""
    stepped = engine(model)
    assert stepped.running == 0
    if stepped.version != 0:
        set_version(stepped, model, 0, 0)
    yield stepped


def sampled_tokens_carry_the_logprobs_of_hugging_face(model: str) -> None:
    draws = [Draw(), Draw(temperature=0.6), Draw(max_tokens=60), Draw(temperature=1.7), Draw(temperature=0.0)]
    with version_zero(model) as stepped:
        # More than run together, and some join while others run.
        for number in range(10):
            stepped.submit(str(number), LONG[: 3 + 19 * number], draws[number % 5])
        assert stepped.step() == []
        for number in range(10, 20):
            stepped.submit(str(number), LONG[: 3 + number], draws[number % 5])
        assert stepped.running == 20
        found = finish(stepped)
    assert found.keys() == {str(number) for number in range(20)}
    for number in range(20):
        prompt = LONG[: 3 + 19 * number] if number < 10 else LONG[: 3 + number]
        got, draw = found[str(number)], draws[number % 5]
        assert len(got.token_ids) == draw.max_tokens
        assert (got.finish, got.first_version, got.last_version) == ("length", 0, 0)
        if draw.temperature:
            expected = logprobs(reference(model, 0), [*prompt, *got.token_ids], draw.temperature)[len(prompt) - 1 :]
            assert largest_difference(got.logprobs, expected) < TOLERANCE


def stop_tokens_are_exactly_those_asked_for_and_part_of_the_answer(model: str) -> None:
    with version_zero(model) as stepped:
        stepped.submit("free", [5, 6, 7], Draw(max_tokens=20, temperature=0.0))
        greedy = finish(stepped)["free"].token_ids
        stop = greedy[4]
        stepped.submit("stopped", [5, 6, 7], Draw(max_tokens=20, temperature=0.0, stop_token_ids=(stop,)))
        stopped = finish(stepped)["stopped"]
        assert stopped.finish == "stop"
        assert stopped.token_ids == greedy[: greedy.index(stop) + 1]
        assert len(stopped.logprobs) == len(stopped.token_ids)
        # The model's own end token is 0: forced by the sampling, it does not end what does not ask for it.
        stepped.submit("room", [9] * 495, Draw(max_tokens=10**6))
        assert len(finish(stepped)["room"].token_ids) == stepped.max_model_len - 495 == 17


def a_seed_repeats_a_continuation(model: str) -> None:
    with version_zero(model) as stepped:
        for name, seed in (("a", 5), ("b", 5), ("c", 6), ("d", None), ("e", None)):
            stepped.submit(name, LONG[:9], Draw(), seed)
        found = {name: each.token_ids for name, each in finish(stepped).items()}
    assert found["a"] == found["b"]
    assert len(set(found.values())) == 4


def after_every_update_probes_and_answers_are_those_of_the_new_weights(model: str) -> None:
    probes = [LONG[:30], [3], LONG, LONG[5:150]]
    with version_zero(model) as stepped:
        for version in (1, 2, 3):
            # Fills the prefix cache with the older weights' keys and values.
            stepped.submit("before", LONG, Draw())
            finish(stepped)
            set_version(stepped, model, version, version)
            loaded = reference(model, version)
            for probe, found in zip(probes, stepped.logprobs(probes), strict=True):
                assert largest_difference(found, logprobs(loaded, probe)) < TOLERANCE
            # The same prompt again: longer than a cached block, and no longer to be found there.
            stepped.submit("after", LONG, Draw())
            after = finish(stepped)["after"]
            assert largest_difference(after.logprobs, logprobs(loaded, [*LONG, *after.token_ids])[199:]) < TOLERANCE
            assert (after.first_version, after.last_version) == (version, version)
            # Two versions are that far apart: a mistake would show.
            older = logprobs(reference(model, version - 1), [*LONG, *after.token_ids])[199:]
            assert largest_difference(after.logprobs, older) > 100 * TOLERANCE


def requests_in_flight_go_on_from_their_cache_or_are_computed_again(model: str) -> None:
    """The same tokens, forced by greedy sampling of equal weights, tell what the cache held."""
    old, new = reference(model, 0), reference(model, 4)
    for in_flight in ("continue", "recompute"):
        with version_zero(model) as stepped:
            for number in range(CAPACITY + 2):
                stepped.submit(str(number), LONG[number:], Draw(max_tokens=20))
            for _ in range(12):
                assert stepped.step() == []
            set_version(stepped, model, 4, 4, in_flight=in_flight)
            assert stepped.running == CAPACITY + 2
            # A probe while they run neither waits for them nor disturbs them.
            assert largest_difference(stepped.logprobs([LONG])[0], logprobs(new, LONG)) < TOLERANCE
            assert stepped.running == CAPACITY + 2
            found = finish(stepped)
        kept = 0
        for number in range(CAPACITY + 2):
            got, prompt = found[str(number)], LONG[number:]
            sequence = [*prompt, *got.token_ids]
            with_new = logprobs(new, sequence)[len(prompt) - 1 :]
            assert len(got.token_ids) == 20
            assert got.last_version == 4
            if got.first_version == 4:
                assert largest_difference(got.logprobs, with_new) < TOLERANCE
                continue
            kept += 1
            with_old = logprobs(old, sequence)[len(prompt) - 1 :]
            before = sum(abs(a - b) < TOLERANCE for a, b in zip(got.logprobs, with_old, strict=True))
            assert 10 <= before < 20
            error = largest_difference(got.logprobs[12:], with_new[12:])
            assert error < TOLERANCE if in_flight == "recompute" else error > 100 * TOLERANCE
        assert kept >= CAPACITY


def what_ends_while_a_probe_is_computed_is_counted_until_it_is_returned(model: str) -> None:
    with version_zero(model) as stepped:
        stepped.submit("a", LONG[:9], Draw(max_tokens=2))
        assert stepped.step() == []
        # The probe's own steps end the request; whoever steps while something runs must still hear of it.
        stepped.logprobs([LONG[:30], LONG[5:50]])
        assert stepped.running == 1
        (ended,) = stepped.step()
        assert (ended.request_id, len(ended.token_ids), stepped.running) == ("a", 2, 0)


def an_aborted_request_leaves_the_others_alone(model: str) -> None:
    with version_zero(model) as stepped:
        stepped.submit("gone", LONG[:9], Draw())
        stepped.submit("stays", LONG[:9], Draw())
        stepped.step()
        stepped.abort("gone")
        stepped.abort("unknown")
        stepped.submit("gone", LONG[:5], Draw(max_tokens=3))
        found = finish(stepped)
    assert found.keys() == {"gone", "stays"}
    assert len(found["gone"].token_ids) == 3


def a_sleep_loses_nothing(model: str) -> None:
    with version_zero(model) as stepped:
        stepped.submit("a", LONG, Draw(max_tokens=20))
        for _ in range(5):
            stepped.step()
        stepped.sleep()
        stepped.wake()
        got = finish(stepped)["a"]
    expected = logprobs(reference(model, 0), [*LONG, *got.token_ids])[199:]
    assert largest_difference(got.logprobs, expected) < TOLERANCE


def what_cannot_be_run_is_refused_with_its_name(model: str) -> None:
    with version_zero(model) as stepped:
        context = stepped.max_model_len
        for name, prompt, draw, message in (
            ("long", [1] * context, Draw(), f"request long has a prompt of {context} tokens: it must have 1 to"),
            ("empty", [], Draw(), "request empty has a prompt of 0 tokens"),
            ("strange", [10**9], Draw(), "request strange has token 1000000000: the vocabulary has 2048"),
            ("cold", [1], Draw(temperature=-1.0), "vLLM refuses request cold: .*temperature"),
            ("none", [1], Draw(max_tokens=0), "vLLM refuses request none: .*max_tokens"),
        ):
            with pytest.raises(EngineError, match=message):
                stepped.submit(name, prompt, draw)
        stepped.submit("twice", [1], Draw())
        with pytest.raises(EngineError, match="already has a request twice"):
            stepped.submit("twice", [1], Draw())
        with pytest.raises(EngineError, match="a probe of"):
            stepped.logprobs([[1] * context])
        assert finish(stepped).keys() == {"twice"}
    for arguments, message in (
        ({"max_length": 3}, "vllm_args.max_length: vLLM has no such argument"),
        ({"logprobs_mode": "raw_logprobs"}, "logprobs_mode: a rollout engine needs processed_logprobs"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size"),
    ):
        with pytest.raises(EngineError, match=message):
            SteppedEngine.start(Path(model), EngineConfig(vllm_args=arguments), cuda=False)


def an_engine_in_eight_bits_quantises_what_it_is_sent(model: str) -> None:
    """After an update it is the engine that starts from a checkpoint of the same weights in eight bits."""
    probes = [LONG[:40], LONG[3:200]]
    config = EngineConfig(max_num_seqs=2, kv_cache_bytes=8 << 20)
    with tempfile.TemporaryDirectory() as directory:
        first, second = (write_eight_bits(model, seed, Path(directory, str(seed))) for seed in (0, 5))
        updated = SteppedEngine.start(first, config, cuda=False)
        before = updated.logprobs(probes)
        updated.update_weights(weights(reference(model, 5)), 1)
        started = SteppedEngine.start(second, config, cuda=False)
    for found, expected, older in zip(updated.logprobs(probes), started.logprobs(probes), before, strict=True):
        assert largest_difference(found, expected) < 1e-6
        assert largest_difference(found, older) > 0.1


def write_eight_bits(model: str, seed: int, directory: Path) -> Path:
    """A checkpoint as compressed-tensors writes them: a scale for each row of a matrix and each token."""
    import torch
    from safetensors.torch import save_file

    shutil.copytree(model, directory)
    bits = {"num_bits": 8, "type": "float", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": bits | {"strategy": "channel", "dynamic": False},
        "input_activations": bits | {"strategy": "token", "dynamic": True},
    }
    quantised = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group}}
    config = json.loads((directory / "config.json").read_text())
    told = config | {"quantization_config": quantised | {"ignore": ["lm_head"]}}
    (directory / "config.json").write_text(json.dumps(told))
    tensors = {}
    for name, tensor in weights(reference(model, seed)):
        tensors[name] = tensor.contiguous()
        if name.endswith("_proj.weight"):
            rows = [row.double() for row in tensor]
            scales = torch.tensor([[float(row.abs().max()) / 448] for row in rows])
            scaled = torch.stack([row.float() / scale for row, scale in zip(rows, scales, strict=True)])
            tensors |= {name: scaled.to(torch.float8_e4m3fn), f"{name}_scale": scales}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def a_prompt_that_fills_the_context_is_named_by_the_worker(model: str) -> None:
    from tatara.rl.protocol import Lease
    from tatara.rl.record import GroupAssignment, Prompt, Sampling
    from tatara.rl.rollout_worker import RolloutTask, RolloutWorker

    with version_zero(model) as stepped:
        worker = RolloutWorker(RolloutTask("w", "buffer", model))
        worker._engine = stepped
        long = Prompt("p7", "sums", (), tuple([1] * stepped.max_model_len))
        lease = Lease((GroupAssignment("train", 0, 3, (0,), long, Sampling(4)),), 0, False)
        with pytest.raises(EngineError, match=r"prompt 'p7' of 'sums' has 512 tokens, the engine's context 512: leave"):
            worker._leased(lease)


def an_update_that_does_not_account_for_every_tensor_ends_the_engine(model: str) -> None:
    good = weights(reference(model, 0))
    name, tensor = good[3]
    damaged = [
        (good[1:], f"lack 1 of {len(good)}, first {good[0][0]}"),
        ([*good, ("more", tensor)], "hold more, which the engine's model does not have"),
        ([*good, good[3]], f"hold {name} twice"),
        ([(name, tensor[:-1]), *good[:3], *good[4:]], f"{name} has shape"),
    ]
    with version_zero(model) as stepped:
        for stream, message in damaged:
            # The copy remembers that it is lost, not what is copied.
            with pytest.raises(EngineError, match=message):
                copy.copy(stepped).update_weights(stream, 1)
        lost = copy.copy(stepped)
        with pytest.raises(EngineError, match="lack"):
            lost.update_weights(good[1:], 7)
        with pytest.raises(EngineError, match="the update to version 7 failed half-way"):
            lost.step()
