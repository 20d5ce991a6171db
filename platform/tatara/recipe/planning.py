"""What a recipe will do: which stages are up to date, which run, and why."""

from collections.abc import Iterable
from dataclasses import dataclass

from tatara import stage
from tatara.artifact import Store
from tatara.config import nearest
from tatara.errors import RecipeError
from tatara.recipe.definition import Recipe, RecipeStage
from tatara.stage import Job, Plan


@dataclass(frozen=True)
class PlannedStage:
    """A stage and what will be done about it.

    Attributes:
        item: The stage.
        job: What is run; its inputs are the versions that the stages before it have or will write.
        plan: Fingerprint, version, and the artifact if it is there.
    """

    item: RecipeStage
    job: Job
    plan: Plan

    @property
    def reference(self) -> str:
        """The artifact it has or will make."""
        return f"{self.item.stage.kind}/{self.item.name}@{self.plan.version}"

    @property
    def reason(self) -> str:
        """Why it runs, or that it does not."""
        if self.plan.existing:
            return "up to date"
        return self.plan.drift or "not there yet"


def plan_recipe(recipe: Recipe) -> list[PlannedStage]:
    """Decide for every stage whether it has to run.

    Fingerprints follow from configurations and raw inputs alone, so the whole plan is known before anything ran.

    Raises:
        ArtifactError: An external input is missing, or a fixed version holds another content.
        DataError: Raw inputs are missing.
    """
    store = Store(recipe.root)
    planned: dict[str, PlannedStage] = {}
    for item in recipe.stages:
        fingerprints, references = {}, {}
        for name, key in item.upstream.items():
            fingerprints[name] = planned[key].plan.fingerprint
            references[name] = planned[key].reference
        for name, target in item.external.items():
            found = store.resolve(target)
            if found.kind != item.stage.kind_of(name):
                raise RecipeError(
                    f"{recipe.path}: stages.{item.key}.inputs.{name}: {found.reference} is not of kind "
                    f"{item.stage.kind_of(name)}"
                )
            fingerprints[name], references[name] = found.fingerprint, target
        job = Job(item.stage, item.config, item.name, recipe.root, references, item.version)
        planned[item.key] = PlannedStage(item, job, stage.plan(job, fingerprints))
    return list(planned.values())


def select(recipe: Recipe, planned: list[PlannedStage], only: str | None, start: str | None) -> list[PlannedStage]:
    """The stages that ``--only`` or ``--from`` leave, in order.

    Raises:
        RecipeError: The stage is unknown, or something before it has not been made yet.
    """
    if only and start:
        raise RecipeError("--only and --from exclude each other")
    keys = [item.item.key for item in planned]
    wanted = only or start
    if wanted is None:
        return planned
    if wanted not in keys:
        raise RecipeError(f"no stage '{wanted}' in {recipe.path}; {nearest(wanted, keys)}")
    selected = {only} if only else recipe.downstream(wanted)
    _check_upstream(planned, selected)
    return [item for item in planned if item.item.key in selected]


def _check_upstream(planned: list[PlannedStage], selected: Iterable[str]) -> None:
    by_key = {item.item.key: item for item in planned}
    for key in selected:
        for needed in by_key[key].item.upstream.values():
            if needed not in selected and by_key[needed].plan.existing is None:
                raise RecipeError(
                    f"stage {key} needs {by_key[needed].reference} of stage {needed}, which is not there "
                    f"({by_key[needed].reason}): run without --only, or --from {needed}"
                )
