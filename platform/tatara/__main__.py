"""``python -m tatara`` is the ``tatara`` command."""

from tatara.cli import main

main()
