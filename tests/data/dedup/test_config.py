import subprocess
import sys

from global_steps import config_class
from tatara.config import leaf_fields
from tatara.data.steps import STEPS

NAMES = [name for name in STEPS if name.endswith("_dedup")]


def test_every_field_is_documented_and_every_step_can_be_had() -> None:
    for name in NAMES:
        config = config_class(name)
        assert config.step == name
        assert all(field.description for _, field in leaf_fields(config)), name


def test_configurations_import_nothing_heavy() -> None:
    code = (
        "import sys, tatara.data.dedup.config\n"
        "print([name for name in ('numpy', 'pyarrow', 'ray', 'numba', 'torch') if name in sys.modules])"
    )
    paths = [path for path in sys.path if path]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
