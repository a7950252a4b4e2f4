"""The filter for NVFlare: what it perturbs, and that nothing leaves that it does not know."""

import json
import logging
import os
import pathlib
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("nvflare")

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import ContentBlockedException, FilterChainType, FilterContextKey
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.fuel.utils.component_builder import ComponentBuilder
from nvflare.job_config.api import FedJob
from nvflare.job_config.defs import FilterType

from tip_kernels import TIP, NoiseRNG
from tip_kernels.integrations import nvflare as integration

pytestmark = pytest.mark.filterwarnings("ignore:no Grad-CAM scores for conv.weight:RuntimeWarning")

ROOT = pathlib.Path(__file__).parent.parent
KEY = bytes(range(32))
SETTINGS = {"ratio": 0.5, "std": 0.1, "floor_std": 0.05, "max_grad_norm": 1.0}


class Net(nn.Module):
    """What a job's configuration names."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, classes)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).flatten(1))


class Engine(ComponentBuilder):
    """What the filter asks of a client's engine."""

    def __init__(self, root) -> None:
        self.root = root

    def get_module_scanner(self):
        raise NotImplementedError

    def get_workspace(self):
        return types.SimpleNamespace(get_root_dir=lambda: str(self.root))


class Client:
    """Runs one filter as a client's runner does: the data of a task, then its result."""

    def __init__(self, root, monkeypatch, **arguments) -> None:
        self.root, self.tasks = root, 0
        arguments = {"model": f"{__name__}.Net", "settings": SETTINGS, **arguments}
        # The configuration of a job is JSON, which makes one object for the data and one for the results.
        self.data, self.result = (integration.TIPFilter(**json.loads(json.dumps(arguments))) for _ in range(2))
        self.data.set_prop(FilterContextKey.CHAIN_TYPE, FilterChainType.TASK_DATA_CHAIN)
        self.result.set_prop(FilterContextKey.CHAIN_TYPE, FilterChainType.TASK_RESULT_CHAIN)
        monkeypatch.setattr(integration, "TIP", lambda model, **kw: TIP(model, rng=NoiseRNG(KEY), **kw))
        monkeypatch.setattr(integration, "_scores", [])
        self.receive(None)

    def receive(self, weights) -> None:
        """A new task; ``weights`` is what comes with it."""
        self.tasks += 1
        self.context = FLContext()
        self.context.set_prop(ReservedKey.ENGINE, Engine(self.root), private=True, sticky=False)
        self.context.set_prop(FLContextKey.TASK_ID, str(self.tasks), private=True, sticky=False)
        if weights is not None:
            self.direct(FilterKey.IN)
            shareable = DXO(DataKind.WEIGHTS, weights).to_shareable()
            assert self.data.process(shareable, self.context) is shareable

    def send(self, kind, data, meta=None):
        """What leaves: a DXO."""
        return from_shareable(self.send_shareable(DXO(kind, data, meta).to_shareable()))

    def send_shareable(self, shareable):
        self.direct(FilterKey.OUT)
        return self.result.process(shareable, self.context)

    def direct(self, direction) -> None:
        self.context.set_prop(FLContextKey.FILTER_DIRECTION, direction, private=True, sticky=False)


@pytest.fixture
def client(tmp_path, monkeypatch):
    return lambda **arguments: Client(tmp_path, monkeypatch, **arguments)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def as_numpy(tensors):
    return {name: tensor.numpy().copy() for name, tensor in tensors.items()}


def as_torch(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


EXCHANGES = pytest.mark.parametrize("exchanged", [as_numpy, as_torch])


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def an_update() -> dict[str, torch.Tensor]:
    return {
        name: torch.randn_like(value) if value.is_floating_point() else torch.tensor(3)
        for name, value in Net().state_dict().items()
    }


def equal(sent, expected) -> bool:
    return sent.keys() == expected.keys() and all(
        torch.equal(torch.as_tensor(sent[name]), expected[name])
        and torch.as_tensor(sent[name]).dtype == expected[name].dtype
        for name in expected
    )


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


def a_result(**entries) -> Shareable:
    shareable = DXO(DataKind.WEIGHT_DIFF, as_numpy(an_update())).to_shareable()
    shareable.update(entries)
    return shareable


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
        integration.TIPFilter(**{"model": f"{__name__}.Net", **arguments})


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
    one.receive(None)
    assert after_filters(one, a_result()) == make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)  # the next task


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
        self.budget = budget
        super().__init__(model, **settings, rng=NoiseRNG(KEY))

    def perturb_update(self, update) -> None:
        self.budget.count()
        super().perturb_update(update)


@pytest.mark.parametrize("reports", [False, True])
def test_a_budget(client, monkeypatch, tmp_path, caplog, reports):
    monkeypatch.setitem(sys.modules, "tip_kernels.budget", types.SimpleNamespace(PrivacyBudget=Budget))
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
    pytest.importorskip("tip_kernels.budget")
    settings = {"ratio": 1.0, "std": 4.0, "floor_std": 4.0, "max_grad_norm": 1.0, "scores": "public"}
    one = client(epsilon=2.0, delta=1e-5, settings=settings)
    one.send(DataKind.WEIGHT_DIFF, as_numpy(an_update()))
    assert (tmp_path / "tip_budget.json").exists()
    send_many = (one.send(DataKind.WEIGHT_DIFF, as_numpy(an_update())) for _ in range(100))
    with pytest.raises(ContentBlockedException, match="BudgetExceeded"):
        list(send_many)


# Jobs


