"""Bad input: the error names the argument and the layer, no gradient has changed and no step is used."""

import inspect
import math

import numpy as np
import pytest
import torch

import tip_kernels as tip
from tip_kernels import Shard
from tip_kernels._op.call import Options
from tip_kernels.rng import GENERATORS

NAMES = ("conv", "bias", "last")


@pytest.fixture
def call(backend):
    """A good call's arguments, on the backend's device; ``last`` is the tensor that tests spoil."""
    with backend.device:
        yield {
            "grads": [backend.gradient(4, 3, 3, 3), backend.gradient(4), backend.gradient(6, 2, 3, 3, seed=1)],
            "scores": [backend.scores(4), None, backend.scores(6)],
            "ratio": 0.5,
            "std": 0.1,
            "floor_std": 0.01,
            "rng": tip.NoiseRNG.from_seed(0),
            "names": NAMES,
            "backend": backend.name,
        }


def refused(call, error, message):
    before = [grad.detach().clone() if isinstance(grad, torch.Tensor) else grad for grad in call["grads"]]
    rng = call["rng"]
    with pytest.raises(error, match=message):
        tip.perturb_(**call)
    for grad, old in zip(call["grads"], before, strict=True):
        if isinstance(grad, torch.Tensor) and grad.layout is torch.strided and not grad.is_meta:
            assert torch.equal(grad, old)
    if isinstance(rng, tip.NoiseRNG):
        assert rng.step == 0


def test_the_call_is_good_unspoilt(call):
    before = [grad.clone() for grad in call["grads"]]
    tip.perturb_(**call)
    assert not any(map(torch.equal, call["grads"], before))
    assert call["rng"].step == 1


BAD_GRADS = {
    "int": (lambda: torch.zeros(6, 2, 3, 3, dtype=torch.int64), TypeError, "of dtype float32, .*, got int64"),
    "complex": (lambda: torch.zeros(6, 2, 3, 3, dtype=torch.complex64), TypeError, "got complex64"),
    "bool": (lambda: torch.zeros(6, 2, 3, 3, dtype=torch.bool), TypeError, "got bool"),
    "sparse": (lambda: torch.zeros(6, 2, 3, 3).to_sparse(), TypeError, "to be strided, got layout torch.sparse_coo"),
    "expanded": (lambda: torch.zeros(1, 2, 3, 3).expand(6, 2, 3, 3), ValueError, "without overlapping memory"),
    "expanded to two": (lambda: torch.zeros(6, 1, 3, 3).expand(6, 2, 3, 3), ValueError, "without overlapping memory"),
    "windows": (lambda: torch.zeros(20).unfold(0, 9, 1)[:6].view(6, 1, 3, 3), ValueError, "without overlapping memory"),
    "two axes": (lambda: torch.zeros(6, 18), ValueError, r"at least 3 dimensions .*, got shape \(6, 18\)"),
    "other device": (lambda: torch.zeros(6, 2, 3, 3, device="meta"), ValueError, "every gradient on .* on meta"),
}


@pytest.mark.parametrize("floor_std", [0.01, 0.0])
@pytest.mark.parametrize("name", BAD_GRADS)
def test_bad_gradients(name, floor_std, call):
    make, error, message = BAD_GRADS[name]
    call["grads"][2], call["floor_std"] = make(), floor_std
    refused(call, error, message)
    refused(call, error, r"grads\[2\] \(last\)")


def test_what_is_no_tensor(call):
    call["grads"][2] = [1.0]
    refused(call, TypeError, r"grads\[2\] \(last\) to be a tensor or None, got list")


@pytest.mark.parametrize("argument", ["grads", "scores"])
def test_what_is_no_list(argument, call):
    """A tensor is refused, although it has rows to iterate over."""
    good = call[argument]
    call[argument] = torch.zeros(3, 3)
    with pytest.raises(TypeError, match=f"expected {argument} to be a sequence of tensors, got Tensor"):
        tip.perturb_(**call)
    call[argument] = iter(good)
    with pytest.raises(TypeError, match=f"expected {argument} to be a sequence of tensors, got list_iterator"):
        tip.perturb_(**call)


