"""The command line: ``python -m tracetorch_jax --help``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import tracetorch_jax
from tracetorch_jax._commands import bench, export, info, layers

_EXITS = """\
exit status: 0 if all went well, 1 if what was asked for could not be done (the reason is on
standard error), 2 if the command line is wrong"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(
        prog="python -m tracetorch_jax",
        description=tracetorch_jax.__doc__,
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=tracetorch_jax.__version__)
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (layers, info, export, bench):
        own = commands.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.HELP,
            description=command.DESCRIPTION,
            epilog=_EXITS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(own)
        own.set_defaults(run=command.run)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its arguments, by default those of the process.

    Returns:
        The exit status.
    """
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
