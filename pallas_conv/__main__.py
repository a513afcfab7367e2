"""The command line: `python -m pallas_conv doctor` and `python -m pallas_conv explain`."""

import argparse
import sys

from .dispatch import command as command_explain
from .doctor import command as command_doctor


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pallas_conv", description=__doc__)
    commands = parser.add_subparsers(required=True)
    add = lambda name, does: commands.add_parser(name, help=does, description=does)
    command_doctor.add_to(add("doctor", "check the kernels on this machine and, on a Hopper GPU, time and record them"))
    command_explain.add_to(add("explain", "print what serves each convolution of a function, and why"))
    options = parser.parse_args(arguments)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