def test_gradients_that_share_memory(call):
    call["grads"][1] = call["grads"][0][1, 2, 0]
    refused(call, ValueError, r"overlap of grads\[0\] \(conv\) and grads\[1\] \(bias\)")
    call["grads"][1] = call["grads"][2]
    call["scores"][1] = call["scores"][2]
    refused(call, ValueError, r"overlap of grads\[[12]\] \(\w+\) and grads\[[12]\] \(\w+\)")


def test_memory_shared_in_one_element(call):
    """Neighbors are fine up to the last element; a tensor of one element can share it too."""
    room = torch.zeros(20)
    call["scores"] = [None] * 3
    for first, second in [(room[:2], room[1:3]), (room[:3], room[2:4]), (room[:1], room[:1]), (room[0], room[0])]:
        call["grads"] = [first, room[8:9], second]
        refused(call, ValueError, r"overlap of grads\[0\] \(conv\) and grads\[2\] \(last\)")
    call["grads"] = [room[:2], room[2:5], room[5]]
    tip.perturb_(**call)


def test_shared_memory_is_found_past_a_gradient_in_between(call):
    """Sorted by address, the two that overlap need not be neighbors."""
    room = torch.zeros(200)
    wide = room[::2]  # every second element, all the way
    call["grads"] = [wide, room[1:4:2], room[10:12]]
    call["scores"] = [None] * 3
    refused(call, ValueError, r"overlap of grads\[0\] \(conv\) and grads\[2\] \(last\)")
    call["grads"] = [wide, room[1:4:2], room[11:13:2]]
    tip.perturb_(**call)


BAD_SCORES = {
    "length": (lambda: torch.zeros(5), ValueError, r"scores\[2\] \(last\) of shape \(6,\), got \(5,\)"),
    "matrix": (lambda: torch.zeros(6, 1), ValueError, r"scores\[2\] \(last\) of shape \(6,\), got \(6, 1\)"),
    "double": (lambda: torch.zeros(6).double(), TypeError, r"scores\[2\] \(last\) of dtype float32, got float64"),
    "int": (lambda: torch.zeros(6, dtype=torch.int32), TypeError, r"scores\[2\] \(last\) of dtype float32, got int32"),
    "sparse": (lambda: torch.zeros(6).to_sparse(), TypeError, r"scores\[2\] \(last\) to be strided, got layout"),
    "device": (lambda: torch.zeros(6, device="meta"), ValueError, r"scores\[2\] \(last\) on .*, got meta"),
    "list": (lambda: [0.0] * 6, TypeError, r"scores\[2\] \(last\) to be a tensor or None, got list"),
}


@pytest.mark.parametrize("name", BAD_SCORES)
def test_bad_scores(name, call):
    make, error, message = BAD_SCORES[name]
    call["scores"][2] = make()
    refused(call, error, message)


@pytest.mark.parametrize("scattered", [lambda x: x.repeat_interleave(2)[::2], lambda x: x[:1].expand(6)])
def test_scattered_scores_are_read_right(scattered, call, backend):
    call["scores"][2] = scattered(call["scores"][2])
    want = {**call, "grads": [g.clone() for g in call["grads"]], "rng": tip.NoiseRNG.from_seed(0)}
    want["scores"] = [*call["scores"][:2], call["scores"][2].contiguous()]
    tip.perturb_(**call)
    tip.perturb_(**want)
    assert all(map(torch.equal, call["grads"], want["grads"]))


def test_a_tensor_beyond_the_names_is_named_by_its_index(call):
    call["names"], call["grads"][1] = NAMES[:1], "not a tensor"
    refused(call, TypeError, r"expected grads\[1\] to be a tensor or None, got str")


