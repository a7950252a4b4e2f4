"""The norm of gradients and the factor that clips it, in plain PyTorch."""

import torch

_LEAST_NORMAL = torch.finfo(torch.float32).tiny


def norm_of(
    grads: list[torch.Tensor], forms: list[torch.Tensor | None], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """The norm of gradients of which each counts by its form, or as it is; of this dtype."""
    pairs = list(zip(grads, forms, strict=True))
    even = [(grad, form) for grad, form in pairs if form is None or form.numel() == 1]
    norms = list(torch._foreach_norm([grad for grad, _ in even], 2, dtype)) if even else []
    norms = [norm if form is None else norm * form.to(dtype)[0, 0] for norm, (_, form) in zip(norms, even, strict=True)]
    for grad, form in pairs:
        if form is not None and form.numel() > 1:
            kernels = grad.reshape(-1, len(form)).to(dtype)
            norms.append(torch.linalg.vector_norm(kernels @ form.T.to(dtype)))
    if not norms:
        return torch.zeros((), dtype=dtype, device=device)
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def factor(norm: torch.Tensor, grad_scale: torch.Tensor | None, max_norm: float) -> torch.Tensor:
    """What clips gradients of a norm to another and scales them, float32 [].

    Normal numbers are rounded down. Others, which are rounded more coarsely, become 0.
    """
    scale = torch.ones((), dtype=torch.float32, device=norm.device) if grad_scale is None else grad_scale
    clips = (max_norm / (norm * scale.abs() + 1e-6) * (1 - 2.0**-24)).clamp(max=1.0)
    found = torch.Tensor.float(clips * scale)
    return torch.where(found.abs() < _LEAST_NORMAL, 0.0, found)
