"""Commands of tip_kernels; without one, the table of backends. COMMAND --help has more, and docs/commands.md.

Exit codes: 0, or 2 for bad input, which one line on stderr tells.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ._commands import audit, backends, epsilon, plan
from ._commands.refusal import Refused, one_line

COMMANDS = {"backends": backends, "plan": plan, "audit": audit, "epsilon": epsilon}
"""Each has ``add_arguments(parser)`` and ``run(options)``; its docstring is the help."""

SCRIPT = "tip-kernels"
"""The console script, which calls :func:`main` as well."""


class Parser(argparse.ArgumentParser):
    """Refuses bad usage as all else is refused, and takes no abbreviations, which a later option might change."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; --help tells more")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: without the program's name; None: those of the process.

    Returns:
        The exit code.
    """
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except Refused as refused:
        print(f"error: {one_line(refused)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as shells do
    return 0


def _parser() -> Parser:
    is_script = pathlib.Path(sys.argv[0]).stem == SCRIPT
    parser = Parser(
        prog=SCRIPT if is_script else "python -m tip_kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=backends.run, json=False)
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
