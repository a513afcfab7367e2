"""The scripts that users copy: each runs, and what its docstring says comes true."""

import ast
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import warnings

import equinox as eqx
import jax
import numpy as np
import pytest

from examples import devices, ensembles, gan, quickstart, segment3d, third_party, wavenet

FOLDER = pathlib.Path(quickstart.__file__).parent
ROOT = FOLDER.parent
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
LONGEST = 43  # lines of code, imports left out

pytestmark = pytest.mark.usefixtures("as_users_promote")


@pytest.fixture
def as_users_promote():
    """optax raises floats to the power of a count; the scripts run with JAX's default promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_says_how_to_run_it(path):
    tree = ast.parse(path.read_text())
    assert f"\n    python -m examples.{path.stem}\n" in ast.get_docstring(tree) + "\n"
    lines = path.read_text().splitlines()
    body = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign)]
    assert sum(bool(line.strip()) for node in body for line in lines[node.lineno - 1 : node.end_lineno]) <= LONGEST


def test_quickstart(capsys):
    losses, difference = quickstart.main()
    assert losses[-1] < 0.2 * losses[0]
    assert difference < 1e-5
    assert "kernel that would serve it: pallas_conv_dense" in capsys.readouterr().out  # no record is seen by tests


def test_a_converted_model_trains_on_as_if_nothing_had_happened():
    before, converted, stock, checkpoint = third_party.main()
    assert before[-1] < 0.6 * before[0]
    np.testing.assert_allclose(converted, stock, rtol=1e-4)
    assert type(checkpoint.convs[0]) is eqx.nn.Conv2d


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of theirs, on import
        from examples import with_flax
    stock, ours, explanation = with_flax.main()
    np.testing.assert_allclose(ours, stock, rtol=1e-3)
    assert ours[-1] < 0.2 * ours[0]
    assert (len(explanation), explanation.unconverted) == (3, 0)


def test_ensembles_and_gradients_of_single_examples():
    losses, each, mean = ensembles.main()
    assert (losses[-1] < 0.5 * losses[0]).all()
    assert {leaf.shape[0] for leaf in jax.tree.leaves(each)} == {32}
    norm = lambda gradients: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradients)))
    assert norm(mean) <= ensembles.LONGEST * 1.001
    assert norm(jax.tree.map(lambda leaf: leaf.mean(0), each)) > norm(mean)  # some were clipped


def test_a_generator_comes_closer_to_the_data():
    distances = gan.main()
    assert min(distances[2:]) < 0.5 * distances[0]


def test_a_wavenet_continues_a_melody():
    loss, error = wavenet.main()
    assert loss < 1e-3
    assert error < 0.2


def test_a_wavenet_does_not_see_the_future():
    model, sound = wavenet.wavenet(jax.random.key(0)), wavenet.melody(0.0, 128)
    changed = model(sound.at[:, 100].add(1.0)) != model(sound)
    assert np.flatnonzero(changed).tolist() == list(range(100, 128))


def test_balls_are_found():
    loss, dice = segment3d.main()
    assert loss < 0.1
    assert dice > 0.6


def test_devices_send_each_other_gradients_alone():
    """The program of a process of its own, in which JAX has not been used before."""
    program = "import json; from examples import devices; print(json.dumps(devices.main()))"
    settings = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env=settings,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    alone, losses, messages = json.loads(run.stdout.splitlines()[-1])
    np.testing.assert_allclose(losses[0], alone, rtol=1e-5)
    assert losses[-1] < 0.2 * losses[0]
    assert {kind for _, kind in messages} == {"all-reduce"}
    sent = [
        math.prod(map(int, filter(None, s.split(","))))
        for text, _ in messages
        for s in re.findall(r"f32\[(.*?)\]", text)
    ]
    arrays = jax.tree.leaves(eqx.filter(devices.network(jax.random.key(0)), eqx.is_array))
    parameters = sum(leaf.size for leaf in arrays)
    assert parameters < sum(sent) < parameters + 25  # the rest: the loss, and single floats
