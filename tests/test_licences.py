"""LICENSES.md lists every package that pyproject.toml names, with the licence that the installed package states."""

import importlib.metadata
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TABLE = re.findall(r"^\| \[(.+?)\]\(.+?\) \| (.+?) \| (.+?) \|$", (ROOT / "LICENSES.md").read_text(), re.MULTILINE)
LISTED = {name: licence for name, _, licence in TABLE}
USES = {name: set(uses.split(", ")) for name, uses, _ in TABLE}


def named(requirements):
    return {re.split(r"[\[<>=~! ;]", requirement)[0] for requirement in requirements}


# Licences that packages state in words, and their short names.
SHORT = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",  # of which there are several
    "MIT License": "MIT",
}


def stated(package):
    """The licence of an installed package by its metadata: an expression, else a few words, else classifiers."""
    metadata = importlib.metadata.metadata(package)
    text = metadata.get("License-Expression") or metadata.get("License") or ""
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    licence = text if text and "\n" not in text else " AND ".join(classifiers)
    return SHORT.get(licence, licence)


def test_every_package_is_listed_with_what_needs_it():
    wanted = {"core": named(PROJECT["dependencies"])}
    wanted |= {extra: named(packages) for extra, packages in PROJECT["optional-dependencies"].items()}
    uses = {name: {use for use, names in wanted.items() if name in names} for name in set().union(*wanted.values())}
    assert uses == USES


@pytest.mark.parametrize("package", sorted(LISTED))
def test_licences_are_those_of_the_installed_packages(package):
    try:
        licence = stated(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert licence == LISTED[package]
