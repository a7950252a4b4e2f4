"""The filter in jobs of NVFlare: how they are made, and what a server receives."""

import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import types

import numpy as np
import pytest

pytest.importorskip("nvflare")

from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from nvflare.job_config.defs import FilterType
from nvflare_client import MODEL, SETTINGS

from tip_kernels.integrations import nvflare as integration

pytestmark = pytest.mark.filterwarnings("ignore:no Grad-CAM scores for conv.weight:RuntimeWarning")

ROOT = pathlib.Path(__file__).parent.parent


# Jobs


@pytest.mark.parametrize("tasks", [{}, {"tasks": None}, {"tasks": ["*"]}, {"tasks": ["train", "sub*"]}])
def test_tasks_that_no_filter_would_be_found_for(tasks):
    with pytest.raises(ValueError, match="expected the names of tasks"):
        FedJob("job").to_clients(integration.TIPFilter("net.Net"), filter_type=FilterType.TASK_RESULT, **tasks)


def test_a_filter_on_the_server():
    with pytest.raises(ValueError, match="on the server, where noise comes too late"):
        FedJob("job").to_server(integration.TIPFilter("net.Net"), filter_type=FilterType.TASK_RESULT, tasks=["train"])


@pytest.mark.parametrize("listed", [None, ["tip_kernels.integrations.nvflare.TIPFilter", MODEL]])
def test_what_a_site_has_to_allow(tmp_path, listed):
    """Of a job without code of its own, whose classes NVFlare looks up in the site's resources."""
    resources = {} if listed is None else {"class_allow_list": listed}
    (tmp_path / "resources.json").write_text(json.dumps(resources))
    workspace = types.SimpleNamespace(get_resources_file_path=lambda: str(tmp_path / "resources.json"))
    allows = ComponentPathAuthorizer().authorize_component_config
    for path in ("tip_kernels.integrations.nvflare.TIPFilter", MODEL):
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


@pytest.mark.federation
def test_the_example(tmp_path):
    """By its command, with fewer rounds."""
    pytest.importorskip("sklearn")
    command = [sys.executable, "examples/nvflare/job.py", "--rounds", "2", "--workspace", str(tmp_path)]
    run = run_here(command)
    assert run.returncode == 0, run.stdout + run.stderr
    for site in (1, 2):
        log = (tmp_path / f"digits/site-{site}/log.txt").read_text()
        assert log.count("TIP has perturbed 8 tensors of kind WEIGHTS") == 2
    (accuracy,) = re.findall(r"accuracy of the global model: (.*)%", run.stdout)
    assert float(accuracy) > 50


@pytest.mark.federation
@pytest.mark.parametrize(("exchange", "transfer"), [("numpy", "FULL"), ("torch", "DIFF")])
def test_what_a_server_receives(tmp_path, exchange, transfer):
    """Two clients, two rounds: clipped updates with noise everywhere, and nothing else."""
    pytest.importorskip("sklearn")
    run, records = run_job(tmp_path, exchange, transfer)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {path.name for path in records.iterdir()} == {
        f"{what}.site-{site}.{count}" for what in ("came", "goes", "arrived") for site in (1, 2) for count in (0, 1)
    }
    residuals = [check_arrival(records, site, count, transfer) for site in (1, 2) for count in (0, 1)]
    for index, residual in enumerate(residuals):  # of each message its own
        assert all(np.corrcoef(residual, other)[0, 1] < 0.1 for other in residuals[:index])
    carried = [path for path in tmp_path.glob("digits/site-1/simulate_job/app_*/custom/**/*") if path.is_file()]
    assert {path.name for path in carried} == {"client.py", "digits_net.py", "probe.npz", "nvflare_recorder.py"}


@pytest.mark.federation
def test_what_a_server_receives_of_a_result_that_is_refused(tmp_path):
    """A return code, and the reason is in the client's log."""
    pytest.importorskip("sklearn")
    run, records = run_job(tmp_path, "numpy", "FULL", "spoil")
    assert run.returncode != 0  # FedAvg needs both clients
    arrived = list(records.glob("arrived.*"))
    assert arrived  # of one client or both: the first ends the job
    for path in arrived:
        assert pickle.loads(path.read_bytes()) == ("TASK_RESULT_FILTER_ERROR", {}, {})
        log = (tmp_path / "digits" / path.name.split(".")[1] / "log.txt").read_text()
        assert "TIP sends nothing of this task: ValueError: expected 'layers.0.bias' to be finite" in log


def run_job(folder: pathlib.Path, *arguments: str) -> tuple[subprocess.CompletedProcess, pathlib.Path]:
    """Runs the example's job in the simulator; returns that and the folder of the records."""
    records = folder / "records"
    records.mkdir()
    return run_here([sys.executable, "-m", "tests.nvflare_job", str(folder), *arguments]), records


def run_here(command: list[str]) -> subprocess.CompletedProcess:
    """Runs a command that imports the package from its sources, and so do the processes that it starts."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


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
