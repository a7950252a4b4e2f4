"""TIPMod in Flower's own ClientApp, by messages made by hand. What is not perturbed is never sent."""

import importlib
import json
import logging
import pathlib
import pickle
import time

import numpy as np
import pytest
import torch
from torch import nn

from tip_kernels import TIP, NoiseRNG, rng

pytest.importorskip("flwr")

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from tip_kernels.integrations import flower
from tip_kernels.integrations.flower import TIPMod, keep_scores, to_record, to_tensors

pytestmark = pytest.mark.filterwarnings("ignore:no Grad-CAM scores:RuntimeWarning")

KEY = bytes(range(32))
SETTINGS = {"ratio": 0.5, "std": 0.1, "floor_std": 0.02, "max_grad_norm": 1.0}
IMAGES, LABELS = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 1])
PUBLIC = {**SETTINGS, "probe": (IMAGES, LABELS)}


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def known_key(monkeypatch):
    """New keys are this one, so that the same noise can be made by hand."""
    monkeypatch.setattr(rng.os, "urandom", lambda count: KEY[:count])


def context(state: RecordDict | None = None) -> Context:
    return Context(1, 2, {}, RecordDict() if state is None else state, {})


def weights() -> dict[str, torch.Tensor]:
    """Those that the server sends."""
    return {name: tensor.clone() for name, tensor in net().state_dict().items()}


