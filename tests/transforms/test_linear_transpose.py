"""`jax.linear_transpose` in every operand, and what is refused because it is not linear."""

import jax
import pytest

from tests.transforms.problems import FUNCTIONS, LAYERS, Problem, assert_close, data
from tests.transforms.transformations.registry import args, images

LINEAR = [Problem(kind, None, groups) for kinds, groups in ((LAYERS, 1), (FUNCTIONS, 2)) for kind in kinds]


@pytest.mark.parametrize("operand", [0, 1, 2], ids=["w", "b", "x"])
@pytest.mark.parametrize("problem", LINEAR, ids=str)
def test_linear_transpose(problem, operand):
    """A convolution without activation is transposed in any one operand, a bias being there or not."""

    def transposed(f, d):
        one = lambda t: images(f.strided)(*[*args(d)[:operand], t, *args(d)[operand + 1 :]])
        return jax.linear_transpose(one, args(d)[operand])(d.ct)

    d = data(problem, "float32")
    if operand == 2:  # x + b is not linear for equinox's additions; here b is ignored, as in the derivative
        expected = jax.vjp(lambda x: images(problem.stock.strided)(d.w, d.b, x), d.x)[1](d.ct)
    else:
        expected = jax.vjp(lambda t: images(problem.stock.strided)(*[*args(d)[:operand], t, *args(d)[operand + 1 :]]),
                           args(d)[operand])[1](d.ct)  # fmt: skip
    assert_close(transposed(problem.ours, d), expected)


@pytest.mark.parametrize("problem", LINEAR, ids=str)
def test_linear_transpose_in_two_factors_is_refused(problem):
    d = data(problem, "float32")
    with pytest.raises(NotImplementedError, match="not jointly linear in"):
        jax.linear_transpose(lambda w, x: problem.ours.strided(w, d.b, x), d.w, d.x[0])(d.ct[0])


def test_linear_transpose_through_an_activation_is_refused():
    problem = Problem("Conv2d", "silu")
    d = data(problem, "float32")
    with pytest.raises(NotImplementedError, match="activation 'silu' is not linear"):
        jax.linear_transpose(lambda x: problem.ours.strided(d.w, d.b, x), d.x[0])(d.ct[0])
