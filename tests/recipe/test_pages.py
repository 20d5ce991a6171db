"""The recipes that come with Tatara: they load, their plans give the published figures, their layouts fit."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tatara.model.presets import preset
from tatara.model.spec import ModelSpec
from tatara.recipe.definition import Recipe, RecipeStage, load_recipe
from tatara.rl.grpo import GrpoConfig
from tatara.train.convert.upcycle import UpcycleConfig
from tatara.train.feed.plan import SourceSize, TrainingPlan
from tatara.train.pretrain import PretrainConfig, check_layout, continued, longest_without_rope, spec_at
from tatara.train.schedule import learning_rate

RECIPES = Path(__file__).resolve().parents[2] / "jobs" / "recipes"
PAGES = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*.yaml"))
FULL = ("llama3/405b.yaml", "instella/3b.yaml", "instella/long.yaml", "tanuki/8b.yaml", "tanuki/8x8b.yaml")
CHAT = "instella/math.yaml"
TOYS = ("llama3/toy.yaml", "instella/toy.yaml", "instella/math-toy.yaml", "tanuki/toy.yaml")

T, B, M = 1e12, 1e9, 1e6
# Page and run: published tokens of the run, and of a step in each phase. Sources stand on the pages.
PUBLISHED: Mapping[tuple[str, str], tuple[float, list[float]]] = {
    ("llama3/405b.yaml", "pretrain"): (15.6 * T, [4.2 * M, 8.4 * M, 16.8 * M]),
    ("llama3/405b.yaml", "long-context"): (800 * B, [16.8 * M] * 6),
    ("llama3/405b.yaml", "anneal"): (40 * M, [2.1 * M]),
    ("instella/3b.yaml", "stage1"): (4.07 * T, [4.2 * M]),
    ("instella/3b.yaml", "stage2-5796"): (57.6 * B, [4.2 * M]),
    ("instella/3b.yaml", "stage2-6198"): (57.6 * B, [4.2 * M]),
    ("instella/3b.yaml", "stage2-8915"): (57.6 * B, [4.2 * M]),
    # "20B", in 5,000 steps of 64 x 65,536 and 2,500 of 32 x 262,144.
    ("instella/long.yaml", "to64k"): (5000 * 64 * 65536, [4.2 * M]),
    ("instella/long.yaml", "to256k"): (2500 * 32 * 262144, [8.4 * M]),
    ("tanuki/8b.yaml", "web"): (126000 * 3072 * 2048, [6.3 * M]),
    ("tanuki/8b.yaml", "cleaned"): (3200 * 1536 * 2048, [3.15 * M]),
    ("tanuki/8b.yaml", "long"): (7400 * 1536 * 8192, [12.6 * M]),
    ("tanuki/8b.yaml", "synthetic"): ((7400 + 1015) * 1536 * 8192, [12.6 * M] * 2),
    ("tanuki/8b.yaml", "anneal"): (8100 * 1536 * 8192, [12.6 * M]),
    ("tanuki/8x8b.yaml", "sparse"): (125000 * 3072 * 2048, [6.3 * M] * 3),
    ("tanuki/8x8b.yaml", "sparse-4k"): (86.7 * B, [12.6 * M]),
    ("tanuki/8x8b.yaml", "anneal"): (2720 * 3072 * 4096, [12.6 * M]),
}


def page(name: str) -> Recipe:
    return load_recipe(RECIPES / name)


def runs(recipe: Recipe) -> list[RecipeStage]:
    return [item for item in recipe.stages if isinstance(item.config, PretrainConfig)]


def run_of(name: str, key: str) -> PretrainConfig:
    config = next(item.config for item in page(name).stages if item.key == key)
    assert isinstance(config, PretrainConfig)
    return config


def plan_of(recipe: Recipe, item: RecipeStage, bins: int = 10**9) -> TrainingPlan:
    """The plan of a run whose sources have so many sequences, of the length that their name or their stage says."""
    by_key = {other.key: other.config for other in recipe.stages}
    lengths = {name: by_key[key].sequence_length for name, key in item.upstream.items() if name != "checkpoint"}  # type: ignore[attr-defined]
    for name, reference in item.external.items():
        if reference.startswith("tokens/"):
            found = re.search(r"-(\d+)k@\d+$", reference)
            assert found, f"{reference} does not end with its sequence length"
            lengths[name] = 1024 * int(found[1])
    assert isinstance(item.config, PretrainConfig)
    return item.config.plan({name: SourceSize(bins, length) for name, length in lengths.items()})


def spec_after(recipe: Recipe, key: str, vocabulary: int) -> ModelSpec:
    """The architecture of a stage's checkpoint; layouts are checked on the way to it."""
    item = next(other for other in recipe.stages if other.key == key)
    if "checkpoint" in item.upstream:
        before = spec_after(recipe, item.upstream["checkpoint"], vocabulary)
    elif "checkpoint" in item.external:
        assert item.external["checkpoint"] == "checkpoint/tanuki-8b-web@1"
        before = spec_after(page("tanuki/8b.yaml"), "web", vocabulary)
    else:
        before = preset("instella-3b")
    if isinstance(item.config, UpcycleConfig):
        return item.config.sparse(before)
    if isinstance(item.config, GrpoConfig):
        item.config.layout.check_model(before)
        item.config.layout.resolve(item.config.num_workers)
        assert item.config.sequence_length <= before.max_position_embeddings
        for part in (*item.config.stages, item.config.evaluation.sampling):
            assert part.max_response_tokens < item.config.sequence_length
    if not isinstance(item.config, PretrainConfig):
        return before
    plan = plan_of(recipe, item)
    starts_anew = "checkpoint" not in (*item.upstream, *item.external)
    chosen = item.config.model if starts_anew else continued(item.config.model, before)
    spec = chosen.resolve(vocabulary, longest_without_rope(plan))
    check_layout(item.config, spec, plan)
    return spec_at(spec, plan, item.config.steps - 1)


