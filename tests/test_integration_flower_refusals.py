"""TIPMod in Flower's own ClientApp: what is not perturbed is never sent, and wrong settings are refused at once."""

import logging

import pytest
import torch

from tip_kernels import TIP, NoiseRNG

pytest.importorskip("flwr")

from flower_client import (
    IMAGES,
    KEY,
    LABELS,
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
    without,
)
from flwr.app import ArrayRecord, Error, Message
from flwr.clientapp import ClientApp

from tip_kernels.integrations import flower
from tip_kernels.integrations.flower import TIPMod, to_record

pytest_plugins = "flower_client"
pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:no Grad-CAM scores:RuntimeWarning"),
]


def test_a_request_needs_one_record():
    ran = []
    app = app_that_sends(lambda message, ctxt: ran.append(1) or reply_content(None), TIPMod(net, **SETTINGS))
    record = to_record(weights())
    assert_refused(app(request(None), context()), "expected one ArrayRecord in the request, got 0")
    assert_refused(app(request(record, more=record), context()), "expected one ArrayRecord in the request, got 2")
    assert not ran, "the app trained in vain"


@pytest.mark.parametrize("count", [0, 2])
def test_a_reply_needs_one_record(count):
    record = to_record(trained(weights()))
    content = reply_content(record, more=record) if count else reply_content(None)
    reply = app_that_sends(content, TIPMod(net, **SETTINGS))(request(to_record(weights())), context())
    assert_refused(reply, f"expected one ArrayRecord in the reply, got {count}")


BAD_REPLIES = {
    "less": (lambda t: without(t, "0.bias"), "got '0.bias' in the request and not in the reply"),
    "more": (lambda t: {**t, "gradient": torch.ones(3)}, "got 'gradient' in the reply and not in the request"),
    "another name": (
        lambda t: {"first" if name == "0.bias" else name: tensor for name, tensor in t.items()},
        "got '0.bias' in the request and not in the reply",
    ),
    "another shape": (lambda t: {**t, "0.bias": torch.ones(3)}, "expected update['0.bias'] of shape (4,), got (3,)"),
    "NaN": (lambda t: {**t, "0.bias": torch.full((4,), torch.nan)}, "expected weights['0.bias'] to be finite"),
    "integers": (lambda t: {**t, "0.bias": torch.ones(4, dtype=torch.int32)}, "of a floating dtype as in the model"),
    "empty": (lambda t: {}, "expected request and reply to have the same arrays"),
}


@pytest.mark.parametrize("kind", BAD_REPLIES)
def test_arrays_that_are_not_those_of_the_request(kind):
    change, reason = BAD_REPLIES[kind]
    assert_refused(exchange(TIPMod(net, **SETTINGS), weights(), change(trained(weights()))), reason)


BAD_BOTH = {
    "unknown": (
        lambda t: {**t, "other.weight": torch.ones(3)},
        "the model's parameters and buffers, got 'other.weight'",
    ),
    "shape": (lambda t: {**t, "0.bias": torch.ones(3)}, "expected update['0.bias'] of shape (4,), got (3,)"),
    "nothing": (lambda t: {}, "expected an update with parameters of the model, got none"),
}


@pytest.mark.parametrize("kind", BAD_BOTH)
def test_arrays_that_are_not_the_models(kind):
    change, reason = BAD_BOTH[kind]
    assert_refused(exchange(TIPMod(net, **SETTINGS), change(weights()), change(trained(weights()))), reason)


def test_an_array_of_another_serialization():
    record = to_record(trained(weights()))
    record["0.weight"].stype = "pickle"
    reply = app_that_sends(reply_content(record), TIPMod(net, **SETTINGS))(request(to_record(weights())), context())
    assert_refused(reply, "TypeError")


def test_no_message_at_all():
    app = ClientApp(mods=[TIPMod(net, **SETTINGS)])
    app.train()(lambda message, ctxt: None)
    assert_refused(app(request(to_record(weights())), context()), "AttributeError")


@pytest.mark.parametrize("kind", ["evaluate", "query", "query.weights"])
def test_other_messages_pass_without_arrays(kind):
    mod = TIPMod(net, **SETTINGS)
    content = reply_content(None)
    reply = app_that_sends(content, mod, kind)(request(to_record(weights()), kind), context())
    assert reply.content is content
    content = reply_content(ArrayRecord())
    assert app_that_sends(content, mod, kind)(request(None, kind), context()).content is content
    reply = app_that_sends(reply_content(to_record(weights())), mod, kind)(request(None, kind), context())
    assert_refused(reply, f"expected no arrays in the reply to a message of type '{kind}', got some")


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_error_replies_of_the_app_pass(kind):
    app = app_that_sends(
        lambda message, ctxt: Message(Error(3, "no data"), reply_to=message), TIPMod(net, **SETTINGS), kind
    )
    reply = app(request(to_record(weights()), kind), context())
    assert (reply.error.code, reply.error.reason) == (3, "no data")


def test_errors_of_the_app_are_flowers_to_report():
    def fail(message, ctxt):
        raise ZeroDivisionError("of the app")

    with pytest.raises(ZeroDivisionError, match="of the app"):
        app_that_sends(fail, TIPMod(net, **SETTINGS))(request(to_record(weights())), context())


FAULTS = {
    "model": lambda patch, mod: setattr(mod, "_make_model", refuse),
    "state": lambda patch, mod: patch.setattr(flower.json, "dumps", refuse),
    "tip": lambda patch, mod: patch.setattr(flower, "TIP", refuse),
    "noise": lambda patch, mod: patch.setattr(TIP, "perturb_weights", refuse),
    "reading": lambda patch, mod: patch.setattr(flower, "_tensor", refuse),
    "writing": lambda patch, mod: patch.setattr(flower, "_array", refuse),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_nothing_is_sent(monkeypatch, caplog, fault):
    mod = TIPMod(net, **SETTINGS)
    FAULTS[fault](monkeypatch, mod)
    with caplog.at_level(logging.ERROR, "flwr"):
        reply = exchange(mod, weights(), trained(weights()))
    assert_refused(reply, "OSError, see the log of the client")
    assert "/private/path" not in reply.error.reason


# Settings


BAD_SETTINGS = {
    "rng": ({"rng": NoiseRNG(KEY)}, TypeError, "expected no rng: each message takes a new key"),
    "unknown": ({"strength": 1.0}, TypeError, "strength"),
    "range": ({"ratio": 2.0}, ValueError, "ratio"),
    "no probe": ({"scores": "public"}, ValueError, "expected a probe with scores='public', got none"),
    "private": ({"probe": (IMAGES, LABELS), "scores": "private"}, ValueError, "expected scores='public' with a probe"),
    "report": ({"report_epsilon": True}, ValueError, "expected a budget with report_epsilon=True"),
    "budget": ({"budget": object()}, ValueError, "expected scores='public'"),
}


@pytest.mark.parametrize("kind", BAD_SETTINGS)
def test_settings_are_checked_at_once(kind):
    settings, error, match = BAD_SETTINGS[kind]
    with pytest.raises(error, match=match):
        TIPMod(net, **{**SETTINGS, **settings})


def test_public_scores_that_nobody_needs():
    TIPMod(net, **{**SETTINGS, "scores": "public", "ratio": 1})


def test_the_models_of_the_mod_leave_the_random_numbers_alone():
    received, sent = weights(), trained(weights())
    before = torch.random.get_rng_state()
    exchange(TIPMod(net, **SETTINGS), received, sent)
    assert torch.equal(torch.random.get_rng_state(), before)