@pytest.mark.parametrize("tasks", [{}, {"tasks": None}, {"tasks": ["*"]}, {"tasks": ["train", "sub*"]}])
def test_tasks_that_no_filter_would_be_found_for(tasks):
    with pytest.raises(ValueError, match="expected the names of tasks"):
        FedJob("job").to_clients(integration.TIPFilter("net.Net"), filter_type=FilterType.TASK_RESULT, **tasks)


def test_a_filter_on_the_server():
    with pytest.raises(ValueError, match="on the server, where noise comes too late"):
        FedJob("job").to_server(integration.TIPFilter("net.Net"), filter_type=FilterType.TASK_RESULT, tasks=["train"])


@pytest.mark.parametrize("listed", [None, ["tip_kernels.integrations.nvflare.TIPFilter", f"{__name__}.Net"]])
def test_what_a_site_has_to_allow(tmp_path, listed):
    """Of a job without code of its own, whose classes NVFlare looks up in the site's resources."""
    resources = {} if listed is None else {"class_allow_list": listed}
    (tmp_path / "resources.json").write_text(json.dumps(resources))
    workspace = types.SimpleNamespace(get_resources_file_path=lambda: str(tmp_path / "resources.json"))
    allows = ComponentPathAuthorizer().authorize_component_config
    for path in ("tip_kernels.integrations.nvflare.TIPFilter", f"{__name__}.Net"):
        if listed is None:
            with pytest.raises(UnsafeComponentError, match=f"'{path}' .* is not in allow_list"):
                allows({"path": path}, workspace=workspace)
        else:
            allows({"path": path}, workspace=workspace)


def test_a_job_carries_neither_this_package_nor_torch(tmp_path):
    job = FedJob("job")
    job.set_app_packages(["other"])
    for kind in (FilterType.TASK_DATA, FilterType.TASK_RESULT):
        job.to_clients(integration.TIPFilter("net.Net", settings=SETTINGS), filter_type=kind, tasks=["train"])
    job.to_clients(ClientAPIExecutor("in_process", task_script_path="client.py"), tasks=["train"])
    job.to_server(FedAvg(num_clients=1, num_rounds=1))
    job.export_job(str(tmp_path))
    assert not list(tmp_path.rglob("*.py"))
    assert job.job.app_packages == ["other", "tip_kernels"]
    (path,) = tmp_path.rglob("config_fed_client.json")
    for chain in ("task_data_filters", "task_result_filters"):
        (entry,) = json.loads(path.read_text())[chain]
        assert entry["filters"] == [
            {"path": "tip_kernels.integrations.nvflare.TIPFilter", "args": {"model": "net.Net", "settings": SETTINGS}}
        ]


# In NVFlare's simulator


@pytest.mark.long
@pytest.mark.parametrize(("exchange", "transfer"), [("numpy", "FULL"), ("torch", "DIFF")])
def test_what_a_server_receives(tmp_path, exchange, transfer):
    """Two clients, two rounds: clipped updates with noise everywhere, and nothing else."""
    pytest.importorskip("sklearn")
    records = tmp_path / "records"
    records.mkdir()
    run = subprocess.run(
        [sys.executable, "-m", "tests.nvflare_job", str(tmp_path), exchange, transfer],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert {path.name for path in records.iterdir()} == {
        f"{what}.site-{site}.{count}" for what in ("came", "goes", "arrived") for site in (1, 2) for count in (0, 1)
    }
    residuals = [check_arrival(records, site, count, transfer) for site in (1, 2) for count in (0, 1)]
    for index, residual in enumerate(residuals):  # of each message its own
        assert all(np.corrcoef(residual, other)[0, 1] < 0.1 for other in residuals[:index])
    carried = [path for path in tmp_path.glob("digits/site-1/simulate_job/app_*/custom/**/*") if path.is_file()]
    assert {path.name for path in carried} == {"client.py", "digits_net.py", "probe.npz", "nvflare_recorder.py"}


def check_arrival(records, site: int, count: int, transfer: str) -> np.ndarray:
    """Compares what a client's training gave with what arrived; returns the noise in it."""
    (_, came, _), (kind, goes, _), (arrived_kind, arrived, meta) = (
        pickle.loads((records / f"{what}.site-{site}.{count}").read_bytes()) for what in ("came", "goes", "arrived")
    )
    assert kind.endswith("WEIGHTS" if transfer == "FULL" else "WEIGHT_DIFF")
    assert arrived_kind.endswith(kind.rpartition(".")[2])
    assert meta["filter_history"] == ["TIPFilter"]
    assert {name: value.dtype for name, value in arrived.items()} == {name: value.dtype for name, value in goes.items()}
    counter = "layers.1.num_batches_tracked"
    update = {name: np.asarray(value, np.float64) for name, value in goes.items() if name != counter}
    got = {name: np.asarray(arrived[name], np.float64) for name in update}
    if transfer == "FULL":
        base = {name: np.asarray(came[name], np.float64) for name in update}
        update, got = ({name: value[name] - base[name] for name in update} for value in (update, got))
        assert arrived[counter] == came[counter]
    norm = np.sqrt(sum((value**2).sum() for value in update.values()))
    scale = min(1, 2.0 / norm)
    variance = "layers.1.running_var"  # cut off at 0
    noise = np.concatenate([(got[name] - scale * update[name]).ravel() for name in update if name != variance])
    assert noise.std() == pytest.approx(0.02, rel=0.05)  # 5114 numbers: a standard error of 1 %
    assert abs(noise.mean()) < 0.02 * 5 / np.sqrt(noise.size)
    return noise
