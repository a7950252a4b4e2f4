"""``python -m tip_kernels epsilon``: what calibration and TIP say, both ways, and never rounded down."""

import importlib.metadata
import json
import math
import re
import sys

import pytest
from torch import nn

import tip_kernels as tip
from tip_kernels import calibration
from tip_kernels.__main__ import main
from tip_kernels._commands import epsilon

MESSAGES = "--delta 1e-5 --rounds 50"


def run(capsys, text: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    code = main(["epsilon", *text.split()])
    return code, *capsys.readouterr()


def found_in(capsys, text: str) -> dict:
    code, out, err = run(capsys, f"{MESSAGES} --json {text}")
    assert (code, err) == (0, "")
    return json.loads(out)


def refusal(capsys, text: str) -> str:
    code, out, err = run(capsys, f"{MESSAGES} --json {text}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    return err


def of_a_tip(multiplier: float, options: dict, **accounted) -> float:
    """What the library says of a TIP with this noise."""
    defense = tip.TIP(
        nn.Conv2d(1, 1, 3), scores="public", std=multiplier, floor_std=multiplier, max_grad_norm=1.0, **options
    )
    return calibration.accounted_epsilon(defense, rounds=50, delta=1e-5, **accounted)


@pytest.mark.parametrize(
    ("text", "options", "accounted"),
    [
        ("", {}, {}),
        ("--shares 10 --honest 7", {"shares": 10, "honest": 7}, {}),
        ("--relation replace", {}, {"relation": "replace"}),
        ("--sampling-probability 0.5", {}, {"sampling_probability": 0.5}),
    ],
)
def test_both_ways_are_the_librarys(capsys, text, options, accounted):
    found = found_in(capsys, f"--noise-multiplier 4 {text}")
    assert found["epsilon"] == pytest.approx(of_a_tip(4.0, options, **accounted), rel=1e-9)
    back = found_in(capsys, f"--epsilon {found['epsilon']!r} {text}")
    assert back["noise_multiplier"] == pytest.approx(4.0, rel=2e-4)
    assert back["epsilon"] <= found["epsilon"]
    share = math.sqrt(options.get("honest", 1) / options.get("shares", 1))
    assert back["guaranteed_noise_multiplier"] == pytest.approx(back["noise_multiplier"] * share)
    assert of_a_tip(back["noise_multiplier"], options, **accounted) <= found["epsilon"] * (1 + 1e-9)


def test_text_has_noise_that_keeps_to_the_target(capsys):
    code, text, _ = run(capsys, f"{MESSAGES} --epsilon 3 --shares 4 --honest 3")
    assert code == 0
    given = float(re.search(r"std=(\S+) \* C, floor_std=\1 \* C, max_grad_norm=C, shares=4, honest=3\)", text)[1])
    assert of_a_tip(given, {"shares": 4, "honest": 3}) <= 3
    assert float(re.match(r"epsilon  (\S+) at delta 1e-05, of 50 messages\n", text)[1]) <= 3
    assert "sums of 4 messages of equal weights, and 3 of them add noise that nobody else knows" in text


@pytest.mark.parametrize(
    ("value", "text"), [(1.00001, "1.0001"), (5.4313, "5.4313"), (1e-5, "0.00001"), (math.inf, "infinite"), (0.0, "0")]
)
def test_numbers_are_rounded_up(value, text):
    assert epsilon._up(value) == text


def test_what_is_assumed(capsys):
    plain = found_in(capsys, "--noise-multiplier 4")["assumes"]
    assert "can tell its messages from messages of zeros, not single records; each message is clipped to C" in plain
    assert "sums" not in plain
    sampled = found_in(capsys, "--noise-multiplier 4 --sampling-probability 0.5 --relation replace")["assumes"]
    assert "can tell any two series of messages apart" in sampled
    assert "who takes part stays hidden: clients that are not drawn send zeros" in sampled


def test_a_delta_too_small_for_the_words_is_told(capsys):
    assert found_in(capsys, "--noise-multiplier 4")["warnings"] == []
    (warning,) = found_in(capsys, "--noise-multiplier 4 --numbers 11000000")["warnings"]
    assert "expected delta of at least 0.0075, got 1e-05" in warning
    assert (
        "warning  expected delta of at least" in run(capsys, f"{MESSAGES} --noise-multiplier 4 --numbers 11000000")[1]
    )


def test_an_epsilon_beyond_floats(capsys):
    assert found_in(capsys, "--noise-multiplier 1e-5")["epsilon"] is None
    assert run(capsys, f"{MESSAGES} --noise-multiplier 1e-5")[1].startswith("epsilon  infinite at delta 1e-05")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one of the arguments --noise-multiplier --epsilon is required"),
        ("--epsilon 1 --noise-multiplier 1", "not allowed with argument"),
        ("--epsilon 0", "expected epsilon to be positive and finite, got 0.0"),
        ("--epsilon nan", "expected epsilon to be positive and finite, got nan"),
        ("--epsilon 1e300", "expected numbers that the accountant's floats can hold"),
        ("--noise-multiplier 0", "expected --noise-multiplier to be positive and finite, got 0.0"),
        ("--noise-multiplier inf", "expected --noise-multiplier to be positive and finite, got inf"),
        ("--noise-multiplier 1e-300", "expected numbers that the accountant's floats can hold"),
        ("--noise-multiplier 1 --delta 1", "expected delta in (0, 1), got 1.0"),
        ("--noise-multiplier 1 --delta nan", "expected delta in (0, 1), got nan"),
        ("--noise-multiplier 1 --rounds 0", "expected rounds to be a positive integer, got 0"),
        ("--noise-multiplier 1 --rounds 1e3", "argument --rounds: invalid int value: '1e3'"),
        (f"--noise-multiplier 1 --rounds 1{'0' * 400}", "expected numbers that the accountant's floats can hold"),
        ("--noise-multiplier 1 --sampling-probability 0", "expected sampling_probability in (0, 1], got 0.0"),
        ("--noise-multiplier 1 --shares 0", "expected shares to be at least 1, got 0"),
        ("--noise-multiplier 1 --shares 4", "expected --honest to say how many of the 4 shares"),
        ("--noise-multiplier 1 --honest 2", "expected honest in [1, 1], of the shares, got 2"),
        ("--noise-multiplier 1 --shares 4 --honest 5", "expected honest in [1, 4], of the shares, got 5"),
        (f"--noise-multiplier 1 --shares 1{'0' * 400} --honest 1", "the accountant's floats can hold"),
        ("--noise-multiplier 1 --relation other", "argument --relation: invalid choice: 'other'"),
        ("--noise-multiplier 1 --numbers 0", "expected --numbers to be at least 1, got 0"),
    ],
)
def test_options_that_are_refused(capsys, text, said):
    assert said in refusal(capsys, text)


def test_what_has_no_default(capsys):
    assert main(["epsilon", "--epsilon", "1"]) == 2
    assert "the following arguments are required: --delta, --rounds" in capsys.readouterr().err


def test_without_the_accountant(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "dp_accounting", None)
        said = refusal(capsys, "--epsilon 1")
        assert "accounting needs dp-accounting, which is not installed: pip install dp-accounting, or tip_ker" in said
        assert "with the extra [accounting]" in said
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "0.4.3")
    assert "expected dp-accounting 0.5 or newer, got 0.4.3" in refusal(capsys, "--epsilon 1")