def trained(received: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of a client after its training: other floats, and a counter that has gone on."""
    generator = torch.Generator().manual_seed(2)
    return {
        name: tensor + 0.1 * torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor + 3
        for name, tensor in received.items()
    }


def request(record: ArrayRecord | None, kind: str = "train", **more) -> Message:
    arrays = {} if record is None else {"arrays": record}
    content = RecordDict({**arrays, "config": ConfigRecord({"lr": 0.1}), **more})
    metadata = Metadata(1, "a", 1, 2, "", "", time.time(), 60.0, kind)  # what a SuperLink fills in
    return Message(content=content, metadata=metadata)


def reply_content(record: ArrayRecord | None, **more) -> RecordDict:
    arrays = {} if record is None else {"arrays": record}
    return RecordDict({**arrays, "metrics": MetricRecord({"num-examples": 7, "loss": 0.25}), **more})


def app_that_sends(content, mod, kind="train") -> ClientApp:
    """A ClientApp whose function answers with ``content``, or with what it returns for (message, context)."""
    app = ClientApp(mods=[mod])

    def answer(message: Message, ctxt: Context) -> Message:
        made = content(message, ctxt) if callable(content) else content
        return made if isinstance(made, Message) else Message(made, reply_to=message)

    {"train": app.train, "evaluate": app.evaluate, "query": app.query}[kind.split(".")[0]](
        kind.split(".")[1] if "." in kind else "default"
    )(answer)
    return app


def exchange(mod: TIPMod, received, sent, ctxt: Context | None = None) -> Message:
    """One train message: the server's tensors, and those that the app would send."""
    app = app_that_sends(reply_content(to_record(sent)), mod)
    return app(request(to_record(received)), context() if ctxt is None else ctxt)


def sent_by(reply: Message) -> dict[str, torch.Tensor]:
    assert reply.has_content(), reply.error.reason
    return to_tensors(reply.content.array_records["arrays"])


def assert_refused(reply: Message, reason: str) -> None:
    """An error in Flower's form, which says why, and no content at all."""
    assert reply.has_error()
    assert not reply.has_content()
    assert reply.error.code == ErrorCode.MOD_FAILED_PRECONDITION
    assert reply.error.reason.startswith("TIPMod sends no weights: ")
    assert reason in reply.error.reason


# What is sent


def by_hand(received, sent, steps: int = 0, dtype=None, measured=False, **settings) -> dict[str, torch.Tensor]:
    """The same by ``perturb_weights``, with the key of ``known_key``."""
    model = net() if dtype is None else net().to(dtype)
    with TIP(model, rng=NoiseRNG(KEY, step=steps), **{**SETTINGS, **settings}) as defense:
        if measured:
            model.load_state_dict(received)
            defense.measure(IMAGES, LABELS)
        made = {name: tensor.clone() for name, tensor in sent.items()}
        defense.perturb_weights(made, received)
    return made


def assert_equal(found, expected) -> None:
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.usefixtures("known_key")
@pytest.mark.parametrize("kind", ["train", "train.second"])
def test_a_reply_is_what_perturb_weights_makes(kind):
    received = weights()
    app = app_that_sends(reply_content(to_record(trained(received))), TIPMod(net, **SETTINGS), kind)
    reply = app(request(to_record(received), kind), context())
    assert_equal(sent_by(reply), by_hand(received, trained(received)))
    assert not torch.equal(sent_by(reply)["0.weight"], trained(received)["0.weight"])


@pytest.mark.usefixtures("known_key")
def test_a_mod_of_one_function():
    received = weights()
    app = ClientApp()

    @app.train(mods=[TIPMod(net, **SETTINGS)])
    def train(message, ctxt):
        return Message(reply_content(to_record(trained(received))), reply_to=message)

    assert_equal(sent_by(app(request(to_record(received)), context())), by_hand(received, trained(received)))


def test_two_mods_for_one_message():
    mod, received = TIPMod(net, **SETTINGS), weights()
    app = ClientApp(mods=[mod])
    content = reply_content(to_record(trained(received)))
    app.train(mods=[mod])(lambda message, ctxt: Message(content, reply_to=message))
    ctxt = context()
    for _ in range(2):
        assert_refused(app(request(to_record(received)), ctxt), "expected one TIPMod for each message, got two")


def test_metrics_and_configs_pass():
    received = weights()
    content = reply_content(to_record(trained(received)), more=ConfigRecord({"text": "yes"}))
    reply = app_that_sends(content, TIPMod(net, **SETTINGS))(request(to_record(received)), context())
    assert list(reply.content) == ["arrays", "metrics", "more"]
    assert dict(reply.content["metrics"]) == {"num-examples": 7, "loss": 0.25}
    assert dict(reply.content["more"]) == {"text": "yes"}


def test_each_message_has_its_own_noise():
    received = weights()
    mod = TIPMod(net, **SETTINGS)
    first, second = (sent_by(exchange(mod, received, trained(received))) for _ in range(2))
    assert not torch.equal(first["0.weight"], second["0.weight"])


@pytest.mark.usefixtures("known_key")
def test_the_weights_received_are_those_before_the_app():
    """An app may take the arrays out of the request, and change those that are there."""
    received = weights()

    def spend(message, ctxt):
        record = message.content["arrays"]
        record["0.weight"].data = to_record(trained(received))["0.weight"].data
        record.to_torch_state_dict(keep_input=False)
        return reply_content(to_record(trained(received)))

    reply = app_that_sends(spend, TIPMod(net, **SETTINGS))(request(to_record(received)), context())
    assert_equal(sent_by(reply), by_hand(received, trained(received)))


@pytest.mark.usefixtures("known_key")
def test_arrays_without_names_go_by_the_order_of_the_state_dict():
    received = weights()
    numbered = [
        {str(i): tensor for i, tensor in enumerate(tensors.values())} for tensors in (received, trained(received))
    ]
    reply = exchange(TIPMod(net, **SETTINGS), *numbered)
    expected = by_hand(received, trained(received))
    assert_equal(sent_by(reply), dict(zip(numbered[0], expected.values(), strict=True)))


@pytest.mark.usefixtures("known_key")
def test_legacy_arrays_that_do_not_tell_their_dtype():
    received = weights()

    def legacy(tensors):
        arrays = {str(i): Array(tensor.numpy()) for i, tensor in enumerate(tensors.values())}
        return ArrayRecord({key: Array(dtype="", shape=(), stype=a.stype, data=a.data) for key, a in arrays.items()})

    app = app_that_sends(reply_content(legacy(trained(received))), TIPMod(net, **SETTINGS))
    reply = app(request(legacy(received)), context())
    assert [found.dtype for found in reply.content["arrays"].values()] == [""] * len(received)
    expected = by_hand(received, trained(received)).values()
    assert all(map(torch.equal, sent_by(reply).values(), expected))


@pytest.mark.usefixtures("known_key")
def test_a_counter_that_arrives_as_a_float():
    """Flower's averages are floats; it must not count in the norm, and keeps the dtype that the app gave it."""
    received = weights()
    averaged = {**received, "1.num_batches_tracked": torch.tensor(1e6, dtype=torch.float64)}
    sent = {**trained(received), "1.num_batches_tracked": torch.tensor(1e6 + 24)}
    found = sent_by(exchange(TIPMod(net, **SETTINGS), averaged, sent))
    expected = by_hand(received, trained(received))
    assert torch.equal(found["0.weight"], expected["0.weight"])
    assert found["1.num_batches_tracked"].dtype == torch.float32
    assert found["1.num_batches_tracked"] == 1e6


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtypes_stay_on_the_wire(dtype):
    received = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights().items()}
    sent = trained(received)
    sent = {name: tensor.to(received[name].dtype) for name, tensor in sent.items()}
    record = exchange(TIPMod(lambda: net().to(dtype), **SETTINGS), received, sent).content["arrays"]
    assert record["0.weight"].dtype == record["0.weight"].numpy().dtype == str(dtype).removeprefix("torch.")


