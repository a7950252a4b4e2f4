"""The raw ops with ill-formed arguments: they raise, and nothing has changed. Users see test_arguments.py."""

import math
import os
import pathlib
import subprocess
import sys

import pytest
import torch

import tip_kernels as tip
from tip_kernels._op.call import Options, prepare
from tip_kernels._op.schemas import PerturbArguments

ROOT = pathlib.Path(__file__).parent.parent
NAMES = PerturbArguments._fields
LISTS = ("grads", "scores", "selected", "tensor_ids", "basis_ids", "bases", "high_dims", "shards", "amplitude_ids")
AMPLITUDES = [tip.Amplitudes([1.5] * 9, [0.5] * 9), None, tip.Amplitudes([1.5] * 5, [0.5] * 5)]
SUFFIXES = {"cpu": "", "cuda": "", "triton": "_triton", "reference": "_reference"}


def op_of(backend, pattern: str):
    return getattr(torch.ops.tip_kernels, pattern.format(SUFFIXES[backend.name]))


def valid_call(backend) -> dict:
    """The arguments of a call with three tensors and everything optional: a conv, its bias and a conv of 5 taps."""
    grads = [backend.gradient(4, 3, 3, 3), backend.gradient(4), backend.gradient(6, 2, 5)]
    scores = [backend.scores(9), None, backend.scores(6)]
    options = Options(
        ratio=0.5, std=0.1, rng=tip.NoiseRNG(bytes(32)), keep=0.5, floor_std=0.1, grad_scale=2.0,
        shards=[tip.Shard(2, 1, 9), None, None], amplitudes=AMPLITUDES,
        backend="reference",
    )  # fmt: skip
    given = prepare(grads, scores, options).arguments._asdict()
    return {name: list(value) if isinstance(value, list) else value for name, value in given.items()}


def first(change):
    """Changes the first element of a list."""
    return lambda values: [change(values[0]), *values[1:]]


def last(change):
    return lambda values: [*values[:-1], change(values[-1])]


def to(value):
    return lambda _: value


