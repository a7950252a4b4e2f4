"""A server that writes down every reply as it came."""

import pathlib

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .client_app import net

app = ServerApp()


class Recorded(FedAvg):
    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._folder = folder

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        torch.save([_note(reply) for reply in replies], self._folder / f"server-{server_round}.pt")
        return super().aggregate_train(server_round, replies)


def _note(reply: Message) -> dict:
    if reply.has_error():
        return {"error": reply.error.code, "reason": reply.error.reason, "content": reply.has_content()}
    arrays = reply.content["arrays"].to_torch_state_dict()
    return {"partition": reply.content["metrics"]["partition"], "arrays": dict(arrays), "records": list(reply.content)}


@app.main()
def main(grid: Grid, context: Context) -> None:
    folder = pathlib.Path(context.run_config["folder"])
    torch.manual_seed(0)
    Recorded(folder).start(grid, ArrayRecord(net().state_dict()), num_rounds=context.run_config["rounds"])
