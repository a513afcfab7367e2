"""Digests of the source: what changes a kernel changes them, what does not, does not."""

import json
import shutil
import subprocess
import sys

import pytest

from pallas_conv.kernels import digest

SOURCE = '''
"""A module."""

import math


def area(r):
    """Of a circle."""
    # A comment.
    return math.pi * r**2


class Empty:
    """Nothing but a docstring."""
'''


def meaning(source):
    return "".join(digest.meaning_of(source))


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("# A comment.", ""),
        SOURCE.replace("Of a circle.", "The area of a circle."),
        SOURCE.replace('"""A module."""\n', ""),
        SOURCE.replace("math.pi * r**2", "(\n        math.pi * r ** 2\n    )"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(same):
    assert same != SOURCE
    assert meaning(same) == meaning(SOURCE)


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("r**2", "r**3"),
        SOURCE.replace("r**2", "r * 2"),
        SOURCE.replace("area", "circle"),
        SOURCE.replace("math.pi", "3"),
        SOURCE.replace("return math.pi", "return -math.pi"),
        SOURCE.replace("return", 'assert r, "a text that is no docstring"\n    return'),
    ],
)
def test_everything_else_does(other):
    assert other != SOURCE
    assert meaning(other) != meaning(SOURCE)


def test_they_are_the_same_in_another_process():
    script = "from pallas_conv.kernels import digest; print(digest.code(), digest.choice())"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == [digest.code(), digest.choice()]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The kernels' folder, copied, and the digests of the copy."""
    folder = tmp_path / "kernels"
    shutil.copytree(digest._KERNELS, folder)
    monkeypatch.setattr(digest, "_KERNELS", folder)

    def digests():
        digest.code.cache_clear(), digest.choice.cache_clear()
        return digest.code(), digest.choice()

    yield folder, digests
    monkeypatch.undo()
    digests()


def test_what_was_tuned_on_another_device_does_not_count(copied):
    folder, _ = copied
    path = folder / "tiles.json"
    rows = json.loads(path.read_text())
    kinds = {row["device_kind"] for row in rows}
    assert {"NVIDIA H100 80GB HBM3", "NVIDIA H200"} <= kinds

    def choices():
        digest.choice.cache_clear()
        return {kind: digest.choice(kind) for kind in (*kinds, "another", None)}

    before = choices()
    assert before["another"] == before[None]
    path.write_text(
        json.dumps([row for row in rows if row != next(r for r in rows if r["device_kind"] == "NVIDIA H200")])
    )
    after = choices()
    assert {kind for kind in before if before[kind] != after[kind]} == {"NVIDIA H200", "another", None}


@pytest.mark.parametrize(
    ("file", "code_changes", "choice_changes"),
    [
        ("dense.py", True, False),
        ("schedule.py", True, False),
        ("taps.py", True, False),
        ("cost.py", False, True),
        ("choice.py", False, True),
        ("tuned.py", False, True),
        ("__init__.py", False, False),
        ("evidence.py", True, False),  # the keys of proofs
        ("family/sm90.py", True, False),  # folders, too
        ("tiles/h100.json", False, True),
    ],
)
def test_what_each_file_counts_for(copied, file, code_changes, choice_changes):
    folder, digests = copied
    before = digests()
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as f:
        f.write("[]" if path.suffix == ".json" else "\nANOTHER = 1\n")
    after = digests()
    assert (before[0] != after[0], before[1] != after[1]) == (code_changes, choice_changes)
