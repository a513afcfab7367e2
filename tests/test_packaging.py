"""Tests that what is installed is what lies in the tree: every module once, the data files, the entry points."""

import ast
import graphlib
import importlib
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator

import pytest

import pallas_conv
from pallas_conv.kernels import families
from pallas_conv.spec import OUTPUTS

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def files_of_the_tree() -> set[str]:
    """Every file of the package as a path inside the installed package: `kernels/` is seen through its other name."""
    sources = {"pallas_conv": ROOT / "pallas_conv", "pallas_conv/kernels": ROOT / "kernels"}
    found = set()
    for name, folder in sources.items():
        for path in folder.rglob("*"):  # does not follow the symlink pallas_conv/kernels
            if path.suffix in (".py", ".json", ".typed"):
                found.add(f"{name}/{path.relative_to(folder).as_posix()}")
    return found


def test_every_folder_with_modules_is_listed():
    """setuptools leaves out a sub-package that is not listed, without a word."""
    folders = {path.rpartition("/")[0].replace("/", ".") for path in files_of_the_tree() if path.endswith(".py")}
    assert folders == set(SETUPTOOLS["packages"])
    assert all(f"{folder.replace('.', '/')}/__init__.py" in files_of_the_tree() for folder in folders)
    for package in SETUPTOOLS["packages"]:
        folder = SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))
        assert (ROOT / folder / "__init__.py").is_file(), package


def test_every_data_file_is_listed():
    patterns = [
        f"{package.replace('.', '/')}/{glob}" for package, globs in SETUPTOOLS["package-data"].items() for glob in globs
    ]
    data = {path for path in files_of_the_tree() if not path.endswith(".py")}
    assert "pallas_conv/py.typed" in data
    assert {path for path in data if not any(pathlib.PurePath(path).match(p) for p in patterns)} == set()


def modules() -> dict[str, pathlib.Path]:
    """The package's modules by name; a package goes by that of its `__init__.py`."""
    found = {}
    for path in files_of_the_tree():
        if path.endswith(".py"):
            name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            found[name] = ROOT / path
    return found


MODULES = modules()


def nodes(tree: ast.AST, everywhere: bool) -> Iterator[ast.AST]:
    """All nodes of a module, or those that run when it is imported."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if everywhere or not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield from nodes(node, everywhere)


def own_imports(name: str, everywhere: bool = True) -> set[str]:
    """The package's own modules that a module imports, in whatever form it says so."""
    path, found = MODULES[name], set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes(ast.parse(path.read_text()), everywhere):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [package.rsplit(".", node.level - 1)[0]] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            inside = {f"{source}.{alias.name}" for alias in node.names}
            found |= {module if module in MODULES else source for module in inside}
    return found & MODULES.keys()


def is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


KERNELS = "pallas_conv.kernels"
LAUNCHED_BY = {"depthwise": "tap_blocks", "dense": "packed_groups", "wgrad": "packed_groups"}


def test_kernels_import_little_of_the_package():
    """The kernels lie below the package: plans and lowering rules know the kernels, not the other way round."""
    reached = set().union(*(own_imports(name) for name in MODULES if is_in(name, KERNELS)))
    below = {"activations", "spec", "strict", "target"}
    assert {name for name in reached if not is_in(name, KERNELS)} == {f"pallas_conv.{name}" for name in below}


def texts_naming(family: str, source: str) -> set[str]:
    """The texts of a source that are a family's name, or begin as the names of its kernels do.

    A family may have the name of a role of products: then texts speak of that, but for those by which a family is asked for.
    """
    tree = list(ast.walk(ast.parse(source)))
    texts = {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    calls = [node for node in tree if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("named")]
    asked_for = {node.value for call in calls for node in call.args if isinstance(node, ast.Constant)}
    begun = {text for text in texts if text.startswith((f"{family}_", f"pallas_conv_{family}_"))}
    return begun | ({family} & (asked_for if family in OUTPUTS else texts))


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_nothing_outside_of_a_family_names_it_but_the_list_of_families(family):
    """Neither an import nor a text names a family outside of its folder, but for the list, and a family that launches it."""
    room = f"{KERNELS}.{family.name}"
    launching = f"{KERNELS}.{LAUNCHED_BY[family.name]}" if family.name in LAUNCHED_BY else room
    importing, naming = set(), set()
    for name, path in MODULES.items():
        if not is_in(name, room):
            importing |= {
                name for imported in own_imports(name) if is_in(imported, room) and not is_in(name, launching)
            }
            naming |= {name} if texts_naming(family.name, path.read_text()) else set()
    assert importing == {families.__name__}
    assert naming == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"wgrad" in roles', set()),
        ('families.named("wgrad")', {"wgrad"}),
        ('f"pallas_conv_wgrad_{series}"', {"pallas_conv_wgrad_"}),
        ('name == "dense"', {"dense"}),
        ('"dense" and "a dense text"', {"dense"}),
    ],
)
def test_texts_that_name_a_family_are_found(source, found):
    assert texts_naming("wgrad", source) | texts_naming("dense", source) == found


