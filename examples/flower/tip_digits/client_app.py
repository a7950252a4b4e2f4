"""A client: trains on its own images, and the mod puts noise on what it sends."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from tip_digits import task

from tip_kernels.integrations.flower import TIPMod

SETTINGS = {"ratio": 0.3, "std": 0.03, "floor_std": 0.03, "max_grad_norm": 2.0}
"""Noise on each number of an update whose norm is at most 2."""


def tip_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """TIPMod for the model that the run's config asks for. With a fixed model, the mod itself could be in the list."""
    data = str(context.run_config["data"])
    if not context.run_config["tip"]:
        return call_next(message, context)
    mod = TIPMod(lambda: task.Net(task.channels(data)), probe=lambda: task.public(data), **SETTINGS)
    return mod(message, context, call_next)


app = ClientApp(mods=[tip_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    config = context.run_config
    data = str(config["data"])
    images = task.of_client(data, int(context.node_config["partition-id"]), int(context.node_config["num-partitions"]))
    model = task.Net(task.channels(data))
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    loss = task.train(model, images, int(config["local-epochs"]), float(config["lr"]))
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"train-loss": loss, "num-examples": len(images[0])}),
    }
    return Message(RecordDict(content), reply_to=message)