@pytest.mark.parametrize("make", [dict.fromkeys, np.array, iter], ids=["dict keys", "array", "iterator"])
def test_names_come_in_whatever_has_an_order(make, call):
    names = make(NAMES)
    call["names"], call["grads"][1] = names.keys() if isinstance(names, dict) else names, "not a tensor"
    refused(call, TypeError, rf"expected grads\[1\] \({NAMES[1]}\) to be a tensor or None, got str")


@pytest.mark.parametrize("length", [0, 2, 4])
@pytest.mark.parametrize("argument", ["scores", "names", "shards", "ratio"])
def test_lists_of_the_wrong_length(argument, length, call):
    fill = {"scores": None, "names": "x", "shards": None, "ratio": 0.5}[argument]
    call[argument] = [fill] * length
    refused(call, ValueError, f"{argument} of length 3, one per gradient, got {length}")


def test_what_is_no_tensor_is_refused_though_nothing_is_to_be_done_to_it(call):
    call["grads"][1], call["scores"][1], call["floor_std"] = "x", None, 0.0
    refused(call, TypeError, r"grads\[1\].* to be a tensor or None, got str")


@pytest.mark.parametrize("function", [tip.perturb_, tip.perturb, Options])
def test_every_way_to_the_op_has_the_same_options_and_defaults(function):
    parameters = list(inspect.signature(function).parameters.values())
    options = [(p.name, p.default, p.annotation) for p in parameters if p.name not in ("grads", "scores")]
    expected = inspect.signature(tip.perturb_).parameters.values()
    assert options == [(p.name, p.default, p.annotation) for p in expected if p.name not in ("grads", "scores")]


def test_the_schema_is_the_one_that_compiled_libraries_were_built_for():
    assert str(torch.ops.tip_kernels.perturb_.default._schema) == (
        "tip_kernels::perturb_(Tensor(a!)[] grads, Tensor[] scores, int[] selected, int[] tensor_ids, int[] basis_ids, "
        "Tensor[] bases, int[] high_dims, Tensor std, Tensor? floor_std, Tensor? grad_scale, Tensor(b!) state, "
        "float keep, int generator, int[]? shards, Tensor[] amplitudes, int[]? amplitude_ids) -> ()"
    )


