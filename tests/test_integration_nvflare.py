"""The filter for NVFlare: what it makes of updates and weights, scores and the budget."""

import logging

import numpy as np
import pytest
import torch

pytest.importorskip("nvflare")

from nvflare.apis.dxo import DataKind
from nvflare.apis.filter import ContentBlockedException
from nvflare_client import EXCHANGES, KEY, SETTINGS, Net, an_update, as_numpy, as_torch, equal, weights_of

from tip_kernels import TIP, NoiseRNG
from tip_kernels.integrations import nvflare as integration

pytest_plugins = "nvflare_client"
pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:no Grad-CAM scores for conv.weight:RuntimeWarning"),
]


# What it perturbs


@EXCHANGES
def test_an_update(client, exchanged):
    update = an_update()
    given = exchanged(update)
    sent = client().send(DataKind.WEIGHT_DIFF, given)
    assert equal(given, update)  # what the training has is as it was
    TIP(Net(), **SETTINGS, rng=NoiseRNG(KEY)).perturb_update(update)
    assert sent.data_kind == DataKind.WEIGHT_DIFF
    assert equal(sent.data, update)
    assert {type(value) for value in sent.data.values()} == {type(given["conv.weight"])}
    assert sent.get_filter_history() == ["TIPFilter"]


@EXCHANGES
@pytest.mark.parametrize("counts", [torch.int64, torch.float32, torch.float64])
def test_weights(client, exchanged, counts):
    received = weights_of(Net())
    received["norm.num_batches_tracked"] = received["norm.num_batches_tracked"].to(counts)
    update = an_update()
    weights = {name: value + update[name].to(value.dtype) for name, value in received.items()}
    one = client()
    comes, goes = exchanged(received), exchanged(weights)
    one.receive(comes)
    for value in comes.values():  # training may go on in the memory that came
        value[...] = 7
    sent = one.send(DataKind.WEIGHTS, goes)
    assert equal(goes, weights)
    TIP(Net(), **SETTINGS, rng=NoiseRNG(KEY)).perturb_weights(weights, received)
    assert sent.data_kind == DataKind.WEIGHTS
    assert equal(sent.data, weights)
    assert weights["norm.num_batches_tracked"].dtype == counts


def test_numpy_scalars_stay_scalars(client):
    update = as_numpy(an_update()) | {"norm.num_batches_tracked": np.float64(24.0)}  # as an average gives them
    sent = client().send(DataKind.WEIGHT_DIFF, update)
    assert isinstance(sent.data["norm.num_batches_tracked"], np.float64)
    assert sent.data["norm.num_batches_tracked"] == 24


def test_bfloat16(client):
    update = {name: value.to(torch.bfloat16) for name, value in an_update().items() if value.is_floating_point()}
    sent = client().send(DataKind.WEIGHT_DIFF, as_torch(update))
    TIP(Net(), **SETTINGS, rng=NoiseRNG(KEY)).perturb_update(update)
    assert equal(sent.data, update)


def test_names_that_another_filter_has_taken_out(client):
    received = weights_of(Net())
    weights = {"conv.weight": received["conv.weight"] + 1}
    one = client()
    one.receive(as_torch(received))
    sent = one.send(DataKind.WEIGHTS, as_torch(weights))
    TIP(Net(), **SETTINGS, rng=NoiseRNG(KEY)).perturb_weights(weights, {"conv.weight": received["conv.weight"]})
    assert equal(sent.data, weights)


def test_model_arguments_and_plain_metadata(client):
    one = client(model_args={"classes": 2}, settings={**SETTINGS, "std": {"conv.weight": 0.1}})
    meta = {"NUM_STEPS_CURRENT_ROUND": 3, "initial_metrics": {"accuracy": np.float32(0.5), "by_class": [0.5, None]}}
    sent = one.send(DataKind.WEIGHT_DIFF, {"head.bias": np.zeros(2, np.float32)}, meta)
    assert sent.data["head.bias"].any()
    assert {key: sent.meta[key] for key in meta} == meta


def test_noise_of_two_rounds_differs(client):
    one = client()
    first = one.send(DataKind.WEIGHT_DIFF, as_numpy(an_update()))
    one.receive(None)
    second = one.send(DataKind.WEIGHT_DIFF, as_numpy(an_update()))
    assert not np.array_equal(first.data["norm.weight"], second.data["norm.weight"])


# Scores


