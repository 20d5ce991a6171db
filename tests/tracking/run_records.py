"""Run records for the report's tests, with the shapes that real stages report."""

import itertools
import math
from typing import Any

from tatara.tracking import Lineage, LineageEdge, LineageNode, RunRecord, StageRecord
from tracking import rl_records, training_records

START = 1_760_000_000.0
HOSTILE = '<script>window.pwned=1</script></pre></style><img src=x onerror="window.pwned=1">\'"&\x00\ud800\u202e'


def loss_rows(steps: int) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, steps + 1):
        row = {
            "step": step,
            "time": START + step,
            "train.loss": 3 + 6 * math.exp(-step / 70),
            "train.learning_rate": 3e-3 / step,
            "train.tokens_per_second": 14_000 + step % 7,
            "train.gradient_norm": 1 + 1 / step,
        }
        if step % 50 == 0:
            row["train.validation_loss"] = 3.1 + 6 * math.exp(-step / 70)
        rows.append(row)
    return rows


def curation(text: str) -> dict[str, Any]:
    """What curation reports beside its funnel."""
    example = {
        "cluster": text,
        "copies": 3,
        "kept": {"id": text, "excerpt": f"one two {text}"},
        "removed": [{"id": text, "similarity": 0.91, "reason": text, "excerpt": f"one three {text}"}],
    }
    match = {"benchmark": text, "item": text, "document": text, "overlap": 0.75, "start": 17, "excerpt": f"a {text}"}
    return {
        "histograms": [
            {"title": text, "unit": text, "bars": [{"label": f"label of {text}", "value": 7}]},
            {"title": text, "bars": [{"label": f"{2**i}", "value": i**4} for i in range(20)], "log": True},
            {"title": text, "bars": [{"label": name, "value": 12_345} for name in ("en", "ja")]},
        ],
        "duplicate_clusters": {
            "sizes": [{"label": "2", "value": 40}, {"label": "3+", "value": 2}],
            "examples": [example],
        },
        "curve": {
            "title": text,
            "x": "similarity",
            "y": "share missed",
            "series": [{"name": text, "points": [[i / 10, 1 - i / 11] for i in range(11)]} for _ in range(3)],
            "marks": [{"x": 0.8, "label": text}],
        },
        "contamination": {
            "table": {"title": text, "columns": ["benchmark", "items"], "rows": [[text, 1319]]},
            "examples": [{**match, "item_excerpt": f"b {text}"}],
        },
    }


def curate(text: str = "An honest document.") -> StageRecord:
    return StageRecord(
        name="curate",
        kind="documents",
        status="skipped",
        artifact="documents/quickstart@1",
        fingerprint="9f86d081884c7d659a2f",
        config={"minhash": {"threshold": 0.8}, "note": text},
        reports={
            "funnel": {
                "stages": [
                    {"name": "read", "documents": 1000, "bytes": 4_000_000},
                    {"name": "dedup", "documents": 400, "bytes": 1_000_000},
                ],
                "dropped": [{"reason": "exact duplicate", "documents": 600, "bytes": 3_000_000}],
            },
            "document_samples": [{"id": "a", "source": text, "language": "en", "excerpt": text}] * 9,
            "dropped_samples": [{"reason": text, "id": text, "value": 0.93, "excerpt": text}],
            **curation(text),
        },
    )


def full_run(text: str = "An honest document.", steps: int = 600) -> RunRecord:
    """A run of six stages in which every report key is used; ``text`` stands wherever a user's text can."""
    tokenize = StageRecord(
        name="tokenize",
        kind="tokens",
        status="done",
        seconds=20.0,
        started=START,
        artifact="tokens/quickstart@1",
        fingerprint="2c26b46b68ffc68ff99b",
        reports={"table": {"title": text, "columns": ["token", "count"], "rows": [[text, 3], ["b", 2]]}},
        inputs=["documents/quickstart@1"],
        log_tail=text,
    )
    pretrain = StageRecord(
        name="pretrain",
        kind="checkpoint",
        status="done",
        seconds=240.0,
        started=START + 20,
        artifact="checkpoint/quickstart@1",
        fingerprint="fcde2b2edba56bf40860",
        config={"layout": {"tp": 2}},
        metrics={"parameters": 2_101_248, "validation_loss": 3.0187},
        reports=training_records.reports(text),
        series=loss_rows(steps) + training_records.series(steps),
        inputs=["tokens/quickstart@1"],
    )
    grpo = StageRecord(
        name="grpo",
        kind="checkpoint",
        status="done",
        seconds=0.5,
        started=START + 259.5,
        artifact="checkpoint/grpo@1",
        reports=rl_records.reports(text),
        series=rl_records.series(min(steps, 40)),
        inputs=["checkpoint/quickstart@1"],
    )
    export = StageRecord(
        name="export",
        kind="model",
        status="done",
        seconds=9.0,
        started=START + 260,
        artifact="model/quickstart@1",
        fingerprint="81b637d8fcd2c6da6359",
        reports={"proof": {"tensors": 39, "max_abs_logit_difference": 3.4e-6, "passed": True, "note": text}},
        inputs=["checkpoint/quickstart@1"],
    )
    serve = StageRecord(
        name="serve",
        kind="endpoint",
        status="done",
        seconds=41.0,
        started=START + 269,
        artifact="endpoint/quickstart@1",
        reports={"generations": [{"prompt": f"P {text}", "completion": f"C {text}", "finish_reason": "stop"}]},
        inputs=["model/quickstart@1"],
    )
    return RunRecord(
        recipe="quickstart",
        run_id="20260101-7f3a",
        started=START,
        finished=START + 310,
        status="done",
        address="http://127.0.0.1:8000/v1",
        stages=[curate(text), tokenize, pretrain, grpo, export, serve],
        environment={"python": "3.11.7", "packages": {"torch": "2.13.0"}, "cpu": text, "memory_bytes": 2**34},
        command=f"tatara run quickstart.yaml --note {text}",
    )


def chain(*names: str) -> Lineage:
    return Lineage(
        tuple(LineageNode(name, name, "artifact") for name in names),
        tuple(LineageEdge(a, b) for a, b in itertools.pairwise(names)),
    )
