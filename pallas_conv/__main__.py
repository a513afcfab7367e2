"""The command line: `python -m pallas_conv doctor`."""

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="pallas_conv", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="check the kernels on this machine and, on a Hopper GPU, time and record them")
    parser.parse_args()
    from . import doctor

    return doctor.main()


if __name__ == "__main__":
    sys.exit(main())
