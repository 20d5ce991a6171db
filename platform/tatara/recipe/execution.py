"""Run a recipe: each stage as its own job, one log per stage, a report at the end, whatever the end is."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tatara import artifact, interrupts, storage
from tatara.artifact import Store
from tatara.errors import RecipeError, TataraError
from tatara.progress import duration, parse_event
from tatara.recipe.definition import Recipe
from tatara.recipe.display import Display
from tatara.recipe.launch import Launcher, LocalLauncher
from tatara.recipe.planning import PlannedStage, plan_recipe, select
from tatara.recipe.record import StageOutcome, write_record

_TAIL_LINES = 60


@dataclass
class Run:
    """One run of a recipe.

    Attributes:
        directory: Where its logs, its record and its report lie.
        started: Seconds since the epoch.
        outcomes: What became of each stage, by key.
    """

    recipe: Recipe
    directory: Path
    started: float
    outcomes: dict[str, StageOutcome] = field(default_factory=dict)
    status: str = "running"

    @property
    def report(self) -> Path:
        """The run report."""
        return self.directory / "report.html"


def run_recipe(
    recipe: Recipe,
    *,
    only: str | None = None,
    start: str | None = None,
    launcher: Launcher | None = None,
    say: Callable[[str], None] = print,
) -> Run | None:
    """Run what is missing of a recipe.

    Args:
        recipe: The recipe.
        only: Run this stage alone.
        start: Run this stage and all that depends on it.
        launcher: How stages are run; by default as processes on this machine.
        say: Takes the lines that a user reads.

    Returns:
        The run, or None when there was nothing to do.

    Raises:
        RecipeError: A stage failed; the message names it, its error and its log.
        Interrupted: A signal arrived; the stage that ran was stopped and has committed nothing.
    """
    launcher = launcher or LocalLauncher()
    runs = runs_directory(recipe)
    try:
        with storage.exclusive_lock(runs / "lock"):
            planned = plan_recipe(recipe)
            selected = select(recipe, planned, only, start)
            pending = [item for item in selected if item.plan.existing is None]
            if not pending:
                say(f"nothing to do: {len(selected)} of {len(selected)} stages of '{recipe.name}' are up to date")
                if last := latest_report(recipe):
                    say(f"report of the last run: {last}")
                return None
            run = Run(recipe, _new_run_directory(runs), time.time())
            display = Display([item.item.key for item in planned], say)
            with interrupts.raised():
                _run_stages(run, planned, {item.item.key for item in selected}, launcher, display)
            return run
    except storage.LockHeldError as error:
        raise RecipeError(
            f"recipe '{recipe.name}' is being run by {error}: wait for it, or choose another --name"
        ) from None


def _run_stages(
    run: Run, planned: list[PlannedStage], selected: set[str], launcher: Launcher, display: Display
) -> None:
    current = ""
    try:
        for item in planned:
            key = item.item.key
            if item.plan.existing is not None:
                run.outcomes[key] = StageOutcome("skipped", item.plan.existing)
                if key in selected:
                    display.line(f"{key}: up to date ({item.reference})")
                continue
            if key not in selected:
                continue
            current = key
            display.line(f"{key}: {item.reason}; writing {item.reference}")
            _run_stage(run, item, launcher, display)
            current = ""
        run.status = "done"
    except KeyboardInterrupt:
        run.status = "interrupted"
        raise
    except BaseException:
        run.status = "failed"
        raise
    finally:
        if current and run.outcomes[current].status == "running":
            run.outcomes[current] = run.outcomes[current].ended(run.status, tail(run, current))
        with interrupts.ignored():
            display.close()
            total = duration(time.time() - run.started)
            try:
                write_record(run.directory, run.recipe, planned, run.outcomes, run.status, run.started)
                display.line(f"{run.recipe.name}: {run.status} after {total}; report: {run.report}")
            except (TataraError, OSError) as error:
                # What went wrong before is what the user must read; the report comes second.
                display.line(f"{run.recipe.name}: {run.status} after {total}; no report: {error}")


def _run_stage(run: Run, item: PlannedStage, launcher: Launcher, display: Display) -> None:
    key = item.item.key
    log = StageLog(run.directory / "logs" / f"{key}.log", display.line)
    run.outcomes[key] = StageOutcome("running", None, started=time.time())
    display.start(key)
    running = launcher.start(item.job, run.directory / "jobs" / f"{key}.yaml")
    error = ""
    try:
        with log:
            for line in running.lines():
                event = parse_event(line)
                if event is not None:
                    display.progress(key, event.get("progress", {}))
                    continue
                log.write(line)
                if line.startswith("error: "):
                    error = line.removeprefix("error: ")
                elif line.startswith("["):
                    display.stage_line(item.item.stage.name, line)
        code = running.wait()
    except BaseException:
        display.line(f"{key}: stopping")
        with interrupts.ignored():
            running.stop()
        raise
    made = _find(item)
    if code == 0 and made is not None:
        run.outcomes[key] = run.outcomes[key].ended("done", tail(run, key), made)
        display.finish(key, f"done in {duration(run.outcomes[key].seconds or 0)}: {made.reference}")
        return
    run.outcomes[key] = run.outcomes[key].ended("failed", tail(run, key))
    why = error or (f"exit status {code}" if code else "it ended well but committed nothing")
    raise RecipeError(f"stage {key} failed: {why} (log: {log.path})")


class StageLog:
    """A stage's log; a disk that is full costs the log, not the run."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self._say = say
        self._file: TextIO | None = None

    def __enter__(self) -> "StageLog":
        with self._forgiven():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        return self

    def write(self, line: str) -> None:
        """Append a line at once."""
        if self._file is not None:
            with self._forgiven():
                self._file.write(line + "\n")
                self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with self._forgiven():
                self._file.close()

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._file = None
            self._say(f"  the log {self.path} is cut short: {error.strerror}")


def _find(item: PlannedStage) -> artifact.Artifact | None:
    return Store(item.job.root).find(item.item.stage.kind, item.item.name, item.plan.fingerprint)


def tail(run: Run, key: str) -> str:
    """The last lines of a stage's log."""
    log = run.directory / "logs" / f"{key}.log"
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])


def runs_directory(recipe: Recipe) -> Path:
    """Where a recipe's runs lie: below a local root, else below ``.tatara`` here."""
    base = Path(storage.absolute(recipe.root)) if storage.is_local(recipe.root) else Path(".tatara").absolute()
    return base / "runs" / recipe.name


def latest_report(recipe: Recipe) -> Path | None:
    """The newest run's report, if there is one."""
    reports = sorted(runs_directory(recipe).glob("*/report.html"))
    return reports[-1] if reports else None


def _new_run_directory(runs: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    for number in range(1000):
        directory = runs / (f"{stamp}-{number}" if number else stamp)
        with contextlib.suppress(FileExistsError):
            with storage.errors_named(str(directory), "make the directory"):
                directory.mkdir(parents=True)
            return directory
    raise RecipeError(f"cannot make a new directory below {runs}")
