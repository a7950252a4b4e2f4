"""Federated training on scikit-learn's digits in NVFlare's simulator, with TIP in front of what the clients send.

    python examples/nvflare/job.py [--data FOLDER]

``--data`` takes CIFAR-10 instead, from parquet files with the columns of ``uoft-cs/cifar10``.
The clients' log says how much of a message gets noise and, in each round, that TIP has perturbed it; the last line
says what the global model is worth.
"""

import argparse
import pathlib
import shlex
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from nvflare.apis.filter import Filter
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import ExchangeFormat, TransferType
from nvflare.recipe.sim_env import SimEnv

from tip_kernels.integrations.nvflare import TIPFilter

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE))  # where the job finds the files that it carries
from digits_net import Net, channels, public, test  # noqa: E402

SETTINGS = {"ratio": 0.5, "std": 0.02, "floor_std": 0.02, "max_grad_norm": 2.0, "scores": "public"}
EXCHANGES = {"numpy": ExchangeFormat.NUMPY, "torch": ExchangeFormat.PYTORCH}
TASKS = ["train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--exchange", choices=EXCHANGES, default="numpy")
    parser.add_argument("--transfer", choices=["FULL", "DIFF"], default="FULL")
    parser.add_argument("--data", default="digits", help="a folder with train*.parquet of CIFAR-10; digits by default")
    parser.add_argument("--epsilon", type=float, help="privacy budget of each client, at a delta of 1e-5")
    parser.add_argument("--workspace", type=pathlib.Path, help="a new folder in the one for temporary files by default")
    options = vars(parser.parse_args())
    workspace = options.pop("workspace") or pathlib.Path(tempfile.mkdtemp(prefix="tip_nvflare_"))
    model = run(make_recipe(workspace, **options), workspace, options["clients"])
    print(f"accuracy of the global model: {accuracy(model, options['data']):.1%}; all else is in {workspace}")


def make_recipe(
    workspace: pathlib.Path,
    *,
    clients: int = 2,
    rounds: int = 2,
    exchange: str = "numpy",
    transfer: str = "FULL",
    data: str = "digits",
    epsilon: float | None = None,
    batch_norm: bool = False,
    before: Filter | None = None,
) -> FedAvgRecipe:
    """FedAvg by NVFlare's own recipe; the last lines are what TIP adds, after a filter ``before`` it."""
    recipe = FedAvgRecipe(
        name="digits",
        model=Net(batch_norm, channels(data)),
        min_clients=clients,
        num_rounds=rounds,
        train_script=str(HERE / "client.py"),
        train_args=f"--clients {clients} --data {shlex.quote(data)}" + " --batch-norm" * batch_norm,
        server_expected_format=EXCHANGES[exchange],
        params_transfer_type=TransferType[transfer],
    )
    images, labels = public(data)
    np.savez(workspace / "probe.npz", images=images.numpy(), labels=labels.numpy())
    recipe.add_client_file(str(workspace / "probe.npz"))
    tip_filter = TIPFilter(
        model="digits_net.Net",
        model_args={"batch_norm": batch_norm, "channels": channels(data)},
        settings=SETTINGS,
        probe="{JOB_CUSTOM_DIR}/probe.npz",
        epsilon=epsilon,
        delta=None if epsilon is None else 1e-5,
    )
    if before is not None:
        recipe.add_client_output_filter(before, tasks=TASKS)
    recipe.add_client_input_filter(tip_filter, tasks=TASKS)
    recipe.add_client_output_filter(tip_filter, tasks=TASKS)
    return recipe


def run(recipe: FedAvgRecipe, workspace: pathlib.Path, clients: int) -> dict[str, Any]:
    """Runs it in the simulator, a process for each client, and returns the weights of the global model."""
    env = SimEnv(num_clients=clients, workspace_root=str(workspace))
    result = pathlib.Path(recipe.execute(env).get_result())
    return torch.load(result / "server/simulate_job/app_server/FL_global_model.pt")["model"]


def accuracy(weights: dict[str, Any], data: str) -> float:
    model = Net(channels=channels(data))
    model.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    images, labels = test(data)
    with torch.no_grad():
        return (model.eval()(images).argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    main()
