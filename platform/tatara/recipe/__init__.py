"""A recipe is a DAG of stages; run what is missing."""

from tatara.recipe.definition import Recipe, RecipeStage, load_recipe, order
from tatara.recipe.execution import run_recipe
from tatara.recipe.planning import PlannedStage, plan_recipe
from tatara.recipe.stages import STAGES, find_stage

__all__ = [
    "STAGES",
    "PlannedStage",
    "Recipe",
    "RecipeStage",
    "find_stage",
    "load_recipe",
    "order",
    "plan_recipe",
    "run_recipe",
]
