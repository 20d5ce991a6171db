"""Entrypoint of the dialogues stage for `ray job submit --working-dir . -- python jobs/dialogues.py --config FILE`."""

import os
import sys

# In place of this directory, whose tokenize.py would shadow the standard library's.
sys.path[0] = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "platform")

from tatara.cli import main

if __name__ == "__main__":
    main(["dialogues", *sys.argv[1:]])