def resized(share: float):
    def resize(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.untyped_storage().resize_(int(tensor.untyped_storage().size() * share))
        return tensor

    return resize


def stepped(step: int):
    def change(state: torch.Tensor) -> torch.Tensor:
        return torch.cat([state[:4], state.new_tensor([step, 0])])

    return change


def repeated(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1].expand_as(tensor)


def every_second(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


PERTURB = {
    **{f"{name} too few": (name, lambda values: values[:-1]) for name in LISTS},
    **{f"{name} too many": (name, lambda values: [*values, values[-1]]) for name in LISTS},
    **{f"generator {n}": ("generator", to(n)) for n in (-1, 0, 1, 7, 9, 11, 13, 16, 2**32 + 12, 2**63 - 1)},
    **{f"keep {keep}": ("keep", to(keep)) for keep in (math.nan, math.inf, -0.1, 1.1)},
    **{f"tensor_ids {n}": ("tensor_ids", first(to(n))) for n in (-1, 3, 2**23, 2**32, -(2**63))},
    **{f"basis_ids {n}": ("basis_ids", first(to(n))) for n in (-2, 2, 2**32, -(2**63))},
    **{f"selected {n}": ("selected", first(to(n))) for n in (-1, 10, 2**40, -(2**63))},
    **{f"high_dims {n}": ("high_dims", first(to(n))) for n in (-1, 0, 10, 2**40)},
    **{f"first channel {n}": ("shards", lambda s, n=n: [n, *s[1:]]) for n in (-1, 6, 2**40, 2**63 - 1, -(2**63))},
    **{f"first kernel {n}": ("shards", lambda s, n=n: [s[0], n, *s[2:]]) for n in (-1, 7, 2**63 - 1, -(2**63))},
    **{f"kernels {n}": ("shards", lambda s, n=n: [*s[:2], n, *s[3:]]) for n in (-1, 3, 2**41, 2**62, 2**63 - 1)},
    "kernels of elements": ("shards", lambda s: [*s[:5], 2**41, *s[6:]]),
    **{f"step {n}": ("state", stepped(n)) for n in (-1, -(2**63), 2**63 - 1)},
    "state shorter": ("state", lambda state: state[:5]),
    "state longer": ("state", lambda state: torch.cat([state, state])),
    "state of int32": ("state", lambda state: state.int()),
    "state strided": ("state", every_second),
    "state expanded": ("state", repeated),
    "state resized": ("state", resized(0.8)),
    "state on meta": ("state", lambda state: state.to("meta")),
    **{f"{name} shorter ": (name, lambda table: table[:1]) for name in ("std", "floor_std")},
    **{f"{name} of float64": (name, lambda table: table.double()) for name in ("std", "floor_std", "grad_scale")},
    **{f"{name} strided": (name, every_second) for name in ("std", "floor_std")},
    **{f"{name} expanded": (name, repeated) for name in ("std", "floor_std")},
    **{f"{name} of 2 dimensions": (name, lambda table: table[None]) for name in ("std", "floor_std", "grad_scale")},
    **{f"{name} resized": (name, resized(0.0)) for name in ("std", "floor_std", "grad_scale")},
    "grads of int32": ("grads", first(lambda grad: grad.int())),
    "grads of float8": ("grads", first(lambda grad: grad.to(torch.float8_e4m3fn))),
    "grads of complex64": ("grads", first(lambda grad: grad.to(torch.complex64))),
    "grads sparse": ("grads", first(torch.Tensor.to_sparse)),
    "grads negated": ("grads", first(torch._neg_view)),
    "grads on meta": ("grads", first(lambda grad: grad.to("meta"))),
    "grads undefined": ("grads", first(to(None))),
    "grads repeat": ("grads", first(repeated)),
    "grads overlap": ("grads", first(lambda grad: grad.as_strided((4, 3, 3, 3), (9, 9, 3, 1)))),
    "grads without storage": ("grads", last(resized(0.0))),
    "grads with less storage": ("grads", last(resized(0.9))),
    "grads of 65 dimensions": ("grads", first(lambda grad: grad[(None,) * 61])),
    "grads of other taps": ("grads", first(lambda grad: grad[..., :2])),
    "grads with a basis of 2 dimensions": ("grads", first(lambda grad: grad.flatten(1))),
    "grads twice": ("grads", lambda grads: [grads[0], grads[0].flatten()[:4], grads[2]]),
    "scores shorter ": ("scores", first(lambda score: score[:5])),
    "scores of float64": ("scores", first(lambda score: score.double())),
    "scores strided": ("scores", first(every_second)),
    "scores expanded": ("scores", first(repeated)),
    "scores of 2 dimensions": ("scores", first(lambda score: score[None])),
    "scores resized": ("scores", first(resized(0.5))),
    "scores on meta": ("scores", first(lambda score: score.to("meta"))),
    "bases of float32": ("bases", first(lambda basis: basis.float())),
    "bases of other taps": ("bases", first(lambda basis: basis[:8, :8].contiguous())),
    "bases not square": ("bases", first(lambda basis: basis[:8])),
    "bases transposed": ("bases", first(lambda basis: basis.t())),
    "bases flat": ("bases", first(lambda basis: basis.flatten())),
    "bases empty": ("bases", first(lambda basis: basis[:0, :0])),
    "bases resized": ("bases", first(resized(0.5))),
    **{f"amplitude_ids {n}": ("amplitude_ids", first(to(n))) for n in (-2, 2, 2**32, -(2**63))},
    "amplitudes of other taps": ("amplitude_ids", first(to(1))),
    "amplitudes of a bias": ("amplitude_ids", to([0, 0, 1])),
    "amplitudes too few": ("amplitudes", lambda values: values[:-1]),
    "amplitudes of float64": ("amplitudes", first(lambda table: table.double())),
    "amplitudes transposed": ("amplitudes", first(lambda table: table.t().contiguous().t())),
    "amplitudes expanded": ("amplitudes", first(lambda table: table[:1].expand(2, 9))),
    "amplitudes of one row": ("amplitudes", first(lambda table: table[:1])),
    "amplitudes flat": ("amplitudes", first(lambda table: table.flatten())),
    "amplitudes empty": ("amplitudes", first(lambda table: table[:, :0])),
    "amplitudes resized": ("amplitudes", first(resized(0.5))),
    "amplitudes on meta": ("amplitudes", first(lambda table: table.to("meta"))),
}  # fmt: skip


@pytest.mark.parametrize("case", PERTURB, ids=lambda case: case.strip())
def test_perturb_refuses(case, backend):
    name, spoil = PERTURB[case]
    call = valid_call(backend)
    before = [call["state"].clone(), *(grad.clone() for grad in call["grads"])]
    watched = [call["state"], *call["grads"]]
    spoiled = {**call, name: spoil(call[name])}
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        op_of(backend, "perturb{}_")(*spoiled.values())
    assert all(map(torch.equal, watched, before))


def test_perturb_runs_when_it_is_not_spoiled(backend):
    call = valid_call(backend)
    before = [grad.clone() for grad in call["grads"]]
    op_of(backend, "perturb{}_")(*call.values())
    assert int(call["state"][4]) == 1
    assert not any(map(torch.equal, call["grads"], before))


@pytest.mark.parametrize("other", ["scores", "std", "floor_std", "grad_scale", "state", "bases", "amplitudes"])
def test_perturb_refuses_memory_of_another_argument(other, backend):
    call = valid_call(backend)
    lies_in = call[other][0] if isinstance(call[other], list) else call[other]
    dtype = torch.float32 if other == "state" else lies_in.dtype
    call["grads"][1] = lies_in.view(dtype).reshape(-1)[-1:]
    before = [call["state"].clone(), *(grad.clone() for grad in call["grads"])]
    with pytest.raises(RuntimeError, match="memory of another argument"):
        op_of(backend, "perturb{}_")(*call.values())
    assert all(map(torch.equal, [call["state"], *call["grads"]], before))


def test_perturb_writes_to_leaves_and_inference_tensors(backend):
    """As torch.no_grad() alone would not let PyTorch's own functions do."""
    call, plain = valid_call(backend), valid_call(backend)
    call["grads"][0].requires_grad_()
    with torch.inference_mode():
        call["grads"][2] = call["grads"][2].clone()
    op_of(backend, "perturb{}_")(*call.values())
    op_of(backend, "perturb{}_")(*plain.values())
    assert all(map(torch.equal, call["grads"], plain["grads"]))


WORDS = {
    **{f"out of {dtype}": {"dtype": dtype} for dtype in (torch.int8, torch.int16, torch.int64, torch.float32)},
    **{f"generator {n}": {"generator": n} for n in (0, -12, 7, 11, 2**32 + 12)},
    **{f"tensor {n}": {"tensor_id": n} for n in (-1, 2**24, 2**32, -(2**63))},
    **{f"position {n}": {"first_position": n} for n in (-1, -(2**63), 2**44 - 39, 2**63 - 1)},
    "position of philox": {"first_position": 2**42 - 39, "generator": 10},
    "repeated": {"out": lambda out: out[:1].expand_as(out)},
    "without storage": {"out": resized(0.0)},
    "with less storage": {"out": resized(0.5)},
    "on meta": {"out": lambda out: out.to("meta")},
    "state shorter": {"state": lambda state: state[:5]},
    "state strided": {"state": every_second},
    "state of int32": {"state": lambda state: state.int()},
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_words_refuses(case, backend):
    given = {"dtype": torch.int32, "tensor_id": 3, "first_position": 5, "generator": 12, **WORDS[case]}
    memory = backend.zeros(60, dtype=given["dtype"])
    out, state = memory[10:50], tip.NoiseRNG(bytes(32)).state(backend.device).clone()
    before = state.clone()
    with pytest.raises(RuntimeError, match="expected"):
        op_of(backend, "words{}_")(
            given.get("out", lambda out: out)(out), given.get("state", lambda state: state)(state), given["tensor_id"],
            given["first_position"], given["generator"],
        )  # fmt: skip
    assert (memory == 0).all()
    assert torch.equal(state, before)


def test_words_refuses_to_write_over_the_state(backend):
    state = tip.NoiseRNG(bytes(32)).state(backend.device).clone()
    before = state.clone()
    with pytest.raises(RuntimeError, match="memory of another argument"):
        op_of(backend, "words{}_")(state.view(torch.int32)[:4], state, 0, 0, 12)
    assert torch.equal(state, before)


@pytest.mark.parametrize("layout", ["sliced", "transposed", "channels_last"])
def test_words_writes_elements_and_nothing_between(layout, backend):
    state = tip.NoiseRNG(bytes(32)).state(backend.device)
    want = backend.zeros(3, 4, 5, dtype=torch.int32)
    op_of(backend, "words{}_")(want, state, 3, 7, 12)
    memory = backend.zeros(300, dtype=torch.int32)
    strides = {"sliced": (40, 10, 2), "transposed": (1, 3, 12), "channels_last": (20, 1, 4)}[layout]
    out = memory.as_strided((3, 4, 5), strides, 20)
    op_of(backend, "words{}_")(out, state, 3, 7, 12)
    assert torch.equal(out, want)
    out.zero_()
    assert (memory == 0).all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x.int(), lambda x: x.to(torch.complex64), lambda x: x[0, 0, 0], torch.Tensor.to_sparse, resized(0.0),
        resized(0.5), lambda x: x.to(torch.float8_e4m3fn),
    ],
    ids=["int32", "complex64", "one dimension", "sparse", "no storage", "less storage", "float8"],
)  # fmt: skip
def test_channel_saliency_refuses(spoil, backend):
    with pytest.raises(RuntimeError):
        op_of(backend, "channel_saliency{}")(spoil(backend.gradient(2, 3, 4, 4)))


def test_fakes_refuse_mixed_devices():
    """A meta tensor among others brings the call to the fake, which would do nothing and say nothing."""
    x = torch.zeros(4)
    state = tip.NoiseRNG(bytes(32)).state(x.device).clone()
    for suffix in ("", "_reference", "_triton"):
        with pytest.raises(RuntimeError, match="expected all tensors on one device, got cpu, meta"):
            getattr(torch.ops.tip_kernels, f"words{suffix}_")(x.int(), state.to("meta"), 0, 0, 12)


def test_cpu_variant_takes_no_arguments():
    if "cpu" not in tip.available_backends():
        pytest.skip("no compiled library")
    with pytest.raises((RuntimeError, TypeError)):
        torch.ops.tip_kernels.cpu_variant(1)


@pytest.mark.parametrize(("name", "calls"), [("cpu", 600), ("reference", 300), ("triton", 30)])
def test_random_ill_formed_calls(name, calls):
    """In processes of their own: a crash or a hang would be a failure that tells its call's number."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if name == "triton":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("runs in Triton's interpreter, without a GPU")
        environment["TRITON_INTERPRET"] = "1"
    elif name not in tip.available_backends():
        pytest.skip("no compiled library")
    command = [
        sys.executable,
        "-m",
        "tests.fuzz_raw_ops",
        "--calls",
        str(calls),
        "--backends",
        name,
        "--seconds",
        "300",
    ]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 failures, 0 crashes, 0 hangs" in run.stdout


def between_addresses(tensor: torch.Tensor) -> torch.Tensor:
    """The same values one byte off, as on a buffer that a file or a network filled."""
    data = bytearray(1) + bytearray(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(data, dtype=tensor.dtype, offset=1).view(tensor.shape)


@pytest.mark.parametrize("name", ["grads", "scores", "bases", "std", "floor_std", "grad_scale", "state", "amplitudes"])
def test_tensors_between_addresses_are_refused(name, backend):
    """x86 reads them, other processors and GPUs do not, and C++ gives them no meaning."""
    if backend.device.type != "cpu":
        pytest.skip("buffers are on the CPU")
    arguments = valid_call(backend)
    value = arguments[name]
    if isinstance(value, list):
        arguments[name] = [between_addresses(value[0]), *value[1:]]
    else:
        arguments[name] = between_addresses(value)
    before = [grad.clone() for grad in arguments["grads"]]
    with pytest.raises(RuntimeError, match=r"at (a multiple|multiples) of"):
        op_of(backend, "perturb{}_")(*arguments.values())
    assert all(map(torch.equal, arguments["grads"], before))


def test_other_ops_refuse_tensors_between_addresses(backend):
    if backend.device.type != "cpu":
        pytest.skip("buffers are on the CPU")
    with pytest.raises(RuntimeError, match=r"at (a multiple|multiples) of"):
        op_of(backend, "channel_saliency{}")(between_addresses(torch.ones(2, 3, 4)))
    with pytest.raises(RuntimeError, match=r"at (a multiple|multiples) of"):
        op_of(backend, "words{}_")(
            between_addresses(torch.zeros(8, dtype=torch.int32)), torch.zeros(6).long(), 0, 0, 12
        )
