"""bench/privacy/study/patience.py: what more work gives an attacker."""

import pytest

from bench import paths
from bench.privacy.attacker.inversion import Search
from bench.privacy.commands.study import kept
from bench.privacy.study import patience
from bench.privacy.study.cases import WORLDS, cases
from bench.privacy.study.jobs import Ceilings, Effort, Place
from bench.privacy.study.ledger import Figures
from bench.privacy.study.patience import Answer

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


def test_asks_of_all_worlds_with_noise_on_everything():
    asked = patience.questions(kept(paths.PRIVACY_RESULTS).rows)
    assert len(asked) == 38
    assert {question.attacker for question in asked} == set(patience.ATTACKERS)
    for question in asked:
        settings = cases()[question.table][question.defense].attacks(None)[question.attacker].settings
        assert sum(Figures(one) == question.setting for one in settings) == 1


def test_an_answer_has_both_searches(monkeypatch):
    monkeypatch.setattr(patience, "PATIENT", Search(iterations=40, restarts=2))
    attack = cases()[WORLDS]["DP, batch norm"].attacks(None)["posterior mean"]
    question = patience.Question(WORLDS, "DP, batch norm", "posterior mean", Figures(attack.settings[0]))
    found = patience.answer(question, (Effort("photos", 20, 1, 1), Place("cpu", None)))
    assert (found[:3], found.iterations, found.restarts) == (question[:3], 40, 2)
    assert len(found.before) == len(found.after) == 4  # photos
    assert found.before != found.after


def test_the_table_has_medians_over_the_images_that_both_have():
    answer = Answer(WORLDS, "DP, ReLU", "posterior mean", 40, 2, Figures([10, 11, 15]), Figures([12, 13, 18]), 1.0)
    ceilings = [Ceilings(WORLDS, "DP, ReLU", "cifar10", Figures([20, 21, 22, 99]), Figures([1]), 1.0)]
    assert patience.markdown([answer], ceilings).splitlines()[2:] == [
        "| DP, ReLU | 21.0 dB | posterior mean | 11.0 dB | 13.0 dB |"
    ]


def test_answers_of_other_work_are_asked_again():
    answer = Answer(WORLDS, "DP, ReLU", "posterior mean", 1500, 4, Figures([1]), Figures([2]), 1.0)
    assert patience.is_current(answer)
    assert not patience.is_current(answer._replace(iterations=40))
    assert not patience.is_current(answer._replace(restarts=1))