def tokens_by_phase(plan: TrainingPlan) -> list[int]:
    taken = [plan.batches.before(phase.until_step) - plan.batches.before(phase.from_step) for phase in plan.phases]
    return [sequences * phase.sequence_length for sequences, phase in zip(taken, plan.phases, strict=True)]


def test_every_training_recipe_is_tested_here() -> None:
    assert {*FULL, CHAT, *TOYS, "quickstart.yaml", "web.yaml"} == set(PAGES)
    assert {(name, item.key) for name in FULL for item in runs(page(name))} == set(PUBLISHED)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_and_says_what_comes_out(name: str) -> None:
    recipe = page(name)
    assert recipe.description.endswith(".")
    assert recipe.name.startswith(name.split("/")[0].removesuffix(".yaml"))


@pytest.mark.parametrize(("name", "key"), PUBLISHED, ids=lambda value: str(value))
def test_a_run_takes_the_published_tokens(name: str, key: str) -> None:
    recipe = page(name)
    plan = plan_of(recipe, next(item for item in recipe.stages if item.key == key))
    total, steps = PUBLISHED[name, key]
    assert sum(tokens_by_phase(plan)) == pytest.approx(total, rel=0.02)
    sizes = [plan.batches.size(phase.from_step) * phase.sequence_length for phase in plan.phases]
    assert sizes == pytest.approx(steps, rel=0.02)


@pytest.mark.parametrize("name", [*FULL, CHAT, *TOYS])
def test_layouts_fit_the_models_the_batches_and_the_workers(name: str) -> None:
    recipe = page(name)
    last = next(item for item in recipe.stages if item.stage.name == "export").upstream["checkpoint"]
    vocabulary = {"llama3": 128256, "instella": 50280, "tanuki": 65024}[name.split("/")[0]]
    spec = spec_after(recipe, last, 1024 if name in TOYS else vocabulary)
    context, theta, experts = {
        "llama3/405b.yaml": (131072, 500000, 0),
        "instella/3b.yaml": (4096, 10000, 0),
        "instella/long.yaml": (262144, 3691950, 0),
        "instella/math.yaml": (32768, 10000, 0),
        "tanuki/8b.yaml": (8192, 500000, 0),
        "tanuki/8x8b.yaml": (4096, 500000, 8),
        "llama3/toy.yaml": (512, 500000, 0),
        "instella/toy.yaml": (1024, 3691950, 0),
        "instella/math-toy.yaml": (128, 10000, 0),
        "tanuki/toy.yaml": (128, 500000, 8),
    }[name]
    assert (spec.max_position_embeddings, spec.rope_theta) == (context, theta)
    assert (spec.moe.num_experts if spec.moe else 0) == experts


def test_llama3_changes_its_batch_at_the_published_tokens() -> None:
    recipe = page("llama3/405b.yaml")
    first, second, third = tokens_by_phase(plan_of(recipe, runs(recipe)[0]))
    assert first == pytest.approx(252 * M, rel=0.01)
    assert first + second == pytest.approx(2.87 * T, rel=0.001)
    assert first + second + third == pytest.approx(15.6 * T, rel=0.001)


