"""What TIPMod keeps in a client's context: the step, and the budget that has been spent."""

import json
import logging

import pytest
import torch

from tip_kernels import TIP, PrivacyBudget, rng

pytest.importorskip("flwr")

from flower_client import (
    PUBLIC,
    SETTINGS,
    app_that_sends,
    assert_refused,
    context,
    exchange,
    net,
    refuse,
    reply_content,
    request,
    trained,
    weights,
)
from flwr.app import MetricRecord, RecordDict

from tip_kernels.integrations import flower
from tip_kernels.integrations.flower import TIPMod, to_record

pytest_plugins = "flower_client"
pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:no Grad-CAM scores:RuntimeWarning"),
]


def test_the_step_goes_on_in_the_context():
    received, state = weights(), RecordDict()
    for count in (1, 2, 3):
        exchange(TIPMod(net, **SETTINGS), received, trained(received), context(state))  # another process each time
        assert json.loads(state[flower.STATE]["tip"])["rng"]["step"] == count


def test_the_key_is_in_neither_context_nor_reply(monkeypatch):
    key = bytes(range(100, 132))
    monkeypatch.setattr(rng.os, "urandom", lambda count: key[:count])
    received, ctxt = weights(), context()
    reply = exchange(TIPMod(net, **SETTINGS), received, trained(received), ctxt)
    for record in (ctxt.state, reply.content):
        assert key[:8] not in b"".join(deflated(record))


def deflated(record):
    for child in (record.children or {}).values():
        yield from deflated(child)
    yield record.deflate()


class CountedTIP(TIP):
    """What a TIP with a budget does, as far as the mod sees it."""

    def __init__(self, model, budget=None, **settings):
        super().__init__(model, **settings)
        self.counter = budget

    def perturb_weights(self, weights, received):
        if self.counter is not None:
            self.counter.count()
        super().perturb_weights(weights, received)

    def state_dict(self):
        return {**super().state_dict(), "counter": self.counter and self.counter.state_dict()}

    def load_state_dict(self, state_dict):
        if self.counter is not None:
            self.counter.load_state_dict(state_dict.pop("counter"))
        super().load_state_dict(state_dict)


class Counter:
    """A budget of so many messages, each of which costs half an epsilon."""

    def __init__(self, most):
        self.most = most
        self.messages = 0

    def count(self):
        if self.messages == self.most:
            raise RuntimeError("the budget is used up")
        self.messages += 1

    def spent(self):
        return self.messages / 2

    def state_dict(self):
        return {"messages": self.messages}

    def load_state_dict(self, state):
        self.messages = max(self.messages, state["messages"])


@pytest.fixture
def _counted(monkeypatch):
    monkeypatch.setattr(flower, "TIP", CountedTIP)


@pytest.mark.usefixtures("_counted")
@pytest.mark.parametrize("made", [lambda: Counter(2), lambda: lambda ctxt: Counter(ctxt.node_id)])
def test_a_budget_goes_on_in_the_context_and_ends(caplog, made):
    received, state = weights(), RecordDict()
    for spent in (0.5, 1.0):
        with caplog.at_level(logging.INFO, "flwr"):
            reply = exchange(TIPMod(net, budget=made(), **PUBLIC), received, trained(received), context(state))
        assert f"TIPMod: epsilon {spent:.4g} spent by {round(2 * spent)} messages" in caplog.messages
        assert dict(reply.content["metrics"]) == {"num-examples": 7, "loss": 0.25}
    for _ in range(2):
        reply = exchange(TIPMod(net, budget=made(), **PUBLIC), received, trained(received), context(state))
        assert_refused(reply, "the budget is used up")
    assert json.loads(state[flower.STATE]["tip"])["counter"] == {"messages": 2}


@pytest.mark.usefixtures("_counted")
def test_a_message_that_fails_once_counted_stays_counted(monkeypatch):
    received, state = weights(), RecordDict()
    monkeypatch.setattr(flower, "_array", refuse)
    assert exchange(TIPMod(net, budget=Counter(5), **PUBLIC), received, trained(received), context(state)).has_error()
    bad = {**trained(received), "0.bias": torch.full((4,), torch.nan)}
    assert exchange(TIPMod(net, budget=Counter(5), **PUBLIC), received, bad, context(state)).has_error()
    assert json.loads(state[flower.STATE]["tip"])["counter"] == {"messages": 2}


@pytest.mark.usefixtures("_counted")
@pytest.mark.parametrize("metrics", [{"num-examples": 7}, {}, None])
def test_epsilon_is_reported_on_request(metrics):
    received = weights()
    content = RecordDict({"arrays": to_record(trained(received))})
    if metrics is not None:
        content["numbers"] = MetricRecord(metrics)
    mod = TIPMod(net, budget=Counter(5), report_epsilon=True, **PUBLIC)
    reply = app_that_sends(content, mod)(request(to_record(received)), context())
    assert [dict(record) for record in reply.content.metric_records.values()] == [
        {**(metrics or {}), "tip-epsilon": 0.5}
    ]
    assert "tip-epsilon" not in content.get("numbers", {})


@pytest.mark.usefixtures("_counted")
def test_epsilon_among_several_metrics():
    """Flower's strategies want one record; nothing is spent on a reply that has more."""
    counter = Counter(5)
    content = reply_content(to_record(trained(weights())), more=MetricRecord({"a": 1}))
    mod = TIPMod(net, budget=counter, report_epsilon=True, **PUBLIC)
    reply = app_that_sends(content, mod)(request(to_record(weights())), context())
    assert_refused(reply, "expected at most one MetricRecord in the reply with report_epsilon=True, got 2")
    assert counter.messages == 0


@pytest.mark.parametrize("keeps", ["context", "path"])
def test_a_real_budget(tmp_path, keeps):
    """Each message in another process; a path outlasts the context, too."""
    pytest.importorskip("dp_accounting")
    received, state = weights(), RecordDict()
    path = tmp_path / "budget.json" if keeps == "path" else None
    settings = {**PUBLIC, "std": 1.0, "floor_std": 1.0, "max_grad_norm": 1.0}
    spent = []
    for _ in range(4):
        budget = PrivacyBudget(7.0, 1e-5, path=path)
        mod = TIPMod(net, budget=lambda ctxt, made=budget: made, report_epsilon=True, **settings)
        reply = exchange(mod, received, trained(received), context(state if path is None else None))
        if reply.has_error():
            break
        spent.append(reply.content["metrics"]["tip-epsilon"])
    assert_refused(reply, "expected a message within epsilon 7 at delta 1e-05")
    assert spent == sorted(set(spent))
    assert 1 < len(spent) < 4
    assert spent[-1] <= 7.0