nan, inf = math.nan, math.inf
BAD_NUMBERS = [
    ("max_grad_norm", 0.0, ValueError, "max_grad_norm to be None or positive and finite, got 0.0"),
    ("max_grad_norm", -1.0, ValueError, "max_grad_norm to be None or positive and finite, got -1.0"),
    ("max_grad_norm", nan, ValueError, "max_grad_norm to be None or positive and finite, got nan"),
    ("max_grad_norm", inf, ValueError, "max_grad_norm to be None or positive and finite, got inf"),
    ("max_grad_norm", "1", TypeError, "max_grad_norm to be a number, got str"),
    ("ratio", -0.1, ValueError, r"ratio in \[0, 1\], got -0.1"),
    ("ratio", 1.1, ValueError, r"ratio in \[0, 1\], got 1.1"),
    ("ratio", nan, ValueError, r"ratio in \[0, 1\], got nan"),
    ("ratio", "0.5", TypeError, "ratio to be a number, got str"),
    ("ratio", None, TypeError, "ratio to be a number, got NoneType"),
    ("ratio", [0.1, 0.2, 1.3], ValueError, r"ratio\[2\] \(last\) in \[0, 1\], got 1.3"),
    ("ratio", [0.1, [0.2], 0.3], TypeError, r"ratio\[1\] to be a number, got list"),
    ("ratio", "half", TypeError, "ratio to be a number, got str"),
    ("ratio", torch.tensor([0.1, 0.2, 0.3]), TypeError, "ratio to be a number, got Tensor"),
    ("cutoff", -0.1, ValueError, r"cutoff in \[0, 1\), got -0.1"),
    ("cutoff", 1.0, ValueError, r"cutoff in \[0, 1\), got 1.0"),
    ("cutoff", nan, ValueError, r"cutoff in \[0, 1\), got nan"),
    ("names", "abc", TypeError, "names to be a sequence of strings, got str"),
    ("names", {"a": 0, "b": 1, "c": 2}, TypeError, "names to be a sequence of strings, got dict"),
    ("names", ["a", ["b"], "c"], TypeError, "names to be strings, got list among them"),
    ("cutoff", [0.5], TypeError, "cutoff to be a number, got list"),
    ("cutoff", "x", TypeError, "cutoff to be a number, got str"),
    ("keep", -0.1, ValueError, r"keep in \[0, 1\], got -0.1"),
    ("keep", 2, ValueError, r"keep in \[0, 1\], got 2"),
    ("keep", None, TypeError, "keep to be a number, got NoneType"),
    *[
        case
        for name in ("std", "floor_std")
        for case in [
            (name, -0.1, ValueError, f"{name} to be finite and at least 0, got -0.1"),
            (name, nan, ValueError, f"{name} to be finite and at least 0, got nan"),
            (name, inf, ValueError, f"{name} to be finite and at least 0, got inf"),
            (name, 1e39, ValueError, f"{name} to be finite and at least 0, got 1e\\+39"),  # not finite in float32
            (name, "0.1", TypeError, f"{name} to be a number, got str"),
            (name, None, TypeError, f"{name} to be a number, got NoneType"),
            (name, torch.zeros(3, dtype=torch.float64), TypeError, f"{name} of dtype float32, got float64"),
            (name, torch.zeros(2), ValueError, rf"{name} of shape \(3,\), got \(2,\)"),
            (name, torch.zeros(3, device="meta"), ValueError, f"{name} on .*, got meta"),
        ]
    ],
    ("grad_scale", nan, ValueError, "grad_scale to be finite, got nan"),
    ("grad_scale", inf, ValueError, "grad_scale to be finite, got inf"),
    ("grad_scale", -inf, ValueError, "grad_scale to be finite, got -inf"),
    ("grad_scale", 1e39, ValueError, r"grad_scale to be finite, got 1e\+39"),
    ("grad_scale", -1e39, ValueError, r"grad_scale to be finite, got -1e\+39"),
    ("grad_scale", "1", TypeError, "grad_scale to be a number, got str"),
    ("grad_scale", torch.ones(1), ValueError, r"grad_scale of shape \(\), got \(1,\)"),
    ("grad_scale", torch.ones(()).double(), TypeError, "grad_scale of dtype float32, got float64"),
    ("rng", 3, TypeError, "rng to be a NoiseRNG, got int"),
    ("rng", None, TypeError, "rng to be a NoiseRNG, got NoneType"),
    ("backend", "abacus", ValueError, "backend to be None or one of .*cpu, .*reference, got 'abacus'"),
]


@pytest.mark.parametrize(("argument", "value", "error", "message"), BAD_NUMBERS)
def test_bad_values(argument, value, error, message, call, backend):
    if isinstance(value, torch.Tensor) and value.device.type != "meta":
        value = value.to(backend.device)
    call[argument] = value
    refused(call, error, message)


LARGEST = torch.finfo(torch.float32).max
EXTREMES = [
    *[("ratio", 0), ("ratio", 1), ("ratio", [0.0, 0.5, 1.0])],
    *[("cutoff", 0), ("cutoff", math.nextafter(1, 0)), ("keep", 0), ("keep", 1)],
    *[(name, value) for name in ("std", "floor_std") for value in (0, LARGEST)],
    *[("grad_scale", value) for value in (0, LARGEST, -LARGEST)],
]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy, where a GPU says nothing
@pytest.mark.parametrize(("argument", "value"), EXTREMES)
def test_extreme_values_that_are_allowed(argument, value, call):
    call[argument] = value
    tip.perturb_(**call)
    assert call["rng"].step == 1


def test_numbers_of_numpy_are_numbers(call):
    call |= {"ratio": np.float32(0.5), "std": np.float64(0.1), "keep": np.int64(1), "grad_scale": np.float32(2.0)}
    tip.perturb_(**call)


