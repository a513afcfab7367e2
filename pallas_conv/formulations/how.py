"""How a lax program multiplies: what is the same for every formulation of a product."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class How:
    """What is handed through a program to the products in it.

    precision      as in `jax.lax.conv_general_dilated`
    result_dtype   of library calls and matrix products; None: that of their operands
    channels_last  whether the library's convolutions are written channels last, see `library.convolve`
    """

    precision: Any = None
    result_dtype: np.dtype | None = None
    channels_last: bool = False

    @property
    def of_lax(self) -> dict[str, Any]:
        """Keyword arguments of lax's products."""
        return {"precision": self.precision, "preferred_element_type": self.result_dtype}
