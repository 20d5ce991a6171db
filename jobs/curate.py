"""Entrypoint of the curate stage for `ray job submit --working-dir . -- python jobs/curate.py --config FILE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from tatara.cli import main

if __name__ == "__main__":
    main(["curate", *sys.argv[1:]])
