"""The study's bookkeeping: nothing is run twice, and the strongest attacker is the one that is shown."""

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from bench.privacy import attackers, study

ROWS = [
    study.Row("none", "naive", 0.01, 31.5, 32.0, 0.95, 97.5),
    study.Row("TIP", "naive", 1.0, 15.0, 16.0, 0.35, 97.0),
    study.Row("TIP", "spectral", 0.01, 27.0, 29.0, 0.8, 97.0),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "TABLE", tmp_path / "privacy.csv")
    monkeypatch.setattr(study, "PAGE", tmp_path / "privacy.md")
    return tmp_path


def test_rows_survive_a_restart():
    assert study.load() == []
    study.save(ROWS)
    assert study.load() == ROWS


def test_strongest_attacker_is_shown():
    assert study.worst(ROWS) == [ROWS[0], ROWS[2]]
    line = study.markdown(ROWS).splitlines()[-1]
    assert line == "| TIP | 15.0 dB | 27.0 dB | spectral | 29.0 dB | 0.80 | 97.0 % |"


def test_only_the_table_of_the_page_is_replaced(folder):
    page = folder / "privacy.md"
    page.write_text("before\n<!-- study begins -->\nold\n<!-- study ends -->\nafter\n")
    study.publish("new")
    assert page.read_text() == "before\n<!-- study begins -->\nnew\n<!-- study ends -->\nafter\n"


def test_smoothing_is_tuned_on_the_image_that_is_not_scored(monkeypatch):
    asked = []

    def score(model, defence, attacker, photos, seeds, smoothings, search):
        asked.extend(photos)
        return [(-abs(smoothing - 0.3), 0.0) for smoothing in smoothings]

    monkeypatch.setattr(study, "score", score)
    assert study.tune(None, None, attackers.naive, None) == 0.3
    assert not set(asked) & set(study.SCORED)


def test_every_defence_meets_an_attacker_that_knows_it():
    exempt = {"none", "DP, std 0.02", "DP, std 0.05"}  # all coefficients alike: nothing to know
    for name, case in study.cases().items():
        assert bool(case.informed) == (name not in exempt)
