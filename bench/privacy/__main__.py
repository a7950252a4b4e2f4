"""What TIP and its rivals protect and what they cost: ``python -m bench.privacy COMMAND --help``."""

import argparse

from bench.privacy.commands import (
    active,
    attack,
    compare,
    compiled,
    control,
    federate,
    patient,
    pictures,
    prior,
    rounding,
    shape,
    study,
    train_generator,
    train_prior,
    tune,
    utility,
)

MODULES = (
    study,
    control,
    compare,
    compiled,
    patient,
    pictures,
    attack,
    active,
    federate,
    tune,
    rounding,
    train_prior,
    train_generator,
    prior,
    utility,
    shape,
)
COMMANDS = {module.__name__.rpartition(".")[2].replace("_", "-"): module for module in MODULES}
"""By command, which is the module's name. Each has ``add_arguments(parser)`` and ``run(options)``; its docstring is the
help."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.privacy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=(module.__doc__ or "").partition("\n")[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
