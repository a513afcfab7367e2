"""The rule that a configuration must be legal for every block."""

from ..depthwise import DEPTHWISE
from ..depthwise.plan import Config
from ..gpu import Gpu
from .plan import Problems


def illegal(problems: Problems, config: Config, gpu: Gpu) -> str | None:
    """The reason why the depthwise kernel does not take a configuration for some block, or None."""
    reasons = (DEPTHWISE.illegal(problem, config, gpu) for problem in dict.fromkeys(problems))
    return next((why for why in reasons if why), None)
