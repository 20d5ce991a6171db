"""The ``tatara`` command: one subcommand per job, nothing else."""

from tatara.cli.command import main

__all__ = ["main"]