half = torch.ones(3, 2, dtype=torch.bool)
lopsided = torch.tensor([[False, True], [True, True], [False, True]])
BAD_MASKS = [
    ({(3, 3): torch.ones(3, 3, dtype=torch.bool)}, ValueError, r"mask of shape \(3, 2\) .* for kernel size \(3, 3\)"),
    ({(3, 3): torch.ones(3, 2)}, TypeError, r"masks\[\(3, 3\)\] to be a bool tensor .*, got torch.float32 on cpu"),
    ({(3, 3): None}, TypeError, r"masks\[\(3, 3\)\] to be a bool tensor .*, got NoneType"),
    ({(3, 3): lopsided}, ValueError, r"mask equal at the conjugate bins \(1, 0\) and \(2, 0\)"),
    ({(3, 3): half, (5, 5): half}, ValueError, r"mask of shape \(5, 3\)"),  # also if no layer uses it
    ({(): half}, ValueError, r"masks to have kernel sizes such as \(3, 3\) for keys, got \(\)"),
    ({(3, 0): half}, ValueError, r"masks to have kernel sizes such as \(3, 3\) for keys, got \(3, 0\)"),
    ({(3, 3.0): half}, TypeError, r"masks to have kernel sizes such as \(3, 3\) for keys, got \(3, 3.0\)"),
    ({"ab": half}, TypeError, r"masks to have kernel sizes such as \(3, 3\) for keys, got 'ab'"),
    ({3: half}, TypeError, r"masks to have kernel sizes such as \(3, 3\) for keys, got 3"),
    ({(3, 3): half.to("meta")}, TypeError, r"bool tensor on the CPU, got torch.bool on meta"),
    (half, TypeError, "masks to map kernel sizes to bool tensors, got Tensor"),
]


@pytest.mark.parametrize(("masks", "error", "message"), BAD_MASKS)
def test_bad_masks(masks, error, message, call):
    call["masks"] = masks
    refused(call, error, message)


BAD_SHARDS = [
    (Shard(0, 0, 1), ValueError, r"shards\[2\] \(last\) with room for 2 kernels a channel, got \(0, 0, 1\)"),
    (Shard(0, 1, 2), ValueError, r"shards\[2\] \(last\) with room"),
    (Shard(0, 2, 3), ValueError, r"shards\[2\] \(last\) with room"),
    (Shard(-1, 0, 2), ValueError, r"shards\[2\] \(last\)"),
    (Shard(1, 0, 2), ValueError, r"scores\[2\] \(last\) of all channels, at least 7 for this shard, got shape \(6,\)"),
    (Shard(0, 0, 2**40), ValueError, r"grads\[2\] \(last\) of at most 2\*\*41 elements in the whole"),
    ((0, 0), TypeError, r"shards\[2\] \(last\) to be a Shard of three integers or None, got \(0, 0\)"),
    ((0.0, 0, 2), TypeError, r"shards\[2\] \(last\) to be a Shard of three integers or None"),
    (5, TypeError, r"shards\[2\] \(last\) to be a Shard of three integers or None, got 5"),
]


@pytest.mark.parametrize(("shard", "error", "message"), BAD_SHARDS)
def test_bad_shards(shard, error, message, call):
    call["shards"] = [None, None, shard]
    refused(call, error, message)


def test_the_largest_whole_of_a_shard(call):
    call["scores"][2] = None
    most = 2**41 // 108  # (6 + 6) * 9: kernels in each of 6 channels before the shard and 6 in it
    call["shards"] = [None, None, Shard(6, 0, most + 1)]
    refused(call, ValueError, rf"grads\[2\] \(last\) of at most 2\*\*41 elements in the whole, got {108 * (most + 1)}")
    call["shards"] = [None, None, Shard(6, 0, most)]
    tip.perturb_(**call)


