"""The server: Flower's FedAvg, and the accuracy of the global model after each round."""

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from tip_digits import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    data = str(context.run_config["data"])
    torch.manual_seed(0)
    model = task.Net(task.channels(data))

    def evaluate(_round: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord({"accuracy": task.accuracy(model, task.test_set(data))})

    FedAvg(fraction_evaluate=0.0).start(
        grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
