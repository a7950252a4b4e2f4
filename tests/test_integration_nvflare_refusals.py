"""The filter for NVFlare: nothing leaves that it does not know."""

import logging

import numpy as np
import pytest
import torch

pytest.importorskip("nvflare")

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import ContentBlockedException, FilterChainType, FilterContextKey
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare_client import EXCHANGES, MODEL, Net, a_result, an_update, as_numpy, weights_of

from tip_kernels.integrations import nvflare as integration

pytest_plugins = "nvflare_client"
pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:no Grad-CAM scores for conv.weight:RuntimeWarning"),
]


# What it refuses


def with_entry(name, value):
    return lambda update: {**update, name: value}


@EXCHANGES
@pytest.mark.parametrize("kind", [DataKind.WEIGHT_DIFF, DataKind.WEIGHTS])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_entry("other", torch.zeros(2)), "got 'other'"),
        (with_entry("conv.bias", torch.zeros(5)), r"\['conv.bias'\] of shape \(4,\), got \(5,\)"),
        (with_entry("conv.bias", torch.zeros(4, dtype=torch.int8)), r"'conv.bias'\] of a floating dtype .*int8"),
        (with_entry("conv.bias", torch.full((4,), torch.nan)), "'conv.bias'.* to be finite"),
        (with_entry("conv.bias", torch.full((4,), torch.inf)), "'conv.bias'.* to be finite"),
        (with_entry("norm.num_batches_tracked", torch.tensor(torch.nan)), "tracked'.* to be finite"),
    ],
)
def test_numbers_that_are_refused(client, exchanged, kind, change, message):
    one = client()
    one.receive(exchanged(weights_of(Net())))
    shareable = DXO(kind, exchanged(change(an_update()))).to_shareable()
    with pytest.raises(ContentBlockedException, match=message):
        one.send_shareable(shareable)
    assert shareable == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.0] * 4, "'conv.bias' to be a NumPy array or a tensor, got list"),
        (np.array(["0"] * 4), "'conv.bias' to be of a dtype that torch has, got <U1"),
        (np.zeros(4, ">f4"), "'conv.bias' to be of a dtype that torch has, got >f4"),
        (np.zeros(4, np.complex64), "floating dtype"),
        (b"encrypted", "'conv.bias' to be a NumPy array or a tensor, got bytes"),
    ],
)
def test_values_that_are_refused(client, value, message):
    with pytest.raises(ContentBlockedException, match=message):
        client().send(DataKind.WEIGHT_DIFF, {"conv.bias": value})


@pytest.mark.parametrize("kind", [kind for kind in DataKind if kind not in (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF)])
def test_other_kinds_of_data(client, kind):
    shareable = DXO(kind, {"conv.bias": np.zeros(4, np.float32)}).to_shareable()
    with pytest.raises(ContentBlockedException, match=f"kind WEIGHT_DIFF or WEIGHTS, got .*{kind.value}"):
        client().send_shareable(shareable)
    assert shareable == {}


def without_headers() -> Shareable:
    shareable = a_result()
    shareable["__headers__"] = {}
    return shareable


def with_header(value) -> Shareable:
    shareable = a_result()
    shareable.set_header("weights", value)
    return shareable


@pytest.mark.parametrize(
    ("shareable", "message"),
    [
        (lambda: Shareable({"weights": np.zeros(4)}), "not a valid DXO"),
        (without_headers, "not a valid DXO"),
        (lambda: a_result(DXO=None), "not a valid DXO"),
        (lambda: a_result(DXO={"kind": "WEIGHT_DIFF", "data": [1.0], "meta": {}}), "invalid DXO"),
        (lambda: DXO(DataKind.WEIGHT_DIFF, {}).to_shareable(), "by the names of the model's parameters, got none"),
        (lambda: a_result(weights=np.zeros(4)), "one DXO and nothing else, got 'weights'"),
        (lambda: with_header(np.zeros(4)), r"headers\['weights'\] to be of plain values, got ndarray"),
        (lambda: None, "NoneType"),
    ],
)
def test_results_that_are_no_single_dxo(client, shareable, message):
    with pytest.raises(ContentBlockedException, match=message):
        client().send_shareable(shareable())


@pytest.mark.parametrize("value", [np.zeros(4), torch.zeros(4), b"0", {"deep": [np.zeros(4)]}, Net()])
def test_arrays_in_the_metadata(client, value):
    with pytest.raises(ContentBlockedException, match=r"meta\['ctrl_diff'\].* to be of plain values"):
        client().send(DataKind.WEIGHT_DIFF, as_numpy(an_update()), {"ctrl_diff": value})