def test_llama3_goes_on_along_its_cosine_and_ends_at_zero() -> None:
    whole, long, last = (run_of("llama3/405b.yaml", key) for key in ("pretrain", "long-context", "anneal"))
    for step in range(0, long.steps, 1000):
        rate = learning_rate(long.schedule, long.optimizer.learning_rate, step, long.steps)
        cosine = learning_rate(whole.schedule, whole.optimizer.learning_rate, whole.steps + step, 2 * whole.steps)
        assert rate == pytest.approx(cosine, rel=0.05)
    end = learning_rate(long.schedule, long.optimizer.learning_rate, long.steps - 1, long.steps)
    rates = [learning_rate(last.schedule, last.optimizer.learning_rate, step, last.steps) for step in range(last.steps)]
    assert end == pytest.approx(last.optimizer.learning_rate, rel=0.01)
    assert rates[-1] == 0
    assert rates == sorted(rates, reverse=True)
    assert last.average.every * last.average.last <= last.steps


def test_llama3_has_the_layouts_of_table_4() -> None:
    whole, long = run_of("llama3/405b.yaml", "pretrain"), run_of("llama3/405b.yaml", "long-context")
    sizes = [(c.layout.tp, c.layout.cp, c.layout.pp, c.layout.dp, c.num_workers) for c in (whole, long)]
    assert sizes == [(8, 1, 16, 128, 16384), (8, 16, 16, 8, 16384)]
    assert whole.layout.layers_per_stage(126) == [7, *[8] * 14, 7]


def test_instella_has_three_seeds_that_begin_where_the_first_stage_ends() -> None:
    recipe = page("instella/3b.yaml")
    first, *seconds = (item.config for item in runs(recipe))
    assert isinstance(first, PretrainConfig)
    end = learning_rate(first.schedule, first.optimizer.learning_rate, first.steps - 1, first.steps)
    assert sorted(second.seed for second in seconds) == [5796, 6198, 8915]  # type: ignore[attr-defined]
    assert all(second.optimizer.learning_rate == pytest.approx(end) for second in seconds)  # type: ignore[attr-defined]
    average = next(item for item in recipe.stages if item.key == "average")
    assert set(average.upstream.values()) == {"stage2-5796", "stage2-6198", "stage2-8915"}


def grpo_stages(name: str) -> list[tuple[RecipeStage, GrpoConfig]]:
    return [(item, item.config) for item in page(name).stages if isinstance(item.config, GrpoConfig)]


def test_instella_math_has_the_three_stages_that_were_published() -> None:
    stages = grpo_stages(CHAT)
    told = [
        (c.batches, only.groups_per_batch, only.group_size, only.max_response_tokens, c.num_workers)
        for _, c in stages
        for only in c.stages
    ]
    # Steps, prompts, rollouts, tokens and GPUs.
    assert told == [(1200, 128, 8, 8000, 16), (600, 128, 16, 16000, 32), (740, 128, 16, 16000, 32)]
    for _, config in stages:
        loss = config.algorithm.policy_loss()
        assert (config.optimizer.learning_rate, config.minibatches) == (1e-6, 4)
        assert (config.rollout.colocate, config.staleness) == (True, 0)
        assert (loss.kl_coefficient, loss.kl_estimator, loss.clip_low, loss.clip_high) == (1e-3, "k3", 0.2, 0.2)


@pytest.mark.parametrize("name", [CHAT, "instella/math-toy.yaml"])
def test_each_stage_of_instella_math_learns_from_where_the_one_before_it_ended(name: str) -> None:
    stages = grpo_stages(name)
    assert [item.upstream["checkpoint"] for item, _ in stages] == ["sft2", "grpo1", "grpo2"]
    shape = [(only.group_size, only.max_response_tokens) for _, config in stages for only in config.stages]
    assert len(shape) == 3
    assert shape[0][0] * 2 == shape[1][0] == shape[2][0]
    assert shape[0][1] * 2 == shape[1][1] == shape[2][1]


def test_tanuki_8x8b_sees_the_published_tokens_in_all() -> None:
    dense, sparse = page("tanuki/8b.yaml"), page("tanuki/8x8b.yaml")
    total = sum(tokens_by_phase(plan_of(dense, runs(dense)[0])))
    total += sum(sum(tokens_by_phase(plan_of(sparse, item))) for item in runs(sparse))
    assert total == pytest.approx(1.7 * T, rel=0.02)


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_work_for_two_cores(name: str) -> None:
    recipe = page(name)
    tokens = sum(sum(tokens_by_phase(plan_of(recipe, item))) for item in runs(recipe))
    assert all(item.config.num_workers == 2 for item in runs(recipe))  # type: ignore[attr-defined]
    # Of models with about 300,000 active parameters: a second's work or two, without what surrounds it.
    assert tokens < 1 << 20
