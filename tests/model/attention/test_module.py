"""The module on gloo ranks, against the loop over documents."""

import itertools

import pytest
import torch

from model.attention import attention_cases, oracle
from model.ranks import run_ranks
from tatara.model.attention import zigzag_positions


def whole(parts, tp, cp):
    """Output and gradients of all ranks together; tensor-parallel ranks are neighbours."""
    joined = []
    for tensors in zip(*parts, strict=True):
        rows = [torch.cat(tensors[rank * tp : (rank + 1) * tp], dim=2) for rank in range(cp)]
        full = torch.zeros(rows[0].shape[0], oracle.LENGTH, *rows[0].shape[2:], dtype=rows[0].dtype)
        for rank, row in enumerate(rows):
            full[:, zigzag_positions(oracle.LENGTH, cp, rank)] = row
        joined.append(full)
    return joined


def check(found, case, tp, cp, tolerance=1e-5):
    tensors = [t.to(case.get("dtype", t.dtype)) for t in oracle.inputs(case["groups"], case.get("heads", 4))]
    wanted = oracle.expected(tensors, oracle.LAYOUTS[case["layout"]], case.get("scale"))
    for each, right in zip(whole(found, tp, cp), wanted, strict=True):
        assert oracle.error(each, right) < tolerance, case


EXCHANGES = ("allgather", "a2a")


@pytest.mark.parametrize(
    ("tp", "cp", "cases"),
    [
        (1, 1, [{"layout": name, "groups": 2} for name in oracle.LAYOUTS]),
        (
            1,
            4,
            [
                {"layout": name, "groups": groups, "exchange": exchange}
                for name, groups, exchange in itertools.product(oracle.LAYOUTS, (1, 2, 4), EXCHANGES)
            ],
        ),
        (
            2,
            2,
            [
                {"layout": name, "groups": groups, "heads": 8, "exchange": exchange}
                for name, groups, exchange in itertools.product(oracle.LAYOUTS, (2, 4), EXCHANGES)
            ],
        ),
    ],
)
def test_every_layout_computes_what_the_loop_does(tp, cp, cases):
    found = run_ranks(tp * cp, attention_cases.attend, cases, tp, cp)
    for index, case in enumerate(cases):
        check([of_rank[index] for of_rank in found], case, tp, cp)


def test_two_ranks_recompute_scale_and_repeat_in_either_exchange():
    plain, again, recomputed, scaled, rounded = [], [], [], [], []
    for exchange in EXCHANGES:
        case = {"layout": "crossing", "groups": 2, "exchange": exchange}
        plain.append(case)
        again.append(case)
        recomputed.append(case | {"recompute": True})
        scaled.append(case | {"scale": 0.7})
        rounded.append(case | {"dtype": torch.bfloat16})
    cases = plain + again + recomputed + scaled + rounded
    found = run_ranks(2, attention_cases.attend, cases, 1, 2)
    for index, case in enumerate(cases):
        check([of_rank[index] for of_rank in found], case, 1, 2, 0.01 if case in rounded else 1e-5)
    for of_rank in found:
        for first, second, third in zip(of_rank[:2], of_rank[2:4], of_rank[4:6], strict=True):
            assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, third, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"heads": 3, "groups": 3, "exchange": "a2a"},
            "LayoutError: context exchange a2a: cp 2 must divide the 3 attention heads of a tensor-parallel rank "
            "(tp 1)",
        ),
        (
            {"heads": 6, "groups": 3, "exchange": "a2a"},
            "LayoutError: context exchange a2a: cp 2 must divide the 3 query groups of a tensor-parallel rank (tp 1), "
            "or be a multiple of them",
        ),
        (
            {"heads": 4, "groups": 2, "exchange": "p2p"},
            "EngineError: context exchange p2p needs a GPU, and this machine has none: use allgather or a2a",
        ),
        (
            {"heads": 4, "groups": 2, "kernel": "flash"},
            "EngineError: attention kernel flash needs a GPU, and this machine has none: use auto or sdpa",
        ),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    assert run_ranks(2, attention_cases.failure, 1, 2, **options) == [message] * 2
