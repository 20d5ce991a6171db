"""The command itself: its subcommands, and how errors and signals leave it."""

import sys
from typing import Any

import click

import tatara
from tatara.cli import consumed, curating, inspection, planning, running, simulation, stages
from tatara.errors import own_error

_INTERRUPTED = 130
_SHELLS = ("bash", "zsh", "fish")


class Commands(click.Group):
    """Subcommands; those of stages are made when they are asked for, so that help and completion stay fast."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Stages in their order, then the rest."""
        return [*stages.names(), *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """A subcommand by name."""
        return super().get_command(context, name) or stages.command(name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tatara.__version__, prog_name="tatara")
def commands() -> None:
    """Raw corpora in, a served language model out."""


@commands.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell; load it with: eval "$(tatara completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(commands, {}, "tatara", "_TATARA_COMPLETE").source())


commands.add_command(running.run)
commands.add_command(inspection.show)
commands.add_command(inspection.verify)
commands.add_command(inspection.doctor)
commands.add_command(consumed.consumed)
commands.add_command(curating.steps)
commands.add_command(planning.plan)
commands.add_command(simulation.simulate)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 well, 1 an error (one line), 2 a wrong command line, 130 interrupted."""
    sys.exit(call(arguments))


def call(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        result: Any = commands.main(arguments, prog_name="tatara", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted: nothing was committed half-way; run the same command again to go on", file=sys.stderr)
        return _INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        found = own_error(error)
        if found is None:
            raise
        print(f"error: {' '.join(str(found).split())}", file=sys.stderr, flush=True)
        return 1
    return result if isinstance(result, int) else 0


__all__ = ["call", "commands", "main"]
