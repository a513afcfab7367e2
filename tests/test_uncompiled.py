"""The list of files that `make check` runs: they are there, and a program that XLA compiles in one of them is noticed."""

import jax
import jax.numpy as jnp


def test_listed_files_are_there(uncompiled):
    assert [path for path in uncompiled if not path.is_file()] == []


def test_compilations_are_noticed(compilations):
    jax.make_jaxpr(jnp.sin)(1.0)
    assert compilations == []
    jax.jit(lambda x: x + 1).lower(1.0).compile()
    assert len(compilations) == 1