def test_scores_of_the_training(client):
    scores = {"conv.weight": torch.tensor([4.0, 1.0, 3.0, 2.0])}
    one = client(settings={"ratio": 0.5, "std": 0.1})
    integration.set_scores(scores)
    zeros = {"conv.weight": np.zeros((4, 3, 3, 3), np.float32)}
    sent = one.send(DataKind.WEIGHT_DIFF, zeros)
    assert sent.data["conv.weight"].any(axis=(1, 2, 3)).tolist() == [True, False, True, False]
    one.receive(None)
    with pytest.warns(match="no Grad-CAM scores for conv.weight"):  # they serve once
        sent = one.send(DataKind.WEIGHT_DIFF, zeros)
    assert sent.data["conv.weight"].any(axis=(1, 2, 3)).all()


def test_scores_for_another_model(client):
    one = client()
    integration.set_scores({"head.weight": torch.zeros(5)})
    with pytest.raises(ContentBlockedException, match=r"the model's conv kernels, got 'head.weight'"):
        one.send(DataKind.WEIGHT_DIFF, an_update())


@EXCHANGES
@pytest.mark.parametrize("kind", [DataKind.WEIGHT_DIFF, DataKind.WEIGHTS])
def test_probe_images_are_measured_with_what_was_received(client, tmp_path, exchanged, kind):
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    np.savez(tmp_path / "probe.npz", images=images.numpy(), labels=labels.numpy())
    one = client(probe=str(tmp_path / "probe.npz"), settings={**SETTINGS, "scores": "public"})
    model = Net()
    defense = TIP(model, **SETTINGS, scores="public", rng=NoiseRNG(KEY))
    for _ in range(2):
        torch.nn.init.normal_(model.conv.weight)
        received, update = weights_of(model), an_update()
        received["norm.num_batches_tracked"] = torch.tensor(24.0)
        weights = {name: value + update[name] for name, value in received.items()}
        one.receive(exchanged(received))
        sent = one.send(kind, exchanged(update if kind == DataKind.WEIGHT_DIFF else weights))
        defense.measure(images, labels)
        if kind == DataKind.WEIGHT_DIFF:
            defense.perturb_update(update)
        else:
            defense.perturb_weights(weights, received)
        assert equal(sent.data, update if kind == DataKind.WEIGHT_DIFF else weights)


def test_probe_images_and_scores(client, tmp_path):
    one = client(probe=str(tmp_path / "probe.npz"))
    integration.set_scores({"conv.weight": torch.zeros(4)})
    with pytest.raises(ContentBlockedException, match=r"probe images or set_scores\(\), got both"):
        one.send(DataKind.WEIGHT_DIFF, an_update())


# The budget


class Budget:
    """The interface of the one that tip_kernels.budget has; two messages are allowed."""

    def __init__(self, epsilon, delta, *, path) -> None:
        self.given, self.messages = (epsilon, delta, path), 0

    def count(self) -> None:
        if self.messages == 2:
            raise RuntimeError("the budget is used up")
        self.messages += 1

    def spent(self) -> float:
        return 1.5 * self.messages


class Counted(TIP):
    """Takes a budget, and counts before anything changes."""

    def __init__(self, model, *, budget, **settings) -> None:
        self._counted = budget
        super().__init__(model, **settings, rng=NoiseRNG(KEY))

    def perturb_update(self, update) -> None:
        self._counted.count()
        super().perturb_update(update)


@pytest.mark.parametrize("reports", [False, True])
def test_a_budget(client, monkeypatch, tmp_path, caplog, reports):
    monkeypatch.setattr(integration, "PrivacyBudget", Budget)
    one = client(epsilon=3.0, delta=1e-5, report_epsilon=reports)
    monkeypatch.setattr(integration, "TIP", Counted)
    for message in (1, 2):
        one.receive(None)
        with caplog.at_level(logging.INFO):
            sent = one.send(DataKind.WEIGHT_DIFF, as_numpy(an_update()))
        assert f"TIP: epsilon {1.5 * message:g} of 3 spent by {message} messages" in caplog.text
        assert sent.get_meta_prop("tip_epsilon") == (1.5 * message if reports else None)
    assert one.result._budget.given == (3.0, 1e-5, tmp_path / "tip_budget.json")
    with pytest.raises(ContentBlockedException, match="the budget is used up"):
        one.send(DataKind.WEIGHT_DIFF, as_numpy(an_update()))


def test_the_budget_of_the_package(client, tmp_path):
    settings = {"ratio": 1.0, "std": 4.0, "floor_std": 4.0, "max_grad_norm": 1.0, "scores": "public"}
    one = client(epsilon=2.0, delta=1e-5, settings=settings)
    one.send(DataKind.WEIGHT_DIFF, as_numpy(an_update()))
    assert (tmp_path / "tip_budget.json").exists()
    send_many = (one.send(DataKind.WEIGHT_DIFF, as_numpy(an_update())) for _ in range(100))
    with pytest.raises(ContentBlockedException, match="BudgetExceeded"):
        list(send_many)
