"""Memory per rank: everything is counted once, and activations follow the published count."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.model.presets import preset
from tatara.model.spec import MixtureOfExperts, ModelSpec
from tatara.train.layout import ParallelLayout
from tatara.train.planner.fit import distance, nearest_fit
from tatara.train.planner.hardware import GIB
from tatara.train.planner.memory import activation_bytes, layers_in_flight, per_rank, stage_weights

TOY = ModelSpec(num_layers=8, num_attention_heads=8, num_query_groups=8, hidden_size=128, dtype="bfloat16")
EXPERTS = TOY.model_copy(update={"moe": MixtureOfExperts(shared_expert_ffn_hidden_size=64)})


@settings(max_examples=60, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    ep=st.sampled_from([1, 2, 4]),
    tied=st.booleans(),
    norm=st.sampled_from(["none", "head", "full"]),
    experts=st.booleans(),
)
def test_every_parameter_is_on_the_ranks_of_one_replica(
    tp: int, pp: int, ep: int, tied: bool, norm: str, experts: bool
) -> None:
    """Summed over tensor, pipeline and expert ranks, less what is there on several."""
    base = EXPERTS if experts else TOY
    spec = base.model_copy(update={"tie_word_embeddings": tied, "qk_norm": norm})
    layout = ParallelLayout(tp=tp, pp=pp, ep=ep if experts else 1, sequence_parallel=tp > 1)
    stages = [stage_weights(spec, layout, stage) for stage in range(pp)]
    heads = {"none": 0, "head": 2, "full": spec.num_attention_heads + spec.num_query_groups}[norm] * spec.head_size
    router = spec.hidden_size * spec.moe.num_experts if spec.moe else 0
    repeated = (tp - 1) * (spec.num_layers * (2 * spec.hidden_size + heads + router) + spec.hidden_size)
    twice = spec.vocab_size * spec.hidden_size if tied and pp > 1 else 0
    dense = tp * sum(stage.dense for stage in stages)
    found = dense - repeated - twice + layout.ep * sum(stage.experts for stage in stages)
    assert found == pytest.approx(spec.parameter_count(), rel=1e-12)


def test_states_are_sixteen_bytes_and_sharded_over_replicas() -> None:
    spec = preset("llama3-8b")
    alone = per_rank(spec, ParallelLayout(dp=1), sequence_length=8192)
    shared = per_rank(spec, ParallelLayout(dp=8), sequence_length=8192)
    count = spec.parameter_count()
    assert alone.parameters == pytest.approx(2 * count, rel=1e-3)
    assert alone.gradients == pytest.approx(4 * count, rel=1e-3)
    assert alone.optimizer == pytest.approx(12 * count, rel=1e-3)
    assert shared.optimizer == alone.optimizer / 8
    assert shared.parameters == alone.parameters
    in_float32 = per_rank(spec.model_copy(update={"dtype": "float32"}), ParallelLayout(dp=1), sequence_length=8192)
    assert in_float32.parameters + in_float32.gradients + in_float32.optimizer == pytest.approx(16 * count, rel=1e-3)


def test_activations_are_the_published_count_for_a_plain_feed_forward() -> None:
    """arXiv:2205.05198 section 4.1: 34 sbh bytes per layer without the scores, of which dropout masks (3 sbh) and, in
    the place of our 3 gated widths, the 4h input and the 4h output of the GeLU (16 sbh)."""
    spec = TOY.model_copy(update={"ffn_hidden_size": 512})
    hidden = spec.hidden_size
    found = activation_bytes(spec, ParallelLayout(), 1.0, "none")
    # 34 less masks of 3 and of 16 of the feed-forward, plus 3 x 512 x 2 bytes of the gated one.
    assert found == (34 - 3 - 16) * hidden + 3 * 512 * 2 + hidden
    halved = activation_bytes(spec, ParallelLayout(tp=2, sequence_parallel=True), 1.0, "none")
    assert halved == found / 2
    assert activation_bytes(spec, ParallelLayout(), 1.0, "full") == 2 * hidden


def test_micro_batches_in_flight() -> None:
    plain = ParallelLayout(pp=4)
    assert [layers_in_flight(plain, 2, 16, stage) for stage in range(4)] == [8, 6, 4, 2]
    assert layers_in_flight(plain, 2, 3, 0) == 6
    # arXiv:2205.05198 section 4.2.3: L (1 + (p - 1) / (p m)) layers on the first stage of the interleaved schedule.
    interleaved = ParallelLayout(pp=4, virtual_stages=2)
    assert layers_in_flight(interleaved, 2, 16, 0) == 8 * (1 + 3 / (4 * 2))
    assert layers_in_flight(ParallelLayout(), 8, 16, 0) == 8


def test_the_nearest_fit_changes_as_little_as_possible() -> None:
    spec = preset("llama3-8b")
    layout = ParallelLayout(dp=8)
    found = nearest_fit(spec, layout, 80 * GIB, sequence_length=8192, global_batch_size=64, micro_batch_size=4)
    assert found.needed > 80 * GIB
    assert found.choice is not None
    assert found.bytes <= 80 * GIB
    assert "GiB per rank; " in found.line()
    assert found.changes
    # Nothing nearer fits: half the micro-batch is not enough.
    half = per_rank(spec, layout, sequence_length=8192, micro_batch_size=2, micro_batches=4)
    assert half.total > 80 * GIB
    assert distance(found.choice, found.choice) == 0


def test_the_nearest_fit_says_when_there_is_none() -> None:
    spec = preset("llama3-405b")
    layout = ParallelLayout(tp=8, dp=1, sequence_parallel=True)
    found = nearest_fit(spec, layout, 80 * GIB, sequence_length=8192, global_batch_size=8)
    assert found.choice is None
    assert found.devices is not None
    assert f"{found.devices} ranks would do" in found.line()


def test_the_nearest_fit_works_for_a_run_on_cpus() -> None:
    layout = ParallelLayout(dp=2)
    wanted = {"sequence_length": 1024, "global_batch_size": 64, "on_gpu": False}
    found = nearest_fit(TOY, layout, 0.15 * GIB, micro_batch_size=16, **wanted)
    assert found.needed > 0.15 * GIB
    assert found.choice is not None
    assert found.bytes < 0.15 * GIB
