import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tatara.errors import ArtifactError
from tatara.model.safetensors_files import TensorDirectory, TensorFile, write_index

TENSORS = {
    "odd": torch.randn(3).bfloat16(),
    "exact": torch.randn(2, 5),
    "none": torch.zeros(0, 4),
    "turned": torch.randn(4, 3).t(),
}


def described(tensors):
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def test_what_is_written_is_what_the_library_reads(tmp_path):
    with TensorFile(tmp_path / "x.safetensors", described(TENSORS)) as file:
        for name in reversed(TENSORS):
            file.write(name, TENSORS[name])
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(found[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["odd"], "lacks tensor"),
        (["odd", "odd"], "tensor odd is not what was to be written, or is written twice"),
        (["other"], "tensor other is not what was to be written"),
    ],
    ids=str,
)
def test_a_file_that_is_not_what_was_announced_is_an_error(written, message, tmp_path):
    def write():
        with TensorFile(tmp_path / "x.safetensors", described(TENSORS)) as file:
            for name in written:
                file.write(name, TENSORS.get(name, TENSORS["odd"]))

    with pytest.raises(ArtifactError, match=message):
        write()


@pytest.fixture
def sharded(tmp_path):
    files = {"a.safetensors": {"odd": TENSORS["odd"]}, "b.safetensors": {"exact": TENSORS["exact"]}}
    for name, tensors in files.items():
        save_file(tensors, tmp_path / name)
    write_index(tmp_path, {name: described(tensors) for name, tensors in files.items()})
    return tmp_path


def test_files_with_an_index_are_one_model(sharded):
    directory = TensorDirectory(sharded)
    assert directory.shapes() == {"odd": (3,), "exact": (2, 5)}
    assert torch.equal(directory.read("exact"), TENSORS["exact"])
    assert json.loads((sharded / "model.safetensors.index.json").read_text())["metadata"] == {"total_size": 46}


def cut(path):
    file = path / "b.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def remove(path):
    (path / "b.safetensors").unlink()


def swap(path):
    save_file({"else": TENSORS["odd"]}, path / "a.safetensors")


def scribble(path):
    (path / "model.safetensors.index.json").write_text("{}")


def empty(path):
    (path / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "b.safetensors cannot be read as safetensors, is it complete?"),
        (remove, "lacks b.safetensors, which model.safetensors.index.json names"),
        (swap, "a.safetensors is not what model.safetensors.index.json says: else is in one of them only"),
        (scribble, "model.safetensors.index.json cannot be read: KeyError"),
        (empty, "holds neither model.safetensors nor model.safetensors.index.json: weights in safetensors are needed"),
    ],
)
def test_a_damaged_directory_is_refused_in_one_line(damage, message, sharded):
    damage(sharded)
    with pytest.raises(ArtifactError) as raised:
        TensorDirectory(sharded)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
