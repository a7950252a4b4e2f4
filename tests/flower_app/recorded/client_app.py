"""Clients that write down what they would send without TIPMod, and die in the middle of its work when told to."""

import os
import pathlib
import signal
import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from tip_kernels import defense
from tip_kernels.integrations.flower import STATE, TIPMod

SETTINGS = {"ratio": 1.0, "std": 0.05, "floor_std": 0.05, "max_grad_norm": 1.0}
CLIENT_DIES = {"round": 3, "partition": 0}
"""Its process kills itself."""
NODE_DIES = {"round": 4, "partition": 1}
"""It waits for the test to kill its SuperNode."""


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))


def trained(received: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights far from the received ones, so that what is sent without clipping is seen in every tensor."""
    own = {name: t + 10.0 * torch.randn(t.shape) if t.is_floating_point() else t + 1 for name, t in received.items()}
    own["1.running_var"].abs_()
    return own


def die_in_the_middle(message: Message, context: Context, call_next):
    """A mod around TIPMod: half of the weights have their noise when the process dies."""
    where = {"round": message.content["config"]["server-round"], "partition": context.node_config["partition-id"]}
    if where not in (CLIENT_DIES, NODE_DIES):
        return call_next(message, context)
    put = defense.put

    def put_half(weights, values):
        put(dict(list(weights.items())[: len(weights) // 2]), values)
        (pathlib.Path(context.run_config["folder"]) / f"middle-{where['round']}").touch()
        if where == CLIENT_DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)

    defense.put = put_half
    return call_next(message, context)


app = ClientApp(mods=[die_in_the_middle, TIPMod(net, **SETTINGS)])


@app.train()
def train(message: Message, context: Context) -> Message:
    received = message.content["arrays"].to_torch_state_dict()
    own = trained(received)
    partition, number = context.node_config["partition-id"], message.content["config"]["server-round"]
    note = {
        "received": received,
        "own": own,
        "process": os.getpid(),
        "state": context.state[STATE]["tip"] if STATE in context.state else None,
    }
    torch.save(note, pathlib.Path(context.run_config["folder"]) / f"client-{number}-{partition}.pt")
    metrics = MetricRecord({"num-examples": 10, "partition": partition})
    return Message(RecordDict({"arrays": ArrayRecord(own), "metrics": metrics}), reply_to=message)
