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
    script = "from pallas_conv.kernels import digest; print(digest.code('dense'), digest.choice('dense'))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == [digest.code("dense"), digest.choice("dense")]


class Copy:
    """A copy of the kernels' folder, whose digests are asked for."""

    def __init__(self, folder):
        self.folder = folder

    def edit(self, file, text=None):
        """Append a line to a file, or begin the file with a text."""
        path = self.folder / file
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as f:
            f.write(text or ("[]" if path.suffix == ".json" else "\nANOTHER = 1\n"))

    def code(self, family):
        digest.code.cache_clear()
        return digest.code(family)

    def choice(self, family, device_kind=None):
        digest.choice.cache_clear()
        return digest.choice(family, device_kind)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    folder = tmp_path / "kernels"
    shutil.copytree(digest._KERNELS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digest, "_KERNELS", folder)
    yield Copy(folder)
    digest.code.cache_clear(), digest.choice.cache_clear()


@pytest.mark.parametrize(
    ("file", "code_changes", "choice_changes"),
    [
        # The family's own.
        ("dense/sm90.py", True, False),
        ("dense/schedule.py", True, False),
        ("dense/served.py", True, False),  # the keys of proofs
        ("dense/sm100.py", True, False),  # a new body
        ("dense/search.py", False, True),
        ("dense/work.py", False, True),
        # What it shares with others.
        ("geometry.py", True, False),
        ("ring.py", True, False),
        ("epilogue.py", True, False),
        ("family.py", True, False),
        ("serve.py", True, False),
        ("cost.py", False, True),
        ("choice.py", False, True),
        ("tuned.py", False, True),
        ("another.json", False, True),
        # What it does not import, though `serve` may.
        ("__init__.py", False, False),
        ("families.py", False, False),
        ("digest.py", False, False),
        ("unused.py", False, False),
        ("another/sm90.py", False, False),
        ("another/search.py", False, False),
    ],
)
def test_what_each_file_counts_for(copied, file, code_changes, choice_changes):
    code, choice = copied.code("dense"), copied.choice("dense")
    copied.edit(file)
    assert (copied.code("dense") != code, copied.choice("dense") != choice) == (code_changes, choice_changes)


@pytest.mark.parametrize("digest_of", [digest.code, digest.choice])
def test_a_family_that_is_not_there_has_no_digest(digest_of):
    with pytest.raises(ValueError, match="no family of kernels named 'nosuch'"):
        digest_of("nosuch")


@pytest.mark.parametrize(
    ("file", "code_changes", "choice_changes"),
    [
        ("tap_blocks/blocks.py", True, False),
        ("tap_blocks/search.py", False, True),
        ("depthwise/served.py", True, False),
        ("depthwise/sm90.py", True, False),
        ("depthwise/work.py", False, True),
        ("dense/sm90.py", False, False),
    ],
)
def test_a_family_has_the_source_of_the_one_whose_kernel_it_launches(copied, file, code_changes, choice_changes):
    code, choice, launched = copied.code("tap_blocks"), copied.choice("tap_blocks"), copied.code("depthwise")
    copied.edit(file)
    assert (copied.code("tap_blocks") != code, copied.choice("tap_blocks") != choice) == (code_changes, choice_changes)
    assert (copied.code("depthwise") != launched) == (file.startswith("depthwise/") and code_changes)


@pytest.mark.parametrize("launched", ["dense", "wgrad"])
def test_a_family_may_launch_kernels_of_two(copied, launched):
    code, choice, untouched = (digest_of("packed_groups") for digest_of in (copied.code, copied.choice, copied.code))
    copied.edit(f"{launched}/sm90.py")
    assert copied.code("packed_groups") != code
    assert copied.choice("packed_groups") == choice
    copied.edit(f"{launched}/work.py")
    assert copied.choice("packed_groups") != choice
    assert copied.code("depthwise") != untouched


def test_two_families_share_what_both_import_and_nothing_else(copied):
    copied.edit("another/sm90.py", "from .. import mosaic\nfrom ..ring import Ring\nfrom .plan import Config\n")
    copied.edit("another/plan.py", "class Config: ...\n")
    copied.edit("another/search.py", "from .plan import Config\n")
    families = ("dense", "another")
    assert copied.code("dense") != copied.code("another")
    for digest_of, file, counts_for in (
        (copied.code, "another/plan.py", {"another"}),
        (copied.code, "dense/plan.py", {"dense"}),
        (copied.code, "store.py", {"dense"}),
        (copied.code, "ring.py", {"dense", "another"}),
        (copied.code, "mosaic.py", {"dense", "another"}),
        (copied.choice, "another/search.py", {"another"}),
        (copied.choice, "dense/search.py", {"dense"}),
        (copied.choice, "cost.py", {"dense", "another"}),
    ):
        before = {family: digest_of(family) for family in families}
        copied.edit(file)
        assert {family for family in families if digest_of(family) != before[family]} == counts_for, file


def test_what_is_imported_by_what_is_imported_counts(copied):
    copied.edit("deeper.py")
    copied.edit("ring.py", "\nfrom . import deeper\n")
    before = copied.code("dense")
    copied.edit("deeper.py", "\nYET_ANOTHER = 1\n")
    assert copied.code("dense") != before


def tiles_without(copied, counts):
    """Drop the first row of tiles.json that counts."""
    path = copied.folder / "tiles.json"
    rows = json.loads(path.read_text())
    dropped = next(row for row in rows if counts(row))
    path.write_text(json.dumps([row for row in rows if row is not dropped]))


def test_what_was_tuned_on_another_device_does_not_count(copied):
    kinds = {row["device_kind"] for row in json.loads((copied.folder / "tiles.json").read_text())}
    assert {"NVIDIA H100 80GB HBM3", "NVIDIA H200"} <= kinds
    choices = lambda: {kind: copied.choice("dense", kind) for kind in (*kinds, "another", None)}
    before = choices()
    assert before["another"] == before[None]
    tiles_without(copied, lambda row: row["device_kind"] == "NVIDIA H200")
    after = choices()
    assert {kind for kind in before if before[kind] != after[kind]} == {"NVIDIA H200", "another", None}


def test_what_was_tuned_of_another_family_does_not_count(copied):
    copied.edit("another/search.py")
    before = {family: copied.choice(family) for family in ("dense", "another")}
    tiles_without(copied, lambda row: row["family"] == "dense")
    assert copied.choice("dense") != before["dense"]
    assert copied.choice("another") == before["another"]
