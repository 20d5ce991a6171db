"""Metrics (JSONL always, Weights & Biases where it is installed), the run report, and what a run ran on."""

from tatara.tracking.machine import environment
from tatara.tracking.metrics import MetricLog, read_metrics
from tatara.tracking.record import Lineage, LineageEdge, LineageNode, RunRecord, StageRecord
from tatara.tracking.report import render_report, write_report

__all__ = [
    "Lineage",
    "LineageEdge",
    "LineageNode",
    "MetricLog",
    "RunRecord",
    "StageRecord",
    "environment",
    "read_metrics",
    "render_report",
    "write_report",
]
