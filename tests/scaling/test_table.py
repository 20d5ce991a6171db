"""Tables of runs."""

from pathlib import Path

import pytest

from tatara.errors import DataError
from tatara.scaling.table import read_runs, write_runs


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    csv, lines = tmp_path / "runs.csv", tmp_path / "runs.jsonl"
    csv.write_text("# a comment\nName,N,tokens,loss\na,50M,1e9,3.5\n\nb,100M,2e9,3.25\n")
    lines.write_text('{"name": "a", "parameters": 5e7, "tokens": 1e9, "loss": 3.5}\n'
                     '{"name": "b", "parameters": 1e8, "compute": 1.2e18, "loss": 3.25}\n')  # fmt: skip
    one, two = read_runs(csv), read_runs(lines)
    assert [(run.parameters, run.tokens, run.compute, run.loss) for run in one] == [
        (run.parameters, run.tokens, run.compute, run.loss) for run in two
    ]
    assert one[0].compute == 6 * 5e7 * 1e9
    assert [run.line for run in one] == [3, 5]
    assert one[1].more == {"name": "b"}
    write_runs(tmp_path / "again.csv", one)
    assert read_runs(tmp_path / "again.csv")[1].tokens == 2e9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parameters,tokens,loss\n1e6,1e9,3\n1e6,1e9,nan\n", r"runs.csv:3: loss is nan, not a positive number"),
        ("parameters,tokens,loss\n1e6,1e9,inf\n", "runs.csv:2: loss is inf"),
        ("parameters,tokens,loss\n1e6,many,3\n", "runs.csv:2: tokens 'many' is not a number"),
        ("parameters,tokens,loss\n1e6,-1,3\n", "runs.csv:2: tokens is -1.0"),
        ("parameters,tokens,los\n1e6,1e9,3\n", "runs.csv:2: no loss; did you mean 'los'"),
        ("parameters,loss\n1e6,3\n", "runs.csv:2: two of parameters, tokens and compute"),
        ("parameters,tokens,loss\n1e6,3\n", "runs.csv:2: 2 cells, but the header has 3"),
        ("parameters,tokens,loss\n", "runs.csv holds no runs"),
        ('{"loss": 3\n', "runs.csv:1: not JSON"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(text: str, expected: str, tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=expected):
        read_runs(table)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none.csv: No such file"):
        read_runs(tmp_path / "none.csv")
