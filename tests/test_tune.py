"""Choosing settings: the grid, the front and the advice, and that nothing is measured twice."""

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench.privacy import __main__ as command
from bench.privacy.study import evaluate, ledger, tuning


def row(floor_std, ceiling, accuracy, ratio=0.3):
    return tuning.Row(ratio, 0.5, 0.02, floor_std, 20, ceiling, accuracy, 1.0)


EXACT = row(0.0, 31.0, 97.5)
WORSE = row(0.005, 20.0, 95.0)
GOOD = row(0.01, 15.0, 97.0)
TIED = row(0.015, 14.0, 97.0)
HARD = row(0.02, 12.0, 90.0)
ROWS = [EXACT, WORSE, GOOD, TIED, HARD]


def test_the_front_is_what_no_other_beats():
    assert tuning.front(ROWS) == [HARD, TIED, EXACT]
    assert tuning.front([GOOD, GOOD]) == [GOOD, GOOD]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (15.0, "For 15 dB: TIP ratio 0.3, cutoff 0.5, std 0.02, floor 0.015, with 97.0 % accuracy, ceiling 14.0 dB."),
        (12.5, "For 12.5 dB: TIP ratio 0.3, cutoff 0.5, std 0.02, floor 0.02, with 90.0 % accuracy, ceiling 12.0 dB."),
        (40.0, "For 40 dB: TIP ratio 0.3, cutoff 0.5, std 0.02, floor 0, with 97.5 % accuracy, ceiling 31.0 dB."),
        (
            10.0,
            "No setting's ceiling holds 10 dB. The closest: TIP ratio 0.3, cutoff 0.5, std 0.02, floor 0.02, 12.0 dB.",
        ),
    ],
)
def test_advice(target, text):
    assert tuning.advice(ROWS, target) == text


def test_nothing_is_in_the_grid_twice():
    grid = tuning.grid([0.0, 0.3], [0.5, 0.75], [0.02, 0.05], [0.0, 0.01])
    assert len(grid) == len(set(grid)) == 2 + 8
    assert [setting for setting in grid if not setting.ratio] == [(0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.01)]


def test_rows_survive_a_restart(tmp_path):
    path = tmp_path / "results" / "tune.csv"
    assert ledger.load(tuning.Row, path) == []
    tuning.save(ROWS[::-1], path)
    assert ledger.load(tuning.Row, path) == ROWS


def test_what_was_measured_is_not_measured_again_and_the_front_is_attacked(tmp_path, monkeypatch, capsys):
    asked = []

    def work(measure, todo, effort, workers):
        for setting in todo:
            asked.append((measure.__name__, setting.floor_std))
            if measure is tuning.measure:
                yield tuning.Row(*setting, effort, 30.0 - 1000 * setting.floor_std, 97.0, 1.0)
            else:
                yield tuning.Confirmed(*setting, effort, "spectral", 28.0 - 1000 * setting.floor_std, 1.0)

    monkeypatch.setattr(ledger, "work", work)
    arguments = ["tune", "--ratios", "0.3", "--cutoffs", "0.5", "--stds", "0.02"]
    arguments += ["--target-psnr", "15", "--results", str(tmp_path)]
    command.main([*arguments, "--floors", "0"])
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- settings: begins -->\n<!-- settings: ends -->\n")
    command.main([*arguments, "--floors", "0,0.02", "--page", str(page)])
    # As accurate and more private, the second is the front alone.
    assert asked == [("measure", 0.0), ("confirm", 0.0), ("measure", 0.02), ("confirm", 0.02)]
    assert "For 15 dB: TIP ratio 0.3, cutoff 0.5, std 0.02, floor 0.02, with 97.0 %" in capsys.readouterr().out
    line = "| TIP ratio 0.3, cutoff 0.5, std 0.02, floor 0.02 | 10.0 dB | 8.0 dB | spectral | 97.0 % |"
    assert line in page.read_text()
    assert (tmp_path / "tune.png").stat().st_size > 0
    del asked[:]
    command.main([*arguments, "--floors", "0", "--epochs", "1"])  # another effort, other figures
    assert asked == [("measure", 0.0)]


def test_the_attacker_that_is_strongest_on_other_images_counts(monkeypatch):
    """Each is better than those before on the images for tuning, and worse on those that are scored."""
    rank = {name: place for place, name in enumerate(tuning.attackers())}
    outcomes = {name: evaluate.Outcome((0.1,), 10.0 + place, [20.0 - place], [0.5]) for name, place in rank.items()}
    monkeypatch.setattr(tuning, "attackers", lambda: {name: name for name in rank})
    monkeypatch.setattr(evaluate, "outcome", lambda scene, defense, attacker, search: outcomes[attacker])
    confirmed = tuning.confirm(tuning.Setting(0.3, 0.5, 0.02, 0.01), 1)
    assert confirmed[:-1] == (0.3, 0.5, 0.02, 0.01, 1, "posterior mean", 20.0 - len(rank) + 1)


@pytest.mark.parametrize("setting", [(0.3, 0.5, 0.02, 0.05), (0.0, 0.0, 0.0, 0.05)])
def test_a_setting_is_audited_and_trained(setting):
    measured = tuning.measure(tuning.Setting(*setting), 1)
    assert measured[:5] == (*setting, 1)
    assert 12 < measured.ceiling < 25  # dB: more than without a message, less than all
    assert 0 <= measured.accuracy <= 100