def test_the_longest_list():
    most, rng = 2**23, tip.NoiseRNG.from_seed(0)
    tip.perturb_([None] * most, [None] * most, ratio=0.5, std=torch.zeros(most), rng=rng)
    with pytest.raises(ValueError, match="at most 8388608 gradients, got 8388609"):
        tip.perturb_([None] * (most + 1), [None] * (most + 1), ratio=0.5, std=0.1, rng=rng)
    assert rng.step == 1


def test_a_bad_gradient_is_found_without_names_too(call):
    call["grads"][2] = torch.zeros(6, 2, 3, 3, dtype=torch.int64)
    del call["names"]
    refused(call, TypeError, r"expected grads\[2\] of dtype")


def test_a_bad_call_is_refused_again(call):
    """What is remembered of good calls hides no bad one, and the other way round."""
    tip.perturb_(**call)
    call["rng"] = tip.NoiseRNG.from_seed(0)
    for _ in range(2):
        refused({**call, "ratio": 7.0}, ValueError, "ratio in")
        refused({**call, "scores": [torch.zeros(3), None, None]}, ValueError, r"scores\[0\]")
    tip.perturb_(**call)


def test_nothing_to_do_takes_a_step(backend):
    rng = tip.NoiseRNG.from_seed(0)
    for grads in ([], [None], [backend.zeros(0, 3, 3, 3)]):
        tip.perturb_(
            grads, [None] * len(grads), ratio=0.5, std=0.1, rng=rng, names=["x"] * len(grads), backend=backend.name
        )
    tip.perturb_([], [], ratio=[], std=0.1, rng=rng, names=[], shards=[], backend=backend.name)
    assert rng.step == 4
    for bad in ({"ratio": 2.0}, {"cutoff": 1.0}, {"cutoff": -0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} in"):
            tip.perturb_([], [], **{"ratio": 0.5, "std": 0.1, "rng": rng, "backend": backend.name, **bad})


BAD_ACTIVATIONS = [
    ([1.0], TypeError, "activation_grad to be a tensor, got list"),
    (torch.zeros(2, 3, dtype=torch.int64), TypeError, "activation_grad of dtype .*, got torch.int64"),
    (torch.zeros(2, 3).to_sparse(), TypeError, "strided activation_grad .* layout torch.sparse_coo"),
    (torch.zeros(3), ValueError, r"activation_grad of shape \[N, C, \*spatial\], got \(3,\)"),
]


@pytest.mark.parametrize(("grad", "error", "message"), BAD_ACTIVATIONS)
def test_bad_activation_gradients(grad, error, message, backend):
    with pytest.raises(error, match=message):
        tip.channel_saliency(grad, backend=backend.name)


BAD_KEYS = [
    ({"key": bytes(31)}, ValueError, "key of 32 bytes, got 31 bytes"),
    ({"key": "x" * 32}, TypeError, "key to be bytes, got str"),
    ({"generator": "rot13"}, ValueError, f"generator to be one of {', '.join(GENERATORS)}, got 'rot13'"),
    ({"step": -1}, ValueError, r"step in \[0, 2\*\*63 - 1\), got -1"),
    ({"step": 2**63 - 1}, ValueError, "step in"),
    ({"step": 1.0}, TypeError, "step to be an integer, got float"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD_KEYS)
def test_bad_keys_generators_and_steps(settings, error, message):
    with pytest.raises(error, match=message):
        tip.NoiseRNG(**settings)


def test_bad_states():
    rng = tip.NoiseRNG(step=3)
    with pytest.raises(ValueError, match="state of generator chacha12, got 'philox'"):
        rng.load_state_dict({"generator": "philox", "step": 9})
    for step in (-1, 2**63):
        with pytest.raises(ValueError, match="step in"):
            rng.load_state_dict({"generator": "chacha12", "step": step})
    assert rng.step == 3


def test_a_key_made_in_inference_mode_works_outside(call):
    with torch.inference_mode():
        call["rng"] = tip.NoiseRNG.from_seed(0)
    tip.perturb_(**call)
    assert call["rng"].step == 1
