"""The README and the pages of docs/: their code runs and prints what they say, their links, paths and commands are right."""

import argparse
import contextlib
import importlib.util
import io
import itertools
import pathlib
import re
import runpy
import shlex
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST = 128  # columns
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"python3? -m ((?:bench|pallas_conv|tests)\b[^#]*)")


def name(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


def examples(page: pathlib.Path) -> list[tuple[str, str | None]]:
    """The blocks of Python of a page, each with what it is said to print: the block of text that follows, if one does."""
    found, text = [], page.read_text()
    blocks = list(BLOCK.finditer(text))
    for block, after in itertools.pairwise([*blocks, None]):
        follows = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
        if block[1] == "python":
            found.append((block[2], after[2] if after is not None and follows else None))
    return found


def prose(page: pathlib.Path) -> str:
    """A page without code, tables, headings, pictures and comments."""
    lines = BLOCK.sub("", page.read_text()).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("|", "#", "!", "<!--", ":::", ":alt:")))


WITH_EXAMPLES = [page for page in PAGES if examples(page)]


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.aot] * (p.name == "proofs.md")) for p in WITH_EXAMPLES], ids=name
)
def test_examples_run_and_print_what_the_page_says(page, monkeypatch):
    """One after the other, as a reader would type them. Long lines may be folded."""
    monkeypatch.syspath_prepend(ROOT)
    known: dict[str, object] = {"__name__": "example"}
    for source, said in examples(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, name(page), "exec"), known)
        if said is not None:
            assert printed.getvalue().split() == said.split()


def test_what_explain_prints_is_in_the_readme():
    (source, said), *others = examples(README)
    assert "print(pc.explain(" in source
    assert "flax" not in source  # .ci/package runs it where nothing but the package is installed
    assert [said for _, said in others] == [None]
    assert said is not None
    assert "selected:" in said


def test_the_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= LONGEST
    assert sum(source.count("\n") for source, _ in examples(README)) <= 12
    (*_, last) = (at for at, line in enumerate(lines) if line == "```python")
    assert last + lines[last:].index("```") <= 40  # the quickstart, what it prints, and Flax's line
    for target in ("make demo", "make test"):
        assert any(line.startswith(target) for line in lines[:20])


def test_sentences_of_the_readme_are_short():
    text = re.sub(r"\]\([^)]*\)", "]", prose(README))
    sentences = re.split(r"(?<=[.!?])\s+|\n\n", text)
    assert {s: len(s.split()) for s in sentences if len(s.split()) > 25} == {}


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "architecture.md"], ids=name)
def test_lines_of_prose_are_short(page):
    text, written_by_a_script = page.read_text(), r"<!-- gpu-table:begin -->.*?<!-- gpu-table:end -->"
    lines = re.sub(written_by_a_script, "", text, flags=re.DOTALL).splitlines()
    assert [line for line in lines if len(line) > LONGEST and not line.startswith("|")] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"\w+:", target):
            file, _, heading = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            assert path.exists(), target
            assert path.is_relative_to(ROOT), target
            if heading:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                assert heading in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings], target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page):
    rooms = "bench|compiled|docs|examples|kernels|pallas_conv|tests|workloads"
    for path in re.findall(rf"`((?:{rooms})/[\w/.*]+)`", page.read_text()):
        to_be_written = path == "kernels/dense/sm100.py"
        assert to_be_written or list(ROOT.glob(path)), path


class Parsed(Exception):
    """The arguments were right."""


def commands() -> list[str]:
    """Modules and arguments after `python -m`, in blocks of shell and in code among words, where lines may be folded."""
    found = set()
    for text in (page.read_text() for page in PAGES):
        shell = [line for language, block in BLOCK.findall(text) if language == "sh" for line in block.splitlines()]
        for code in [*shell, *re.findall(r"`([^`]+)`", BLOCK.sub("", text))]:
            found |= {command[1].strip() for command in [COMMAND.search(" ".join(code.split()))] if command}
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_a_command_line_is_parsed(command, monkeypatch):
    module, *arguments = shlex.split(command)
    assert importlib.util.find_spec(module)
    if not arguments or module == "tests.emulator":  # the name alone, or names of cases
        return
    parse = argparse.ArgumentParser.parse_args

    def stops(self, *given, **how):
        parse(self, *given, **how)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stops)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    for loaded in (module, f"{module}.__main__"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    with pytest.raises(Parsed):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_targets_of_make_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= set(targets)


def test_drawings_are_those_that_the_script_draws():
    drawn = runpy.run_path(str(ROOT / "docs" / "drawings" / "draw.py"))["files"]()
    kept = {path.name: path.read_text() for path in (ROOT / "docs" / "drawings").glob("*.svg")}
    assert kept == drawn


def test_every_name_of_the_package_is_in_the_reference():
    import pallas_conv

    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    missing = [public for public in pallas_conv.__all__ if not re.search(rf"\b{public}\b", page)]
    assert missing in ([], ["nn"])