def test_no_module_imports_itself_by_way_of_others():
    """Imports inside of functions do not count: there, where it is said why, a module may ask for one that lies above it."""
    order = graphlib.TopologicalSorter({name: own_imports(name, everywhere=False) for name in MODULES})
    assert set(order.static_order()) == MODULES.keys()  # CycleError names the cycle


def imported(path: pathlib.Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | named}


def test_what_tests_and_benchmarks_share_lies_below_both():
    """`workloads` at the bottom, `compiled` on it, then `bench`, of which only its own tests know."""
    above = {
        "pallas_conv": {"workloads", "compiled", "bench", "tests", "examples"},
        "kernels": {"workloads", "compiled", "bench", "tests", "examples"},
        "workloads": {"compiled", "bench", "tests", "examples"},
        "compiled": {"bench", "tests", "examples"},
        "bench": {"tests", "examples"},
        "tests": {"bench"},
    }
    files = [(folder, path) for folder in above for path in (ROOT / folder).rglob("*.py")]
    reached = {path.relative_to(ROOT).as_posix(): imported(path) & above[folder] for folder, path in files}
    own = "tests/bench/"
    assert {path: names for path, names in reached.items() if names and not path.startswith(own)} == {}
    assert any(names for path, names in reached.items() if path.startswith(own))


ROOMS = ("bench", "compiled", "examples", "kernels", "pallas_conv", "tests", "workloads")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py")
}
FOLDERS = [ROOT / "kernels", *(path.parent for path in sorted((ROOT / "kernels").glob("*/__init__.py")))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_package_of_kernels_names_all_that_is_in_it(folder):
    names = {path.name for path in folder.glob("*.py")} | {
        f"{path.parent.name}/" for path in folder.glob("*/__init__.py")
    }
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert {name for name in names - {"__init__.py"} if not re.search(rf"(?<![\w/]){name}(?!\w)", text)} == set()


LONGEST = 420  # lines of a file in Python, which is read from top to bottom


def test_files_can_be_read_at_one_sitting():
    lines = {path: len(source.splitlines()) for path, source in SOURCES.items()}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}


# A docstring that begins with one of these goes on where the name or the signature ends, and cannot be read without them.
RIDDLES = {
    "and", "as", "but", "by", "from", "how", "into", "its", "of", "so", "than", "that", "their", "they", "these", "those", "to",
    "what", "where", "which", "who", "whose", "why",
}  # fmt: skip


def riddles(source: str) -> Iterator[tuple[int, str]]:
    """The line and the first line of text of every docstring that begins with one of RIDDLES."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = (ast.get_docstring(node) or "").partition("\n")[0]
            if re.split(r"\W", text)[0].lower() in RIDDLES:
                yield node.body[0].lineno, text


def test_docstrings_stand_by_themselves():
    """The first word is a verb, or the noun that is returned."""
    assert [f"{path}:{line}: {text}" for path, source in SOURCES.items() for line, text in riddles(source)] == []


def test_riddles_are_found():
    source = '"""Of all phases."""\n\n\ndef f():\n    """What is left."""\n\n\ndef g():\n    """The rest."""\n'
    assert list(riddles(source)) == [(1, "Of all phases."), (5, "What is left.")]


def test_wheel(tmp_path):
    """Built offline from the source distribution of a copy of the tree: each file once, nothing else but the metadata."""
    copy, out = tmp_path / "tree", tmp_path / "out"
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("pallas_conv", "kernels"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    build = f"from setuptools import build_meta; build_meta.build_{{}}({str(out)!r})"

    def run(what, folder):
        subprocess.run(
            [sys.executable, "-c", build.format(what)], cwd=folder, check=True, capture_output=True, timeout=200
        )

    out.mkdir()
    run("sdist", copy)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    run("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"))
    (wheel,) = out.glob("*.whl")
    assert wheel.name.split("-")[:2] == ["pallas_conv", pallas_conv.__version__]
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert set(names) == files_of_the_tree()


def test_entry_points_exist():
    for target in PYPROJECT["project"]["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_kernels_have_one_name():
    """PyPI knows another package called `kernels`: from the root of the checkout, ours does not answer to that."""
    with pytest.raises(ImportError, match=r"pallas_conv\.kernels"):
        importlib.import_module("kernels")
    assert importlib.import_module("pallas_conv.kernels").__name__ == "pallas_conv.kernels"