# bfloat16


def as_bfloat16(tensors):
    return {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}


@pytest.mark.usefixtures("known_key")
@pytest.mark.parametrize("stored_as", ["V2", "<i2", "<u2"])
def test_bfloat16_on_the_wire(stored_as):
    received = as_bfloat16(weights())
    sent = as_bfloat16(trained(received))

    def record(tensors):
        made = to_record(tensors, keep_bfloat16=True)
        for array in made.values():
            if array.dtype == "bfloat16":
                array.data = Array(array.numpy().view(stored_as)).data
        return made

    app = app_that_sends(reply_content(record(sent)), TIPMod(lambda: net().bfloat16(), **SETTINGS))
    reply = app(request(record(received)), context())
    assert_equal(sent_by(reply), by_hand(received, sent, dtype=torch.bfloat16))
    found = reply.content["arrays"]["0.weight"]
    assert (found.dtype, found.shape, found.numpy().dtype) == ("bfloat16", (4, 1, 3, 3), np.dtype(stored_as))
    assert len(found.data) == len(record(sent)["0.weight"].data)


def test_a_bfloat16_model_is_float32_on_the_wire_by_default():
    received = as_bfloat16(weights())
    assert to_record(received)["0.weight"].dtype == "float32"
    with pytest.raises(TypeError):
        ArrayRecord(received)  # why to_record is there
    reply = exchange(TIPMod(lambda: net().bfloat16(), **SETTINGS), received, as_bfloat16(trained(received)))
    assert sent_by(reply)["0.weight"].dtype == torch.float32


@pytest.mark.parametrize("keep", [False, True])
def test_records_hold_what_was_given(keep):
    tensors = {
        "half": torch.tensor([[1.5, -0.25], [torch.inf, 0.0]]).bfloat16().t(),
        "scalar": torch.tensor(3.0).bfloat16(),
        "none": torch.zeros(0, 3).bfloat16(),
        "count": torch.tensor(7),
        "float": torch.randn(2, 3, requires_grad=True),
    }
    found = to_tensors(to_record(tensors, keep_bfloat16=keep))
    for name, tensor in tensors.items():
        assert torch.equal(found[name].double(), tensor.detach().double())
        kept = tensor.dtype is not torch.bfloat16 or keep
        assert found[name].dtype == (tensor.dtype if kept else torch.float32)


# What is refused


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


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


def refuse(*_arguments, **_named):
    raise OSError("/private/path")


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


# Scores


def scores_of_training() -> dict[str, torch.Tensor]:
    return {"0.weight": torch.tensor([0.1, 3.0, 0.2, 2.0])}


@pytest.mark.usefixtures("known_key")
def test_scores_of_the_training_go_through_the_context():
    received, ctxt = weights(), context()

    def train(message, ctxt):
        keep_scores(ctxt, scores_of_training())
        return reply_content(to_record(trained(received)))

    settings = {**SETTINGS, "floor_std": 0.0, "max_grad_norm": None}
    reply = app_that_sends(train, TIPMod(net, **settings))(request(to_record(received)), ctxt)
    noised = (sent_by(reply)["0.weight"] - trained(received)["0.weight"]).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert noised.tolist() == [False, True, False, True]
    assert not [name for name in reply.content if name not in ("arrays", "metrics")], "scores are not for the server"
    assert flower.SCORES not in ctxt.state, "scores are for one reply"


def test_without_scores_all_channels_are_noised():
    received = weights()
    mod = TIPMod(net, **{**SETTINGS, "floor_std": 0.0})
    with pytest.warns(RuntimeWarning, match=r"no Grad-CAM scores for 0.weight: all channels are perturbed"):
        reply = exchange(mod, received, trained(received))
    changed = (sent_by(reply)["0.weight"] - trained(received)["0.weight"]).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.all()


