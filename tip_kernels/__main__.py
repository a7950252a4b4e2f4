"""python -m tip_kernels: the backends, where they run, and whether they can run here."""

import torch

from . import __version__, _dispatch


def main() -> None:
    """Prints the versions and the backend table, fastest first."""
    print(f"tip_kernels {__version__}, torch {torch.__version__}\n")
    rows = [("backend", "runs on", "here"), *((b.name, b.runs_on, _here(b)) for b in _dispatch.BACKENDS)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, runs_on, here in rows:
        print(f"{name:{widths[0]}}  {runs_on:{widths[1]}}  {here}")


def _here(backend: _dispatch.Backend) -> str:
    """Whether the backend can run on a device of this machine, and if not, why."""
    reasons = {device: backend.why_not(torch.device(device)) for device in _devices()}
    able = [device for device, reason in reasons.items() if reason is None]
    if able:
        variant = f" ({torch.ops.tip_kernels.cpu_variant()})" if backend.name == "cpu" else ""
        return "yes, on " + " and ".join(able) + variant
    return "no: " + "; ".join(dict.fromkeys(reason for reason in reasons.values() if reason))


def _devices() -> list[str]:
    """The device types of this machine, the accelerator last."""
    accelerator = torch.accelerator.current_accelerator()
    return ["cpu"] if accelerator is None else ["cpu", accelerator.type]


if __name__ == "__main__":
    main()
