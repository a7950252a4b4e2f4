"""The pages for users are true: their code runs, what they name exists, and their tables are those of the package.

README.md is in test_readme.py, docs/architecture.md in test_architecture.py.
"""

import doctest
import inspect
import pathlib
import re
import warnings

import pytest

import tip_kernels
from tip_kernels import TIP

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE = ("quickstart", "settings", "mathematics", "faq")
"""Pages all of whose code runs."""
PROSE = [*(ROOT / "docs" / f"{name}.md" for name in (*CODE, "index", "reference")), ROOT / "CONTRIBUTING.md"]
FOLDERS = ("tip_kernels", "csrc", "bench", "tests", "examples")
INSIDE = [path for folder in FOLDERS for end in ("py", "h", "cpp", "cu") for path in (ROOT / folder).rglob(f"*.{end}")]
SOURCES = [*INSIDE, ROOT / "setup.py", ROOT / "Makefile", ROOT / "pyproject.toml"]
TEXT = "\n".join(path.read_text() for path in SOURCES if path.name != "test_pages.py")


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


SLOW = "tip_kernels runs on its slow reference backend"


@pytest.mark.filterwarnings(f"ignore:{SLOW}")
@pytest.mark.parametrize("name", CODE)
def test_every_block_runs_in_order(name):
    names: dict[str, object] = {}
    found = blocks(page(name), "python")
    for block in found:
        exec(compile(block, f"docs/{name}.md", "exec"), names)
    assert found or name == "faq"


def run_session(text: str) -> str:
    """What a session of Python printed that it does not say itself; warnings are errors."""
    flags = doctest.NORMALIZE_WHITESPACE
    session = doctest.DocTestParser().get_doctest(text, {}, "page", None, 0)
    report: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", SLOW)  # where no compiler is
        doctest.DocTestRunner(optionflags=flags).run(session, out=report.append)
    return "".join(report)


def test_sessions_of_the_questions_are_true():
    text = "".join(blocks(page("faq"), "pycon"))
    assert text.count("Traceback") >= 12
    assert run_session(text) == ""


def test_a_wrong_message_is_noticed():
    session = ">>> raise ValueError('one')\nTraceback (most recent call last):\nValueError: two\n"
    assert "Expected" in run_session(session)


def test_every_quoted_message_is_the_packages():
    """Messages in headings, also those that no example raises. In the sources they may be broken into strings."""
    package = "\n".join(path.read_text() for path in (ROOT / "tip_kernels").rglob("*.py"))
    joined = re.sub(r"\"\s*f?\"", "", package)
    quoted = re.findall(r"^### \"(.+?)\"", page("faq"), re.MULTILINE)
    assert len(quoted) >= 15
    for message in quoted:
        pattern = re.escape(message).replace("0\\.01", r"(0\.01|\{DEFAULT_STD\})").replace("'", "['\"]")
        assert re.search(pattern, joined), message


def test_settings_are_those_of_the_class():
    table = page("settings").split("settings of TIP:")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE)
    parameters = inspect.signature(TIP).parameters
    expected = {name: repr(parameter.default) for name, parameter in parameters.items() if name != "model"}
    assert dict(rows) == expected | {"std": "0.01"}  # None in the signature, so that a missing one can be warned of


def undefined_names(text: str) -> set[str]:
    """Names in backquotes, outside of blocks, that are in no source; of dotted ones every part."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", prose)
    words = {word for span in spans for word in re.findall(r"(?<![\w-])[A-Za-z_]\w+", span)}
    return {word for word in words if not re.search(rf"\b{word}\b", TEXT)}


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_what_is_in_backquotes_exists(path):
    assert not undefined_names(path.read_text())


def test_a_name_that_is_gone_is_noticed():
    assert undefined_names("`tip.perturb_`, `TIP(no_such_option=1)`\n```python\ngone\n```\n") == {"no_such_option"}


PIP = {"--no-build-isolation"}
"""Options of other programs."""


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_options_and_extras_exist(path):
    for option in re.findall(r"(?<=[ `])--[a-z][\w-]+", path.read_text()):
        assert f'"{option}"' in TEXT or option in PIP, option
    for extra in re.findall(r"\[([a-z]+)\]'", path.read_text()):
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), extra


def test_every_public_name_is_in_the_reference():
    directive = r"^\.\. auto(?:class|function|exception):: tip_kernels\.([\w.]+)"
    named = set(re.findall(directive, page("reference"), re.MULTILINE))
    modules = ("audit", "calibration", "spectrum", "viz")
    assert {name for name in tip_kernels.__all__ if name not in modules} <= named
    for name in modules:
        module = __import__(f"tip_kernels.{name}", fromlist=["_"])
        public = getattr(module, "__all__", None) or [
            key for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
        ]  # fmt: skip
        assert {f"{name}.{key}" for key in public} <= named, name
