"""What the demo says follows from its figures."""

import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from examples import demo


def conclusion(*psnr: float, price: float = 0.01) -> tuple[str, str]:
    trained = {"no defense": demo.Trained(0.97, 1.0), "TIP with floor": demo.Trained(0.97 - price, 1.0)}
    return demo.conclusion(dict(zip("abcd", psnr, strict=True)), trained)


def test_demo_concludes_from_its_figures():
    first, second = conclusion(30, 15, 24, 12)
    assert "costs a naive attacker 15.0 dB, but" in first
    assert "9.0 dB back" in first
    assert "leaves one who knows photos 12.0 dB and costs 1.0 points" in second
    assert "a louder one: one who knows photos still gets 14.0 dB" in conclusion(30, 15, 24, 14)[1]
    assert "hardly hinders" in conclusion(30, 28, 29, 12)[0]
    assert "no more than 1.0 dB back" in conclusion(30, 15, 16, 12)[0]
    assert "too small" in conclusion(30, 15, 24, 23)[1]
    assert "costs no accuracy" in conclusion(30, 15, 24, 12, price=-0.01)[1]
