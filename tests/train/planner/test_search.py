"""The search: what it tries is valid, what it ranks fits, and what it refuses it explains."""

from collections import Counter

import pytest

from tatara.errors import ConfigError, LayoutError
from tatara.model.presets import preset
from tatara.train.planner.estimate import Workload
from tatara.train.planner.hardware import find_hardware
from tatara.train.planner.request import make_plan, read_batch, read_model, why_slower, workload
from tatara.train.planner.search import Fixed, choices, rank, uneven_ends

H100 = find_hardware("h100")


@pytest.mark.parametrize(("name", "devices"), [("llama3-8b", 16), ("llama3-405b", 2048), ("qwen3-30b-a3b", 32)])
def test_every_layout_passes_the_engines_own_checks_and_fits(name: str, devices: int) -> None:
    spec = preset(name)
    work = Workload(spec, 4096, 1024, H100)
    found = rank(work, devices)
    assert found.best
    assert found.tried == len(found.best) + found.too_large
    for item in found.best:
        layout = item.choice.layout
        assert layout.resolve(devices) == layout
        layout.check_model(spec)
        assert layout.check_batch(4096, 1024, item.choice.micro_batch_size) == item.micro_batches
        assert item.memory.total <= H100.memory
    assert [item.step_seconds for item in found.best] == sorted(item.step_seconds for item in found.best)


def test_what_is_fixed_stays_fixed() -> None:
    work = Workload(preset("llama3-8b"), 4096, 1024, H100)
    fixed = Fixed(tp=2, pp=4, virtual_stages=2, micro_batch_size=2, recompute="full")
    found = list(choices(work, 64, fixed, Counter()))
    assert {choice.layout.cp for choice, _ in found} == {1, 2, 4}
    for choice, _ in found:
        assert (choice.layout.tp, choice.layout.pp, choice.layout.virtual_stages) == (2, 4, 2)
        assert (choice.micro_batch_size, choice.recompute) == (2, "full")


def test_stages_that_do_not_divide_are_shortened_at_the_ends() -> None:
    assert uneven_ends(126, 16) == {"first_stage_layers": 7, "last_stage_layers": 7}
    assert uneven_ends(31, 4) == {"last_stage_layers": 7}
    assert uneven_ends(32, 4) == {}
    assert uneven_ends(33, 4) == {}


def test_batches_are_whole_sequences() -> None:
    assert read_batch("16M", 8192) * 8192 == 16 * 2**20
    assert read_batch("1M", 1000) == 1000
    assert read_batch(65536, 4096) == 16
    with pytest.raises(ConfigError, match=r"1,000,000 tokens .* 4,095: 999,180 or 1,003,275"):
        read_batch("1M", 4095)


def test_models_are_a_preset_or_a_size() -> None:
    assert read_model("llama3-8b", None) == preset("llama3-8b")
    assert read_model(None, "50M").parameter_count() == pytest.approx(50e6, rel=0.05)
    with pytest.raises(ConfigError, match="did you mean llama3-8b"):
        read_model("llama3-8", None)
    for both in ((None, None), ("llama3-8b", "8B")):
        with pytest.raises(ConfigError, match="--model llama3-8b, or --params"):
            read_model(*both)


def test_unknown_hardware_and_precision() -> None:
    with pytest.raises(ConfigError, match="unknown hardware 'h10'; did you mean 'h100'"):
        find_hardware("h10")
    with pytest.raises(ConfigError, match="a100 has no FP8"):
        workload(preset("llama3-8b"), find_hardware("A100"), 8192, "1M", "fp8")


def test_a_model_that_is_too_large_says_how_many_devices_it_needs() -> None:
    work = Workload(preset("llama3-405b"), 8192, 128, H100)
    with pytest.raises(LayoutError, match=r"needs [\d.,]+ GiB of 80\.0 GiB per GPU; \d+ GPUs would do") as refused:
        make_plan(work, 8, Fixed())
    enough = int(str(refused.value).split("; ")[1].split()[0])
    assert make_plan(work, enough, Fixed()).best


def test_a_batch_or_a_number_of_devices_that_nothing_divides() -> None:
    work = Workload(preset("llama3-8b"), 8192, 128, H100)
    with pytest.raises(LayoutError, match="the nearest batch that fits data parallelism has 1,032,192 tokens"):
        make_plan(work, 7, Fixed())
    with pytest.raises(LayoutError, match=r"layout\.dp=3 .* 6 GPUs do"):
        make_plan(Workload(preset("llama3-8b"), 8192, 96, H100), 8, Fixed(dp=3, tp=2))


def test_llama_3s_own_layout_of_one_layer_chunks_is_found() -> None:
    work = Workload(preset("llama3-405b"), 8192, 2048, H100)
    chosen = Fixed(tp=8, pp=16, cp=1, dp=128, virtual_stages=8, micro_batch_size=1, recompute="none")
    found = make_plan(work, 16384, chosen)
    # Megatron keeps whole float32 gradients, which Llama 3 shards.
    assert found.warning.startswith("it does not fit: ")
    assert (found.best[0].choice.layout.first_stage_layers, found.best[0].choice.layout.last_stage_layers) == (7, 7)
    assert found.best[0].mfu == pytest.approx(0.41, abs=0.03)


def test_why_another_layout_is_slower() -> None:
    work = Workload(preset("llama3-70b"), 8192, 64, H100)
    one = make_plan(work, 64, Fixed(tp=8, pp=8, cp=1, virtual_stages=10, micro_batch_size=1, recompute="none")).best[0]
    two = make_plan(work, 64, Fixed(tp=8, pp=8, cp=1, virtual_stages=1, micro_batch_size=1, recompute="none")).best[0]
    assert why_slower(one, two).endswith("(bubble)")
    assert why_slower(one, one) == "as fast"
