"""A client of NVFlare around one filter, for tests of the filter; modules with ``pytest_plugins`` have its fixtures."""

import json
import types

import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.filter import FilterChainType, FilterContextKey
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.fuel.utils.component_builder import ComponentBuilder
from torch import nn

from tip_kernels import TIP, NoiseRNG
from tip_kernels.integrations import nvflare as integration

KEY = bytes(range(32))
SETTINGS = {"ratio": 0.5, "std": 0.1, "floor_std": 0.05, "max_grad_norm": 1.0}
MODEL = f"{__name__}.Net"


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
        arguments = {"model": MODEL, "settings": SETTINGS, **arguments}
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
    """Makes a client, whose workspace is ``tmp_path``, by the arguments of its filter."""
    return lambda **arguments: Client(tmp_path, monkeypatch, **arguments)


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


def a_result(**entries) -> Shareable:
    shareable = DXO(DataKind.WEIGHT_DIFF, as_numpy(an_update())).to_shareable()
    shareable.update(entries)
    return shareable
