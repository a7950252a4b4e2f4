"""TIPMod in Flower's own ClientApp, by messages made by hand: what is sent, and from which scores."""

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flower_client import (
    IMAGES,
    LABELS,
    PUBLIC,
    SETTINGS,
    app_that_sends,
    assert_equal,
    assert_refused,
    by_hand,
    context,
    exchange,
    net,
    reply_content,
    request,
    sent_by,
    trained,
    weights,
    without,
)
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.clientapp import ClientApp

from tip_kernels.integrations import flower
from tip_kernels.integrations.flower import TIPMod, keep_scores, to_record, to_tensors

pytest_plugins = "flower_client"
pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:no Grad-CAM scores:RuntimeWarning"),
]


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


def test_scores_in_another_kind_of_record():
    ctxt = context()
    ctxt.state[flower.SCORES] = ConfigRecord({"0.weight": [1.0, 2.0, 3.0, 4.0]})
    reply = exchange(TIPMod(net, **SETTINGS), weights(), trained(weights()), ctxt)
    assert_refused(reply, "expected scores by keep_scores(), got a ConfigRecord")


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
