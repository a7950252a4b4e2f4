"""docs/commands.md: what it shows is what the commands print, and it names every key of their JSON."""

import json
import pathlib
import re
import sys

import pytest
import torch

from tip_kernels.__main__ import COMMANDS, main

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "commands.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
EXAMPLES = {
    name: re.search(r"^    \$ tip-kernels(.*)\n((?:    .*\n|\n)*)", text, re.M) for name, text in SECTIONS.items()
}
ROWS = ("backends", "devices", "kernels", "others", "all", "time", "images")
"""What in an object of JSON has keys of its own that the page names."""

pytestmark = pytest.mark.usefixtures("one_thread", "working_folder")


@pytest.fixture
def working_folder(tmp_path, monkeypatch) -> None:
    """The current folder, with the page's module of nets and photos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("nets", None)
    (tmp_path / "nets.py").write_text(re.search(r"^```python\n(.*?)^```", PAGE, re.M | re.S)[1])
    yield
    sys.modules.pop("nets", None)


def printed(capsys, line: str) -> str:
    assert main(line.split()) == 0
    return capsys.readouterr().out


def lines_of(text: str) -> list[str]:
    """First words of lines that are not continued ones."""
    return [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith(" " * 8)]


def test_every_command_has_a_section_and_a_line_in_the_table():
    assert set(SECTIONS) == set(COMMANDS) == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M))


@pytest.mark.parametrize("name", ["plan", "epsilon"])
def test_examples_print_what_the_page_shows(capsys, name):
    if name == "epsilon":
        pytest.importorskip("dp_accounting")
    line, shown = EXAMPLES[name].groups()
    out = printed(capsys, line)
    measured = re.compile(r"(?<=time )\s+\S+ ms a call, .*")
    assert measured.sub("", shown).split() == measured.sub("", out).split()
    assert bool(measured.search(shown)) == bool(measured.search(out)) == (name == "plan")


def test_the_table_of_backends_has_the_page_s_rows(capsys):
    line, shown = EXAMPLES["backends"].groups()
    without_margin = "\n".join(text.removeprefix("    ") for text in shown.splitlines())
    assert lines_of(printed(capsys, line)) == lines_of(without_margin)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_names_every_key(capsys, name):
    line = EXAMPLES[name][1]
    if name == "backends":
        line = "backends"
    if name == "epsilon":
        pytest.importorskip("dp_accounting")
    if name == "audit":
        image = pytest.importorskip("PIL.Image")
        pytest.importorskip("matplotlib")
        pathlib.Path("photos").mkdir()
        for number in range(2):
            pixels = torch.randint(0, 256, (6, 6, 3), generator=torch.Generator().manual_seed(number))
            image.fromarray(pixels.byte().numpy()).save(f"photos/{number}.png")
        line += " --labels 0 --per-message 2 --no-picture"
    found = json.loads(printed(capsys, f"{line} --json"))
    documented = set(re.findall(r"`(\w+)`", SECTIONS[name].partition("\nJSON: ")[2]))
    parts = [found[name] for name in ROWS if found.get(name)]
    rows = [row for part in parts for row in (part if isinstance(part, list) else [part])]
    assert set(found) | {key for row in rows for key in row} == documented
