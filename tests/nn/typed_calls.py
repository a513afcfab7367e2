"""Calls for type checkers: `make lint` fails if one of these calls is no longer an error, or another is one."""

from typing import assert_type

import jax

import pallas_conv as pc

key = jax.random.key(0)
assert_type(pc.Conv2d(4, 8, 3, stride=2, padding="SAME", activation="relu", key=key), pc.Conv2d)
assert_type(pc.ConvTranspose(2, 4, 8, (3, 3), output_padding=1, implementation="xla", key=key), pc.ConvTranspose)
assert_type(pc.convert(pc.Conv1d(4, 8, 3, key=key)), pc.Conv1d)
assert_type(pc.conv(key, key, stride=2), jax.Array)

pc.Conv2d("four", 8, 3, key=key)  # type: ignore[arg-type]
pc.Conv2d(4, 8, 3, kernel=3, key=key)  # type: ignore[call-arg]
pc.Conv2d(4, 8, 3, output_padding=1, key=key)  # type: ignore[call-arg]
pc.ConvTranspose3d(4, 8, 3)  # type: ignore[call-arg]
