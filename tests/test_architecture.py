"""The house is as docs/architecture.md says: what it names exists, files are short, layers point one way.

Comments and docstrings name no file that does not exist either.
"""

import ast
import io
import pathlib
import re
import subprocess
import sys
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
PACKAGE = sorted((ROOT / "tip_kernels").rglob("*.py"))
KERNEL_SUFFIXES = (".h", ".cpp", ".cu")
LONG_BY_DESIGN = re.compile(r"[Ll]onger than|one file because", re.S)


def named_files() -> set[str]:
    """What the page calls by the name of a file or a folder."""
    words = re.findall(r"[\w./-]*[\w]\.(?:py|h|cpp|cu|md|toml)\b|[\w.-]+/[\w./-]*", PAGE)
    return {word.rstrip("/.") for word in words if "*" not in word and not word.startswith(("127", "//"))}


@pytest.mark.parametrize("name", sorted(named_files()))
def test_a_named_file_exists(name):
    package = [str(path.relative_to(ROOT)) for path in (ROOT / "tip_kernels").rglob("*") if path.is_dir()]
    folders = ("", "tip_kernels", *package, "csrc", "csrc/core", "csrc/op", "csrc/cpu", "csrc/cuda", "docs", "tests")
    folders = (*folders, "bench/speed")
    assert any((ROOT / folder / name).exists() for folder in folders), f"docs/architecture.md names {name}"


def named_things() -> set[str]:
    """Names in backquotes that are neither files nor values of the table of words."""
    quoted = set(re.findall(r"`([A-Za-z_]\w*)`", PAGE.split("## Words")[0]))
    variables = set(re.findall(r"`([A-Z][A-Z_]+)`", PAGE.split("## Environment variables")[1]))
    return quoted | variables


@pytest.mark.parametrize("name", sorted(named_things()))
def test_a_named_thing_exists(name):
    if not any(re.search(rf"\b{name}\b", path.read_text()) for path in SOURCES):
        pytest.fail(f"docs/architecture.md names {name}, which is in no source")


def test_every_module_and_folder_is_in_the_page():
    listing = PAGE.split("## Folders")[1].split("## The way")[0]
    modules = [path.name for path in PACKAGE if not {"backends", "integrations"} & {*path.parts}]
    folders = [f"{folder}/" for folder in FOLDERS]
    assert not [name for name in (*modules, *folders) if name not in listing]


FOLDERS = ("tip_kernels", "csrc", "bench", "examples", "docs", "tests")


