"""Entrypoint of the pretrain stage for `ray job submit --working-dir . -- python jobs/pretrain.py --config FILE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from tatara.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
