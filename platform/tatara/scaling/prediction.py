"""All laws of a table of runs, and what they say of a larger budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tatara.errors import DataError
from tatara.scaling.isoflop import IsoFlop, fit_isoflop
from tatara.scaling.laws import LEVEL, Estimated
from tatara.scaling.parametric import Parametric, fit_parametric
from tatara.scaling.table import PER_PARAMETER, Run


@dataclass(frozen=True)
class Analysis:
    """What a table of runs gives.

    Attributes:
        runs: The table.
        tokens: IsoFLOP curves over tokens.
        parameters: The same over parameters.
        parametric: The parametric law; None where the runs are too few.
        warnings: What was left out and why.
    """

    runs: tuple[Run, ...]
    tokens: IsoFlop
    parameters: IsoFlop
    parametric: Parametric | None
    warnings: tuple[str, ...]


def analyse(runs: Sequence[Run], *, draws: int = 1000, bootstrap: int = 200, seed: int = 0) -> Analysis:
    """Fit whatever the runs allow; what they do not allow becomes a warning."""
    tokens = fit_isoflop(runs, "tokens", draws=draws, seed=seed)
    parameters = fit_isoflop(runs, "parameters", draws=draws, seed=seed)
    warnings = [*tokens.warnings, *(line for line in parameters.warnings if line not in tokens.warnings)]
    parametric = None
    try:
        parametric = fit_parametric(runs, bootstrap=bootstrap, seed=seed)
        for name, column in (("alpha", 3), ("beta", 4)):
            if float((parametric.draws[:, column] <= 0).mean()) > (1 - LEVEL) / 2:
                warnings.append(
                    f"the runs hardly determine the parametric law: its {name} may be 0; add runs further apart"
                )
    except DataError as error:
        warnings.append(f"{error}; it is left out")
    return Analysis(tuple(runs), tokens, parameters, parametric, tuple(warnings))


@dataclass(frozen=True)
class Prediction:
    """The best model of a budget by one method."""

    method: str
    compute: float
    parameters: Estimated
    tokens: Estimated
    loss: Estimated | None
    """None where the runs do not tell."""

    def literals(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "method": self.method,
            "compute": self.compute,
            "parameters": self.parameters.literals(),
            "tokens": self.tokens.literals(),
            "loss": self.loss.literals() if self.loss else None,
        }


def allows_predictions(analysis: Analysis) -> bool:
    """Whether the runs say anything of another budget."""
    return bool(analysis.tokens.law or analysis.parameters.law or analysis.parametric)


def predict(analysis: Analysis, compute: float) -> list[Prediction]:
    """The best model of a budget, by every method that the runs allow.

    Raises:
        DataError: They allow none.
    """
    found = []
    law, loss = analysis.tokens.law, analysis.tokens.loss
    if law is not None:
        tokens = law.at(compute)
        # With compute = 6 N D, as Llama 3 (arXiv:2407.21783 section 3.2.1) takes its size from its tokens.
        parameters = Estimated(
            *(compute / (PER_PARAMETER * value) for value in (tokens.value, tokens.high, tokens.low))
        )
        lowest = loss.at(compute) if loss else None
        found.append(Prediction("isoflop over tokens", compute, parameters, tokens, lowest))
    law, loss = analysis.parameters.law, analysis.parameters.loss
    if law is not None:
        parameters = law.at(compute)
        tokens = _other(parameters, compute)
        found.append(
            Prediction("isoflop over parameters", compute, parameters, tokens, loss.at(compute) if loss else None)
        )
    if analysis.parametric is not None:
        size, data, reached = analysis.parametric.best(compute)
        found.append(Prediction("parametric", compute, size, data, reached))
    if not found:
        raise DataError(f"nothing can be said of {compute:.3g} FLOPs: {'; '.join(analysis.warnings)}")
    return found


def _other(one: Estimated, compute: float) -> Estimated:
    """Tokens of parameters, or the reverse."""
    return Estimated(*(compute / (PER_PARAMETER * value) for value in (one.value, one.high, one.low)))


def literals(analysis: Analysis, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Everything that was found, as JSON has it."""
    return {
        "runs": len(analysis.runs),
        "level": LEVEL,
        "isoflop": {
            side.axis: {
                "law": side.law.literals() if side.law else None,
                "loss": side.loss.literals() if side.loss else None,
                "budgets": [
                    {
                        "compute": parabola.budget,
                        "runs": len(parabola.runs),
                        "coefficients": list(parabola.coefficients),
                        "best": parabola.best.literals() if not parabola.problem else None,
                        "loss": parabola.loss.literals() if not parabola.problem else None,
                        "problem": parabola.problem,
                    }
                    for parabola in side.parabolas
                ],
            }
            for side in (analysis.tokens, analysis.parameters)
        },
        "parametric": analysis.parametric.literals() if analysis.parametric else None,
        "predictions": [prediction.literals() for prediction in predictions],
        "warnings": list(analysis.warnings),
    }
