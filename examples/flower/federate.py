"""python -m examples.flower.federate: a SuperLink and two SuperNodes on this machine, and this folder's app on them.

Prints what Flower logs, and after each round the accuracy of the global model on the server's digits. README.md tells
what one should see. Whatever follows is a run config: ``tip=false num-server-rounds=5``.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import IO

APP = pathlib.Path(__file__).parent
ROOT = APP.parent.parent
NODES = 2
PATIENCE = 120.0
"""Seconds in which the SuperLink must answer."""


class Federation:
    """Running processes of Flower, each the leader of a group of its own.

    Attributes:
        home: the folder with Flower's own files and a log of each process.
        supernodes: the processes of the SuperNodes.
    """

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.supernodes: list[subprocess.Popen[bytes]] = []
        self._environment = _environment(home)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts a SuperLink and its SuperNodes on free ports of 127.0.0.1."""
        port, *others = _free_ports(1 + NODES)
        _write_config(self.home, port)
        link = ["--insecure", "--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]
        superlink = self._start("flower-superlink", *link)
        _wait_for(f"http://127.0.0.1:{port}/health", superlink)
        self.supernodes = [self._start_node(port, other, index) for index, other in enumerate(others)]

    def run(self, app: pathlib.Path, config: str = "", output: IO[str] | None = None) -> subprocess.Popen[str]:
        """Runs an app by ``flwr run --stream``, which ends with the app and prints the server's log."""
        options = ["--run-config", config] if config else []
        command = [_tool("flwr"), "run", str(app), "local", "--stream", *options]
        return subprocess.Popen(command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, text=True)

    def stop(self) -> None:
        """Ends all processes, by their groups: SuperLink and SuperNodes have some of their own."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start_node(self, superlink: int, port: int, index: int) -> subprocess.Popen[bytes]:
        node = f"partition-id={index} num-partitions={NODES}"
        link = ["--insecure", "--superlink", f"127.0.0.1:{superlink}", "--host", "127.0.0.1", "--port", str(port)]
        return self._start("flower-supernode", *link, "--node-config", node)

    def _start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{name}-{len(self._processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [_tool(name), *options],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process


@contextlib.contextmanager
def federation() -> Iterator[Federation]:
    """A federation that has started; its processes and files go at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = Federation(pathlib.Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def _environment(home: pathlib.Path) -> dict[str, str]:
    """Flower without telemetry and update check, which finds its own commands and this package."""
    paths = {
        "PATH": [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]],
        "PYTHONPATH": [str(ROOT), os.environ.get("PYTHONPATH", "")],
    }
    joined = {name: os.pathsep.join(filter(None, parts)) for name, parts in paths.items()}
    return {
        **os.environ,
        **joined,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",  # several clients share this machine
    }


def _write_config(home: pathlib.Path, port: int) -> None:
    """Tells ``flwr run`` where the SuperLink is."""
    lines = [
        "[superlink]",
        'default = "local"',
        "[superlink.local]",
        f'address = "127.0.0.1:{port}"',
        "insecure = true",
    ]
    (home / "config.toml").write_text("\n".join(lines) + "\n")


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"expected flower-superlink to answer within {PATIENCE:.0f} s, got nothing")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _tool(name: str) -> str:
    return str(pathlib.Path(sys.executable).parent / name)


def main() -> int:
    with federation() as running:
        return running.run(APP, " ".join(sys.argv[1:])).wait()


if __name__ == "__main__":
    sys.exit(main())
