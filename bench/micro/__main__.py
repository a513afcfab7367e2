"""The command: asks a device, or turns what was asked into constants."""

import argparse
import re
import sys

from .. import micro, runner
from ..runner import Row, Step, summary
from . import constants, measure
from .question import Sizes

ALONE = "--constants"


def steps(options: argparse.Namespace) -> list[Step]:
    sizes = Sizes(runner.gpu(options.dry_run).num_sms, options.dry_run)
    return [step for step in measure.steps(sizes) if re.search(options.ask, step.name)]


def arguments(parser: argparse.ArgumentParser) -> None:
    told = "regular expression: the questions to ask (all)"
    parser.add_argument("--ask", type=runner.checked(re.compile), default="", help=told)


def told(rows: list[Row]) -> str:
    """Lines for the terminal: values beside those of the cost model, then the ending of every summary."""
    return summary.fitting(constants.table(rows), summary.ending(rows))


SCRIPT = runner.Script("bench.micro", micro.__doc__ or "", steps, told, arguments, minutes=3)

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(constants.main(words[1:]) if words[:1] == [ALONE] else runner.main(SCRIPT))
