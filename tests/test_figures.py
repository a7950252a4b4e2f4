"""Every image that a page shows comes from ``python -m bench.figures``, which measures nothing."""

import pathlib
import re

import pytest

pytest.importorskip("dp_accounting")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench import figures as every_figure
from bench.privacy import figures
from bench.privacy.federated import curves
from bench.privacy.study import by_defense, ledger
from bench.privacy.study.cases import EQUAL
from bench.privacy.study.jobs import Cost, Row
from bench.privacy.study.ledger import Figures

ROOT = pathlib.Path(__file__).resolve().parent.parent


def shown() -> set[str]:
    """Paths of the images of README and docs/, from the project's folder."""
    found = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"!\[[^\]]*\]\(([^)\s]+)|<img[^>]*src=\"([^\"]+)", page.read_text()):
            found.add(str((page.parent / "".join(link)).resolve().relative_to(ROOT)))
    return found


def test_every_image_of_a_page_is_drawn_and_there():
    assert len(shown()) >= 5, "nothing found: the pattern is wrong"
    assert shown() <= set(every_figure.FIGURES)
    assert all((ROOT / name).is_file() for name in every_figure.FIGURES)


def test_every_figure_is_drawn_without_measuring(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a figure measures something")

    monkeypatch.setattr(ledger, "work", refuse)
    every_figure.main(["--root", str(tmp_path)])
    for name in every_figure.FIGURES:
        drawn, kept = ((root / name).read_bytes() for root in (tmp_path, ROOT))
        assert drawn[:4] == b"\x89PNG"
        # Width and height, which tell of other contents; letters depend on the version of Matplotlib.
        assert drawn[16:24] == kept[16:24], f"{name} is not what make figures draws"


def test_lines_of_defenses_have_the_figures_of_the_table():
    def row(defense, attacker, tuned, *psnr):
        return Row(EQUAL, defense, attacker, "photos", 9, 1, 1, "1", tuned, 4, Figures(psnr), Figures(psnr), 1.0)

    rows = [
        row("none", "naive", 30.0, 30.0, 31.0, 33.0, 34.0),
        row("TIP 0.3", "naive", 14.0, 14.0, 15.0, 15.0, 16.0),
        row("TIP 0.3", "spectral", 25.0, 24.0, 25.0, 26.0, 28.0),
    ]
    figure = by_defense.draw(rows, [Cost(EQUAL, "none", 97.5, 1.0), Cost(EQUAL, "TIP 0.3", 90.0, 1.0)])
    privacy, utility = figure.axes
    assert [label.get_text() for label in privacy.get_yticklabels()] == ["TIP 0.3", "none"]
    dots = [line.get_xdata()[0] for line in privacy.lines if line.get_marker() == "o"]
    assert dots == [15.0, 25.5, 32.0, 32.0]  # naive, strongest, of each
    assert [line.get_xdata()[0] for line in utility.lines if line.get_marker() == "s"] == [90.0, 97.5]
    low, high = utility.collections[0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((87.1, 92.3), abs=0.1)  # Wilson's for 324 of 360


def test_labels_are_spread_and_stay_near():
    assert figures.spread([3.0, 1.0], 1.0) == [3.0, 1.0]
    assert figures.spread([1.0, 1.2, 5.0], 1.0) == pytest.approx([0.6, 1.6, 5.0])
    # What is pushed against a neighbor becomes one run with it.
    assert figures.spread([2.0, 0.0, 0.1, 0.2], 1.0) == pytest.approx([2.075, -0.925, 0.075, 1.075])


def test_curves_are_read_as_they_were_written(tmp_path):
    kept = {"none": [(0, 8.9), (1, 40.0)], "tip": [(0, 8.9), (1, 39.5)]}
    curves.save(kept, tmp_path / "curves.csv", "python -m this")
    assert curves.load(tmp_path / "curves.csv") == (kept, "python -m this")
