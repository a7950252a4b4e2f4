"""Why a compiled library is not used: every reason that ``backends/native.py`` gives."""

import torch

from tip_kernels.backends import native

GPU = torch.device("cuda", 0)


def test_no_library(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_PACKAGE", tmp_path)
    assert native._load("_cpu", "no compiler") == (
        "the package was installed without its compiled library (no compiler then)"
    )


def test_a_library_that_does_not_load(tmp_path, monkeypatch):
    (tmp_path / "_cpu.abi3.so").write_bytes(b"no library")
    monkeypatch.setattr(native, "_PACKAGE", tmp_path)
    assert native._load("_cpu", "no compiler").startswith("_cpu.abi3.so does not load: ")


def test_reasons_against_cuda(monkeypatch):
    assert native.cuda_unavailable_reason(torch.device("cpu")) == "it runs on cuda tensors only, not on cpu"
    monkeypatch.setattr(native, "_CUDA_PROBLEM", "no nvcc")
    assert native.cuda_unavailable_reason(GPU) == "no nvcc"
    monkeypatch.setattr(native, "_CUDA_PROBLEM", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert native.cuda_unavailable_reason(GPU) == "torch finds no GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert native.cuda_unavailable_reason(GPU) == "it needs compute capability 8.0 or newer, this GPU has 7.5"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(native, "_cuda_problem", lambda index: f"an old driver for GPU {index}")
    assert native.cuda_unavailable_reason(GPU) == "an old driver for GPU 0"
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert native.cuda_unavailable_reason(torch.device("cuda")) == "an old driver for GPU 3"
    monkeypatch.setattr(native, "_cuda_problem", lambda index: None)
    assert native.cuda_unavailable_reason(GPU) is None
