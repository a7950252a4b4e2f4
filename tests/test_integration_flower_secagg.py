"""TIPMod behind Flower's SecAgg+, whole and in this process: the server has sums only, and the noise is in them.

Flower's own workflow, mod and cryptography; only the way of the messages is ours.
"""

import copy
import inspect
import types

import numpy as np
import pytest
import torch
from torch import nn

from tip_kernels import TIP

pytest.importorskip("flwr")

from flwr.app import Context, Error, Message, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.constant import ErrorCode
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from tip_kernels.integrations.flower import TIPMod

pytestmark = pytest.mark.filterwarnings("ignore:no Grad-CAM scores:RuntimeWarning")

SETTINGS = {"ratio": 1.0, "std": 0.2, "floor_std": 0.2, "max_grad_norm": 1.0}
EXAMPLES = 100
"""Of each client: equal weights, on which a shared noise rests."""
QUANTUM = 16 / 2**22
"""Of what SecAgg+ rounds to, with its defaults."""


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))


def initial() -> list[np.ndarray]:
    torch.manual_seed(0)
    return [tensor.numpy() for tensor in net().state_dict().values()]


def trained(weights: list[np.ndarray], node: int) -> list[np.ndarray]:
    generator = np.random.default_rng(node)
    return [array + generator.normal(0, 0.01, array.shape).astype(np.float32) for array in weights]


class Client(NumPyClient):
    def __init__(self, node: int, spoils: bool) -> None:
        self._node = node
        self._spoils = spoils

    def fit(self, parameters, config):
        own = trained(parameters, self._node)
        if self._spoils:
            own[0][0] = np.nan
        return own, EXAMPLES, {}


class InProcess(Grid):
    """Brings messages to one ClientApp for each node, and keeps the replies that the server gets."""

    def __init__(self, mods, nodes: int, spoiler: int | None = None) -> None:
        self.replies: list[Message] = []
        self._contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in range(1, nodes + 1)}
        self._app = ClientApp(
            lambda context: Client(context.node_id, context.node_id == spoiler).to_client(), mods=list(mods)
        )

    def send_and_receive(self, messages, *, timeout=None):
        replies = [self._answer(copy.deepcopy(message)) for message in messages]
        self.replies += replies
        return replies

    def _answer(self, message):
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # as Flower's client process does
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    def get_node_ids(self):
        return list(self._contexts)

    def set_run(self, run): ...

    @property
    def run(self):
        return types.SimpleNamespace(run_id=1)

    def create_message(self, *arguments, **named): ...

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...


class Tap:
    """A mod that keeps what comes out of TIPMod, before it is masked."""

    def __init__(self) -> None:
        self.seen: dict[int, list[np.ndarray]] = {}

    def __call__(self, message, context, call_next):
        reply = call_next(message, context)
        if reply.has_content():
            self.seen[context.node_id] = reply.content["fitres.parameters"].to_numpy_ndarrays()
        return reply


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    """What a SuperLink gives a ServerApp's process."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def one_round(mods, nodes: int = 3, spoiler: int | None = None):
    """(the grid, the global weights after a round of SecAgg+)."""
    grid = InProcess(mods, nodes, spoiler)
    found = []

    class Kept(FedAvg):
        def aggregate_fit(self, server_round, results, failures):
            parameters, metrics = super().aggregate_fit(server_round, results, failures)
            found.append(parameters_to_ndarrays(parameters))
            return parameters, metrics

    strategy = Kept(
        fraction_evaluate=0.0,
        min_fit_clients=nodes,
        min_available_clients=nodes,
        initial_parameters=ndarrays_to_parameters(initial()),
    )
    context = LegacyContext(Context(1, 0, {}, RecordDict(), {}), ServerConfig(num_rounds=1), strategy)
    DefaultWorkflow(fit_workflow=SecAggPlusWorkflow(1.0, 0.5, max_weight=2.0 * EXAMPLES))(grid, context)
    return grid, found[0] if found else None


def assert_only_sums(grid: InProcess) -> None:
    for reply in grid.replies:
        if reply.has_content():
            assert not any(reply.content.array_records.values())


def mean(seen: dict[int, list[np.ndarray]]) -> list[np.ndarray]:
    return [np.mean(arrays, axis=0) for arrays in zip(*seen.values(), strict=True)]


def test_the_sum_is_that_of_perturbed_weights():
    tap = Tap()
    grid, found = one_round([secaggplus_mod, tap, TIPMod(net, **SETTINGS)])
    assert_only_sums(grid)
    assert len(tap.seen) == 3
    for array, expected in zip(found, mean(tap.seen), strict=True):
        assert np.abs(array - expected).max() < 4 * QUANTUM
    for node, arrays in tap.seen.items():
        noise = np.concatenate([(a - b).ravel() for a, b in zip(arrays, trained(initial(), node), strict=True)])
        assert abs(noise.std() / SETTINGS["std"] - 1) < 0.1


def noise_of(found, nodes) -> np.ndarray:
    """What is in a global model besides the clients' weights; they are within the clipping norm."""
    means = mean({node: trained(initial(), node) for node in range(1, nodes + 1)})
    return np.concatenate([(a - b).ravel() for a, b in zip(found, means, strict=True)])


def test_clients_share_the_noise_of_a_sum():
    if "shares" not in inspect.signature(TIP).parameters:
        pytest.skip("this TIP has no shares")
    tap = Tap()
    nodes = 4
    mod = TIPMod(net, shares=nodes, honest=3, **SETTINGS)
    _, found = one_round([secaggplus_mod, tap, mod], nodes)
    in_sum = nodes * noise_of(found, nodes)
    tolerance = 5 / (2 * in_sum.size) ** 0.5
    assert abs(in_sum.std() / SETTINGS["std"] - 1) < tolerance
    for node, arrays in tap.seen.items():
        own = np.concatenate([(a - b).ravel() for a, b in zip(arrays, trained(initial(), node), strict=True)])
        assert abs(own.std() / (SETTINGS["std"] / 2) - 1) < tolerance


def test_masks_of_flower_have_32_bits():
    """Why docs/frameworks.md warns of shares against a server that searches; when it fails, Flower has mended it."""
    seed = np.random.default_rng(0).bytes(32)
    folded = np.bitwise_xor.reduce(np.frombuffer(seed, np.uint32)).tobytes()
    assert np.array_equal(*(pseudo_rand_gen(one, 2**32, [(9,)])[0] for one in (seed, folded + bytes(28))))


def test_a_client_that_refuses_drops_out():
    tap = Tap()
    grid, found = one_round([secaggplus_mod, tap, TIPMod(net, **SETTINGS)], nodes=4, spoiler=2)
    assert_only_sums(grid)
    assert sorted(tap.seen) == [1, 3, 4]
    for array, expected in zip(found, mean(tap.seen), strict=True):
        assert np.abs(array - expected).max() < 4 * QUANTUM
    failed = [reply.metadata.src_node_id for reply in grid.replies if reply.has_error()]
    assert failed == [2]


def test_the_mods_in_the_wrong_order_send_nothing():
    grid, found = one_round([TIPMod(net, **SETTINGS), secaggplus_mod])
    assert found is None
    assert all(reply.has_error() for reply in grid.replies)
    assert "expected one ArrayRecord in the request, got 0" in grid.replies[0].error.reason
