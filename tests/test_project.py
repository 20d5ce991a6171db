"""The project itself: locks, imports, and the standard library's ``platform``."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}


def lock(name: str) -> dict[str, Version]:
    pins = {}
    for line in (ROOT / "cluster" / "images" / name).read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", f"{line} is not an exact pin"
            pins[canonicalize_name(requirement.name)] = Version(pin.version)
    return pins


def wanted(extra: str | None) -> list[Requirement]:
    """What an extra asks for, with the extras of our own that it names spelt out."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    found: list[Requirement] = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            for inner in requirement.extras:
                found += wanted(inner)
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize(("name", "extra"), [("cpu.lock", "cpu"), ("gpu.lock", "gpu")])
def test_a_lock_satisfies_the_project(name: str, extra: str) -> None:
    pins = lock(name)
    for requirement in [*wanted(None), *wanted(extra)]:
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{name} lacks {requirement}"
        assert requirement.specifier.contains(pinned), f"{name} has {pinned}, but {requirement} is wanted"


def test_the_test_lock_satisfies_the_project() -> None:
    pins = {**lock("cpu.lock"), **lock("test.lock")}
    for requirement in wanted("test"):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"test.lock lacks {requirement}"
        assert requirement.specifier.contains(pinned)
    assert not set(lock("cpu.lock")) & set(lock("test.lock")), "the test lock must not change what the product runs on"


def test_what_is_installed_with_no_deps_lacks_nothing() -> None:
    """Every dependency of everything locked is locked too, at a version that fits, but for what is left out."""
    from importlib.metadata import PackageNotFoundError, requires, version

    pins = lock("cpu.lock")
    environment = {**default_environment(), "extra": ""}
    for name in pins:
        try:
            assert Version(version(name)).public == pins[name].public, f"{name} is not at the locked version"
        except PackageNotFoundError:
            pytest.fail(f"{name} is locked but not installed")
        for line in requires(name) or []:
            needed = Requirement(line)
            if needed.marker and not needed.marker.evaluate(environment):
                continue
            key = canonicalize_name(needed.name)
            if key in LEFT_OUT:
                continue
            assert key in pins, f"{name} needs {needed}, which the lock lacks"
            assert needed.specifier.contains(pins[key], prereleases=True), f"{name} needs {needed}, not {pins[key]}"


def test_the_gpu_lock_is_for_the_same_stack() -> None:
    cpu, gpu = lock("cpu.lock"), lock("gpu.lock")
    assert gpu["vllm"] == Version("0.32.0")
    assert gpu["torch"] == Version("2.13.0")
    assert {"flash-attn", "transformer-engine"} <= set(gpu)
    for name in ("ray", "megatron-core", "transformers", "pydantic"):
        assert cpu[name] == gpu[name], f"{name} differs between the locks"


def imported_modules() -> dict[str, set[str]]:
    """Top-level module to the files of the product that import it."""
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "platform").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_import_of_the_product_is_locked() -> None:
    pins, providers = lock("cpu.lock"), packages_distributions()
    for module, files in imported_modules().items():
        if module in sys.stdlib_module_names or module == "tatara":
            continue
        distributions = {canonicalize_name(name) for name in providers.get(module, [])}
        assert distributions & set(pins), f"{module}, imported by {sorted(files)}, is not in cpu.lock"


def test_platform_is_the_standard_library_from_the_root() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import platform; print(platform.__file__); platform.system()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "platform.py" in done.stdout
    assert str(ROOT) + "/platform" not in done.stdout


LIGHT = [
    "tatara", "tatara.config", "tatara.artifact", "tatara.storage", "tatara.stage", "tatara.recipe", "tatara.cluster",
    "tatara.tracking", "tatara.cli", "tatara.data.pipeline.config", "tatara.data.tokenize", "tatara.train.pretrain",
    "tatara.train.convert.export", "tatara.model.spec", "tatara.engine.config", "tatara.serve.config", "tatara.doctor",
    "tatara.chat", "tatara.posttrain.dialogues", "tatara.posttrain.render", "tatara.posttrain.sft",
]  # fmt: skip
HEAVY = ("torch", "ray", "vllm", "transformers", "megatron", "pyarrow", "wandb", "tokenizers", "numpy")


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_import_needs_no_extra() -> None:
    """The base dependencies suffice for the command line; a stage that needs more says which extra brings it."""
    blocked = [*HEAVY, "ftfy", "fastapi", "aiohttp", "s3fs"]
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "import tatara.cli, tatara.recipe.stages as s\n"
        "from tatara.errors import MissingExtraError\n"
        "for name in s.STAGES:\n"
        "    stage = s.find_stage(name)\n"
        "    try:\n"
        "        stage.resolve(stage.run)\n"
        "    except MissingExtraError as error:\n"
        "        print(name, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'tatara[" in done.stdout


def test_the_project_names_no_registry_and_no_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".sh", ".lock", ".txt", ""} and path.is_file():
            text = path.read_text(errors="ignore")
            for needle in ("pypi." + "org", "download." + "pytorch", "/work" + "/main", "/opt" + "/wheels"):
                assert needle not in text, f"{name} names {needle}"
