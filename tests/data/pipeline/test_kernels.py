import multiprocessing
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tatara.data.document import Document
from tatara.data.pipeline import kernels
from tatara.data.steps import RowStep, Verdicts


class Counting(RowStep):
    def apply(self, documents: Sequence[Document]) -> Verdicts:
        with (self.directory / "applied").open("a") as file:
            file.write(f"{len(documents)}\n")
        raise ValueError("a step that fails on this page fails on others too")


def compile_in(directory: str) -> None:
    tempfile.tempdir = directory
    kernels.compile_once([Counting(None, Path(directory))])


@pytest.mark.parametrize("processes", [1, 4])
def test_one_process_compiles_and_the_others_wait(tmp_path: Path, processes: int) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        pool.map(compile_in, [str(tmp_path)] * 4, chunksize=1)
    assert (tmp_path / "applied").read_text() == "1\n"
