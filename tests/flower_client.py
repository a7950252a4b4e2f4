"""A Flower client around one TIPMod and its messages, for tests of the mod; ``pytest_plugins`` brings its fixture."""

import time

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, Metadata, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from torch import nn

from tip_kernels import TIP, NoiseRNG, rng
from tip_kernels.integrations.flower import TIPMod, to_record, to_tensors

KEY = bytes(range(32))
SETTINGS = {"ratio": 0.5, "std": 0.1, "floor_std": 0.02, "max_grad_norm": 1.0}
IMAGES, LABELS = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 1])
PUBLIC = {**SETTINGS, "probe": (IMAGES, LABELS)}


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


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


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def refuse(*_arguments, **_named):
    raise OSError("/private/path")