@pytest.mark.parametrize("scores", [{"0.weight": torch.ones(3)}, {"4.weight": torch.ones(3)}])
def test_scores_of_another_model(scores):
    ctxt = context()
    keep_scores(ctxt, scores)
    assert_refused(exchange(TIPMod(net, **SETTINGS), weights(), trained(weights()), ctxt), "expected scores")


@pytest.mark.usefixtures("known_key")
@pytest.mark.parametrize("lazy", [False, True])
def test_a_probe_measures_the_weights_received(lazy):
    received = weights()
    probe = (lambda: (IMAGES, LABELS)) if lazy else (IMAGES, LABELS)
    reply = exchange(TIPMod(net, **SETTINGS, probe=probe), received, trained(received))
    assert_equal(sent_by(reply), by_hand(received, trained(received), scores="public", measured=True))


def test_a_probe_takes_no_scores_of_the_training():
    ctxt = context()
    keep_scores(ctxt, scores_of_training())
    reply = exchange(TIPMod(net, **PUBLIC), weights(), trained(weights()), ctxt)
    assert_refused(reply, "expected no scores from the app with scores='public'")


def test_a_probe_needs_the_whole_model():
    received, sent = (without(tensors, "4.bias") for tensors in (weights(), trained(weights())))
    assert_refused(exchange(TIPMod(net, **PUBLIC), received, sent), "in the request, for the probe, got no '4.bias'")
    assert exchange(TIPMod(net, **SETTINGS), received, sent).has_content()


# State and budget


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
    budgets = pytest.importorskip("tip_kernels.budget")
    pytest.importorskip("dp_accounting")
    received, state = weights(), RecordDict()
    path = tmp_path / "budget.json" if keeps == "path" else None
    settings = {**PUBLIC, "std": 1.0, "floor_std": 1.0, "max_grad_norm": 1.0}
    spent = []
    for _ in range(4):
        budget = budgets.PrivacyBudget(7.0, 1e-5, path=path)
        mod = TIPMod(net, budget=lambda ctxt, made=budget: made, report_epsilon=True, **settings)
        reply = exchange(mod, received, trained(received), context(state if path is None else None))
        if reply.has_error():
            break
        spent.append(reply.content["metrics"]["tip-epsilon"])
    assert_refused(reply, "expected a message within epsilon 7 at delta 1e-05")
    assert spent == sorted(set(spent))
    assert 1 < len(spent) < 4
    assert spent[-1] <= 7.0


# The example


@pytest.mark.parametrize("protects", [True, False])
def test_the_client_of_the_example(monkeypatch, protects):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent / "examples/flower"))
    example, task = (importlib.import_module(f"tip_digits.{name}") for name in ("client_app", "task"))
    own = []
    monkeypatch.setattr(example, "ArrayRecord", lambda state: own.append(state) or ArrayRecord(state))
    received = task.Net(1).state_dict()
    config = {"data": "digits", "tip": protects, "local-epochs": 1, "lr": 0.05}
    node = {"partition-id": 1, "num-partitions": 2}
    reply = example.app(request(to_record(received)), Context(1, 2, node, RecordDict(), config))
    assert reply.content["metrics"]["num-examples"] == 648
    (own,) = own
    assert own["7.weight"].shape == (10, 512)
    assert [not torch.equal(sent_by(reply)[name], own[name]) for name in own] == [protects] * len(own)


def test_the_example_on_cifar10(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent / "examples/flower"))
    task = importlib.import_module("tip_digits.task")
    for number in (1, 2):
        batch = {b"data": np.full((300, 3072), 255, np.uint8), b"labels": [number] * 300}
        (tmp_path / f"data_batch_{number}").write_bytes(pickle.dumps(batch))
    parts = [*(task.of_client(str(tmp_path), part, 3) for part in range(3)), task.public(str(tmp_path))]
    assert [tuple(images.shape) for images, _ in parts] == [(count, 3, 32, 32) for count in (34, 33, 33, 100)]
    assert set(torch.cat([labels for _, labels in parts]).tolist()) == {1, 2}
    assert task.Net(task.channels(str(tmp_path)))(parts[0][0]).shape == (34, 10)
    with pytest.raises(FileNotFoundError, match="or the folder cifar-10-batches-py"):
        task.public(str(tmp_path / "none"))
