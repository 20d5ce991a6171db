"""A stage: one kind of job that turns artifacts into an artifact, and what it takes to run one."""

from tatara.stage.description import Job, SourceFile, Stage, StageRun
from tatara.stage.planning import Plan, plan
from tatara.stage.running import METRICS, RECORD, execute, open_inputs, standalone, work_path

__all__ = [
    "METRICS",
    "RECORD",
    "Job",
    "Plan",
    "SourceFile",
    "Stage",
    "StageRun",
    "execute",
    "open_inputs",
    "plan",
    "standalone",
    "work_path",
]
