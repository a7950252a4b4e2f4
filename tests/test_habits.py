"""The files that hosts and tools read: the workflow calls targets that exist, hooks use locked tools, versions agree.

Links of all pages lead to files and headings that are there, and the targets that they name exist.
"""

import pathlib
import re
import shutil
import subprocess

import pytest

import tip_kernels

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text()
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")])


def targets() -> set[str]:
    rules = re.findall(r"^([a-z][\w -]*):(?!=)", MAKEFILE, re.MULTILINE)
    return {target for rule in rules for target in rule.split()}


def called(workflow: str) -> list[str]:
    """The targets that a workflow makes, by name or from a matrix; what else it runs, as it is."""
    found = []
    for command in re.findall(r"- run: (.*)", workflow):
        program, _, rest = command.partition(" ")
        found.append(rest if program == "make" and "matrix" not in rest else "" if program == "make" else command)
    found += re.findall(r"target: ([\w-]+)", workflow)
    found += [name for listed in re.findall(r"target: \[(.*)\]", workflow) for name in listed.split(", ")]
    return [name for name in found if name]


def test_the_workflow_makes_targets_that_exist():
    names = called(WORKFLOW)
    assert len(names) >= 12
    assert not [name for name in names if name not in targets()]


def test_another_command_and_a_target_that_is_gone_are_noticed():
    workflow = "- run: make test\n- run: pytest\n- run: make ${{ matrix.target }}\n target: [docs, gone]\n"
    assert called(workflow) == ["test", "pytest", "docs", "gone"]
    assert {"test", "docs", "test-asan", "gpu-check"} <= targets()
    assert not {"pytest", "gone"} & targets()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_name_targets_that_exist(path):
    named = re.findall(r"`make ([a-z][\w-]*)|^ {4}make ([a-z][\w-]*)", path.read_text(), re.MULTILINE)
    assert not [first or second for first, second in named if (first or second) not in targets()]


def test_the_workflow_begins_with_the_oldest_python():
    (oldest,) = re.findall(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    (listed,) = re.findall(r"python: \[(.*)\]", WORKFLOW)
    assert listed.split(", ")[0] == f'"{oldest}"'


def test_the_workflow_names_variants_that_are_built():
    (listed,) = re.findall(r"variant: \[(.*)\]", WORKFLOW)
    assert all(f'"{variant}": [' in (ROOT / "setup.py").read_text() for variant in listed.split(", "))


def test_hooks_use_locked_tools():
    locked = (ROOT / "requirements/dev.lock.txt").read_text()
    tools = re.findall(r"entry: \.venv/bin/([\w-]+)", HOOKS)
    assert {"ruff", "mypy", "clang-format"} <= set(tools)
    assert all(re.search(rf"^{tool}==", locked, re.MULTILINE) for tool in tools)


def test_the_citation_has_the_version_of_the_package():
    (version,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version == tip_kernels.__version__


@pytest.mark.skipif(shutil.which("clang-format") is None, reason="clang-format is not installed; make lint has it")
def test_cpp_is_formatted_and_a_change_is_noticed(tmp_path):
    """As make lint does it, on the sources; a copy with one blank more fails."""
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu")]
    check = ["clang-format", f"--style=file:{ROOT / '.clang-format'}", "--dry-run", "-Werror"]
    assert subprocess.run([*check, *sources], capture_output=True).returncode == 0
    copy = tmp_path / "units.h"
    copy.write_text((ROOT / "csrc/core/units.h").read_text().replace("return ", "return  ", 1))
    assert subprocess.run([*check, copy], capture_output=True).returncode != 0


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as hosts make them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def dead_links(path: pathlib.Path) -> list[str]:
    """Relative links of a page to a file or to a heading that is not there."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            dead.append(link)
    return dead


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert not dead_links(path)


def test_a_dead_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    links = "[x](#one-a-b) [y](#two) [z](gone.md) [w](page.md#one-a-b) [v](https://example.org)"
    page.write_text(f"# One `a` (b)\n{links}\n")
    assert dead_links(page) == ["#two", "gone.md"]