def sources_in(folder: str) -> list[pathlib.Path]:
    return [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", *KERNEL_SUFFIXES) and path != THIS]


THIS = pathlib.Path(__file__).resolve()
SOURCES = [ROOT / "setup.py", THIS, *(path for folder in FOLDERS for path in sources_in(folder))]
FILES = {str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
FILES |= {path.name for path in ROOT.glob("*.*")}


def comments_of(text: str, suffix: str) -> str:
    """The comments of a source, and of Python the strings that stand by themselves."""
    if suffix != ".py":
        return "\n".join(re.findall(r"//.*|/\*(?s:.*?)\*/", text))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    alone = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    return "\n".join(comments + [str(it.value) for it in alone if isinstance(it, ast.Constant)])


def missing_files(text: str) -> list[str]:
    """The names of files in a text that no file has, with the folders that it gives them."""
    names = re.findall(r"[\w./-]*\w\.(?:py|h|cpp|cu|md)\b", text)
    return [name for name in names if not any(f"/{file}".endswith(f"/{name.lstrip('./')}") for file in FILES)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_named_in_a_comment_exists(path):
    assert not missing_files(comments_of(path.read_text(), path.suffix))


def test_a_file_that_is_gone_is_found_in_a_comment():
    python = '"""See ``_gone.py`` and _op/plan.py."""\nx = "other.py"  # in csrc/core/half.h, unlike cpu/half.h\n'
    assert missing_files(comments_of(python, ".py")) == ["csrc/core/half.h", "_gone.py"]
    assert missing_files(comments_of("// by old.cu\n#include <new.h>  // and core/grid.h", ".cpp")) == ["old.cu"]


def test_environment_variables_of_the_page_are_those_that_sources_read():
    ways = r"(?:environ\.(?:get|setdefault|pop)\(|environ\[|getenv\()\s*\"(\w+)\"|\"(\w+)\" (?:not )?in os\.environ"
    found = [match for path in SOURCES for match in re.findall(ways, path.read_text())]
    read = {first or second for first, second in found} - {"PATH", "PYTHONPATH"}  # which children inherit
    assert read == set(re.findall(r"^\| `([A-Z_]+)`", PAGE.split("## Environment variables")[1], re.MULTILINE))


def test_a_list_has_at_most_eight_steps():
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", PAGE, re.M)]
    assert numbers
    assert max(numbers) <= 8


def test_every_file_of_the_cpu_library_is_in_the_page():
    section = PAGE.split("## The CPU library")[1].split("## ")[0]
    names = {path.stem for path in (ROOT / "csrc/cpu").iterdir()}
    assert names == set(re.findall(r"(\w+)\.(?:h|cpp)\b", section))


def test_the_folders_are_told_in_twenty_lines():
    listing = PAGE.split("## Folders")[1].split("## The parts")[0]
    assert 10 <= sum(line.startswith("    ") for line in listing.splitlines()) <= 20


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_python_file_is_long(path):
    most = 300 if "kernels" in path.parts[:-1] and "triton" in path.parts else 400
    assert_short(path, most)


def test_no_kernel_file_is_long():
    for path in sources_in("csrc"):
        if path.suffix in KERNEL_SUFFIXES:
            assert_short(path, 300)


def assert_short(path: pathlib.Path, most: int) -> None:
    lines = path.read_text().splitlines()
    says_why = LONG_BY_DESIGN.search("\n".join(lines[:10]))
    assert len(lines) <= most or says_why, f"{path.relative_to(ROOT)} has {len(lines)} lines"


def imported_by(path: pathlib.Path) -> set[str]:
    """Absolute names of the modules that a file of the package imports."""
    folder = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def test_the_package_imports_no_integration():
    for path in PACKAGE:
        if "integrations" not in path.parts:
            assert not any("integrations" in name for name in imported_by(path)), path


EXTRAS = {"PIL", "matplotlib", "tqdm"}
"""Packages of the extra ``cli``, which commands and pictures import when they need them."""


def test_imports_go_up_to_torch_and_numpy_only():
    allowed = {"torch", "numpy", "triton", "dp_accounting", "tip_kernels", *sys.stdlib_module_names}
    for path in PACKAGE:
        if "integrations" not in path.parts:
            extras = EXTRAS if {"_commands", "viz"} & {*path.parts} else set()
            foreign = {name.split(".")[0] for name in imported_by(path)} - allowed - extras - {""}
            assert not foreign, f"{path} imports {foreign}"


HEAVY = (
    "flwr", "nvflare", "opacus", "lightning", "matplotlib", "triton", "scipy", "sklearn", "pandas", "dp_accounting",
    "torch._dynamo", "torch._inductor", "tip_kernels.backends.triton.kernels", "tip_kernels.integrations",
)  # fmt: skip


def test_import_is_lean():
    """In a fresh process: no framework, no plots, no Triton and nothing of torch that takes seconds."""
    program = f"""
import sys, time
import torch
before = set(sys.modules)
start = time.perf_counter()
import tip_kernels
print(f"import tip_kernels took {{(time.perf_counter() - start) * 1e3:.0f}} ms after torch")
new = set(sys.modules) - before
heavy = [name for name in {HEAVY} if any(module == name or module.startswith(name + ".") for module in new)]
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    print(run.stdout, end="")