@pytest.mark.parametrize("received", [None, "before", DataKind.WEIGHT_DIFF])
def test_weights_without_received_ones(client, received):
    one = client()
    if received == "before":
        one.receive(weights_of(Net()))
        kept = one.context.get_prop(integration._RECEIVED)
        one.receive(None)
        one.context.set_prop(integration._RECEIVED, kept, private=True, sticky=False)
    elif received:
        one.direct(FilterKey.IN)
        one.data.process(DXO(received, an_update()).to_shareable(), one.context)
    with pytest.raises(ContentBlockedException, match="that the server sent with this task, got none: add this filter"):
        one.send(DataKind.WEIGHTS, weights_of(Net()))


def test_noise_that_is_not_finite(client):
    one = client(settings={"ratio": 1.0, "std": 2000.0})
    update = {"conv.weight": torch.full((4, 3, 3, 3), 65000.0, dtype=torch.float16)}
    with (
        pytest.warns(RuntimeWarning, match="float16 numbers with noise"),
        pytest.raises(ContentBlockedException, match="finite after the noise"),
    ):
        one.send(DataKind.WEIGHT_DIFF, update)


@pytest.mark.parametrize(
    ("chain", "direction"),
    [
        (FilterChainType.TASK_RESULT_CHAIN, FilterKey.IN),  # on a server
        (FilterChainType.TASK_DATA_CHAIN, FilterKey.OUT),
        (None, FilterKey.OUT),
        (FilterChainType.TASK_RESULT_CHAIN, None),
    ],
)
def test_other_places(client, chain, direction):
    one = client()
    one.result.set_prop(FilterContextKey.CHAIN_TYPE, chain)
    one.direct(direction)
    with pytest.raises(ContentBlockedException, match="a client's incoming task data or outgoing results"):
        one.result.process(a_result(), one.context)


def test_an_error_goes_out_as_its_code_only(client):
    shareable = a_result()
    shareable.set_return_code(ReturnCode.EXECUTION_EXCEPTION)
    assert client().send_shareable(shareable) == make_reply(ReturnCode.EXECUTION_EXCEPTION)


def test_the_reason_is_in_the_log(client, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(ContentBlockedException):
        client().send(DataKind.METRICS, {"accuracy": 0.5})
    reasons = [record.getMessage() for record in caplog.records]
    assert any("TIP sends nothing of this task: ValueError: expected data of kind" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.Net", "Can't load class"), ("types.SimpleNamespace", "to make a torch.nn.Module, got SimpleNamespace")],
)
def test_models_that_are_refused(client, path, message):
    with pytest.raises(ContentBlockedException, match=message):
        client(model=path).send(DataKind.WEIGHT_DIFF, an_update())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": Net}, "expected model to be 'package.module.Name'"),
        ({"model": "Net"}, "expected model to be 'package.module.Name', got 'Net'"),
        ({"settings": {"stdd": 1.0}}, "expected settings among .*'floor_std'.*, got 'stdd'"),
        ({"settings": {"rng": None}}, "got 'rng'"),
        ({"epsilon": 1.0}, "both epsilon and delta"),
        ({"report_epsilon": True}, "both epsilon and delta"),
        ({"budget_file": "../budget.json"}, "a name without folders, got '../budget.json'"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        integration.TIPFilter(**{"model": MODEL, **arguments})


# What goes past it


def after_filters(client, result, name="submit_model"):
    """What a filter, which hears of events, leaves of a result that goes out."""
    client.context.set_prop(FLContextKey.TASK_NAME, name, private=True, sticky=False)
    client.context.set_prop(FLContextKey.TASK_RESULT, result, private=True, sticky=False)
    client.result.handle_event(EventType.AFTER_TASK_RESULT_FILTER, client.context)
    return result


@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF, DataKind.FL_MODEL, DataKind.COLLECTION])
def test_weights_that_go_past_it(client, kind, caplog):
    with caplog.at_level(logging.ERROR):
        result = after_filters(client(), DXO(kind, {"conv.bias": np.zeros(4)}).to_shareable())
    assert result == make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
    assert "TIP sends nothing of task 'submit_model', whose weights it was not given" in caplog.text


def test_what_may_go_past_it(client):
    metrics = DXO(DataKind.METRICS, {"accuracy": 0.5}).to_shareable()
    assert from_shareable(after_filters(client(), metrics, "validate")).data == {"accuracy": 0.5}
    one = client()
    sent = after_filters(one, one.send_shareable(a_result()), "train")
    assert from_shareable(sent).data.keys() == an_update().keys()
    done = one.context.get_prop(integration._DONE)
    one.receive(None)
    one.context.set_prop(integration._DONE, done, private=True, sticky=False)
    assert after_filters(one, a_result()) == make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)  # the next task
