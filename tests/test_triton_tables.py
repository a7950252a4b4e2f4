"""The Triton backend's tables: every kernel and element belongs to one program, whatever the list looks like."""

import itertools
import math

import numpy as np
import pytest
import torch

from tip_kernels._op.shard import Shard
from tip_kernels.backends.triton import address, bases, plan
from tip_kernels.backends.triton.facts import CallFacts, TensorFacts
from tip_kernels.backends.triton.table import (
    ANY_KERNEL,
    CONTIGUOUS,
    ELEMENTS,
    IDLE,
    INTERLEAVED,
    SMALL_KERNELS,
    STRIDED,
    Row,
    Tables,
)

LANES = 32
BASIS_TAPS = [9, 25]  # of the bases 0 and 1


def entry(grad: torch.Tensor, basis=-1, high_dim=0, selected=None, shard=None, tensor_id=0) -> TensorFacts:
    channels = grad.shape[0] if grad.dim() else 1
    kernels = grad.shape[1] if grad.dim() > 1 else 1
    selected = (channels if basis >= 0 else 0) if selected is None else selected
    shard = Shard(*(shard or (0, 0, kernels)))
    return TensorFacts(tuple(grad.shape), grad.stride(), tensor_id, basis, high_dim, selected, channels, 1, shard)


def conv(*shape, layout=torch.contiguous_format, **options) -> TensorFacts:
    grad = torch.empty(shape, device="meta").to(memory_format=layout)
    return entry(grad, **{"basis": 0, "high_dim": 8, **options})


def other(*shape) -> TensorFacts:
    return entry(torch.empty(shape, device="meta"))


def build(tensors, floor=False, scale=False, is_double=False) -> Tables:
    return plan.plan_tables(tensors, BASIS_TAPS, floor, scale, is_double, LANES)


def portions_of(row: Row, count: int) -> list[tuple[int, int, int]]:
    """(run, first, after the last) of a row's programs, as ``portion_of`` in ``kernels/tile.py`` finds them."""
    found = []
    for index in range(count):
        run, part = divmod(index, row.programs_per_run)
        first = run * row.run_length + part * row.portion
        found.append((run, first, min(first + row.portion, (run + 1) * row.run_length)))
    return found


def assert_partition(tensors, built: Tables, scale: bool, floor: bool) -> None:
    """Each row's programs are consecutive, and their portions put end to end are its runs."""
    expected = np.repeat(np.arange(len(built.rows)), np.bincount(built.programs, minlength=len(built.rows)))
    assert np.array_equal(built.programs, expected)
    for i, tensor in enumerate(tensors):
        row = built.rows[i]
        count = int((built.programs == i).sum())
        assert count == 0 or row.first_program == int(np.argmax(built.programs == i))
        if row.path == IDLE:
            needed = math.prod(tensor.shape) and (scale or floor or (tensor.high_dim and tensor.selected))
            assert count == 0
            assert not needed
            continue
        edges = portions_of(row, count)
        assert all(first < last for _, first, last in edges)
        assert [last for _, _, last in edges[:-1]] == [first for _, first, _ in edges[1:]]
        assert edges[0][1] == 0
        covered = edges[-1][2]
        if row.path == ELEMENTS:
            runs = covered // row.run_length
            assert runs * row.run_elements == math.prod(tensor.shape)
            for run in range(runs):
                word = ((row.first_channel + run) * row.kernels_per_channel + row.first_kernel) * row.taps
                last_group = (word + row.run_elements - 1) // address.GROUP
                assert word // address.GROUP + row.run_length > last_group
        else:
            assert covered == tensor.channels * tensor.kernels
            tile = 4 * LANES if row.path == SMALL_KERNELS else LANES
            for _, first, last in edges:  # more than one channel in a program: then it has one tile only
                assert first // row.kernels == (last - 1) // row.kernels or last - first <= tile


LISTS = {
    "empty first": [conv(0, 8, 3, 3), conv(6, 8, 3, 3), other(7)],
    "empty in the middle": [conv(6, 8, 3, 3), other(0), conv(4, 0, 3, 3), other(7)],
    "empty last": [other(5, 3), conv(6, 8, 3, 3), conv(4, 4, 0, 3)],
    "nothing": [],
    "only empty": [other(0)],
    "one channel of many": [conv(6, 8, 3, 3, selected=1), conv(6, 8, 3, 3, selected=0)],
    "small channels": [conv(100, 4, 3, 3), conv(70, 1, 3, 3), conv(33, 3, 5, 5, basis=1, high_dim=24)],
    "large channels": [conv(3, 1000, 3, 3), conv(2, 333, 5, 5, basis=1, high_dim=24), conv(2, 130, 3, 3)],
    "no kernels": [other(), other(1), other(1000, 33), other(3, 5, 7)],
    "shards": [
        conv(6, 8, 3, 3, shard=(2, 4, 16)),
        conv(6, 8, 3, 3, shard=(2, 3, 16)),
        conv(6, 5, 3, 3, high_dim=0, basis=-1, shard=(2, 3, 16)),
        conv(6, 5, 3, 3, high_dim=0, basis=-1, shard=(7, 0, 5)),
    ],
}


@pytest.mark.parametrize("floor", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("name", LISTS)
def test_programs_partition_every_list(name, scale, floor):
    for is_double in (False, True):
        built = build(LISTS[name], floor, scale, is_double)
        assert_partition(LISTS[name], built, scale, floor)
        assert len(built.programs) > 0  # one has to advance the step


def test_more_tensors_than_lanes_or_blocks():
    tensors = [conv(1 + i % 3, 1 + i % 5, 3, 3) if i % 2 else other(1 + i % 7) for i in range(5000)]
    assert_partition(tensors, build(tensors, floor=True), False, True)


def test_a_tensor_of_more_than_2_31_elements():
    """Planned, not allocated. Offsets and counts of elements exceed 32 bits; programs stay few enough for a grid."""
    tensors = [conv(2**15, 2**14, 3, 3), other(2**33 + 5), conv(2**15, 3, 5, 5, basis=1, high_dim=24)]
    built = build(tensors, floor=True, scale=True)
    first, second, third = built.rows
    assert first.channel_stride == 9 * 2**14
    assert second.run_elements == 2**33 + 5
    assert third.first_program == int((built.programs < 2).sum())
    assert len(built.programs) < 2**20
    for i, (row, length) in enumerate(((first, 2**29), (second, -(-(2**33 + 5) // 16)))):
        edges = portions_of(row, int((built.programs == i).sum()))
        assert edges[-1][2] == length
        assert sum(last - first for _, first, last in edges) == length


def test_paths():
    """3x3 takes SMALL_KERNELS where fours of kernels lie in a channel and begin a group; the rest takes ANY_KERNEL."""
    tensors = [
        conv(64, 64, 3, 3),
        conv(64, 62, 3, 3),
        conv(64, 64, 3, 3, shard=(0, 2, 66)),
        conv(8, 8, 5, 5, basis=1, high_dim=24),
        conv(8, 8, 3, 3, selected=0),
        other(9),
    ]
    built = build(tensors)
    assert [row.path for row in built.rows] == [SMALL_KERNELS, ANY_KERNEL, ANY_KERNEL, ANY_KERNEL, IDLE, IDLE]
    assert built.small_kind == (9, 8, True)
    assert built.chunk == 32  # 24 normals of the 5x5 kernels
    assert not built.elements
    with_floor = build(tensors, floor=True)
    paths = [SMALL_KERNELS, ANY_KERNEL, ANY_KERNEL, ANY_KERNEL, SMALL_KERNELS, ELEMENTS]
    assert [row.path for row in with_floor.rows] == paths
    assert {row.path for row in build(tensors, is_double=True).rows} == {ANY_KERNEL, IDLE}


@pytest.mark.parametrize(
    ("shape", "high_dim", "needs_no_basis"),
    [((3, 3), 8, True), ((3, 3), 4, False), ((3, 3), 9, False), ((9,), 8, False), ((1, 9), 8, False)],
)
def test_which_kernels_need_no_basis(shape, high_dim, needs_no_basis):
    """Nine taps in another arrangement have other sines and cosines."""
    built = build([conv(8, 8, *shape, high_dim=high_dim)])
    assert built.small_kind == (9, high_dim, needs_no_basis)


@pytest.mark.parametrize("used", range(1, 70))
def test_pitch_is_that_of_the_contract(used):
    """docs/design.md section 3: the smallest power of two up to 16, else the smallest multiple of 16."""
    allowed = [1, 2, 4, 8, 16] if used <= 16 else range(16, 100, 16)
    assert address.pitch(used) == min(pitch for pitch in allowed if pitch >= used)


def test_access():
    channels_last = torch.channels_last
    cases = [
        (torch.empty(8, 8, 3, 3), CONTIGUOUS),
        (torch.empty(8, 8, 3, 3).to(memory_format=channels_last), INTERLEAVED),
        (torch.empty(8, 6, 3, 3).to(memory_format=channels_last), STRIDED),  # taps are 6 elements apart
        (torch.empty(8, 8, 1, 1).to(memory_format=channels_last), CONTIGUOUS),
        (torch.empty(8, 8, 3, 6)[..., ::2], STRIDED),
        (torch.empty(8, 8, 3, 3).transpose(0, 1), STRIDED),
        (torch.empty(()), CONTIGUOUS),
        (torch.empty(6)[::2], STRIDED),
    ]
    assert [build([entry(grad)], scale=True).accesses[0] for grad, _ in cases] == [access for _, access in cases]


def test_tap_offsets_are_those_of_the_strides():
    grads = [torch.empty(4, 3, 2, 3, 4).permute(0, 1, 4, 2, 3), torch.empty(2, 2, 5, 6)[:, :, 1:4, ::2], torch.empty(3)]
    offsets = build([entry(grad) for grad in grads], scale=True).offsets
    expected = []
    for grad in grads:
        taps = itertools.product(*map(range, grad.shape[2:]))
        strides = grad.stride()[2:]
        expected += [sum(i * s for i, s in zip(tap, strides, strict=True)) for tap in taps]
    assert offsets.tolist()[: len(expected)] == expected


def test_packed_bases():
    unpacked = [torch.arange(9.0, dtype=torch.float64).reshape(3, 3) + 1, torch.eye(65, dtype=torch.float64)]
    packed = bases.pack_bases(unpacked, torch.float32, torch.device("cpu"))
    assert packed.dtype == torch.float32
    first, second = packed[: 3 * 64].reshape(3, 64), packed[3 * 64 :].reshape(65, 128)
    assert torch.equal(first[:, :3], unpacked[0].float())
    assert torch.equal(second[:, :65], unpacked[1].float())
    assert not first[:, 3:].any()
    assert not second[:, 65:].any()


def facts_of(grads, floor=False, scale=False, keep=False, generator=12) -> CallFacts:
    """The op's view of conv gradients, 3x3 with a high band, and of others."""
    return CallFacts(
        grads=tuple((grad.shape, grad.stride(), grad.dtype) for grad in grads),
        scores=tuple((grad.shape[:1], (1,)) for grad in grads),
        selected=tuple(len(grad) // 2 if grad.dim() == 4 else 0 for grad in grads),
        tensor_ids=tuple(range(len(grads))),
        basis_ids=tuple(0 if grad.dim() == 4 else -1 for grad in grads),
        basis_taps=(9,),
        high_dims=(8,),
        floor=floor,
        scale=scale,
        keep=keep,
        generator=generator,
        shards=None,
    )


def test_one_launch_for_each_dtype():
    grads = [torch.empty(8, 8, 3, 3, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float32)]
    launches = plan.plan_launches(facts_of(grads), LANES)
    assert [launch.indices for launch in launches] == [(0, 2), (1,)]
    assert [launch.settings.dtype for launch in launches] == [torch.float32, torch.bfloat16]
    assert len(plan.plan_launches(facts_of([]), LANES)) == 1


def test_unaligned_gradients_are_accessed_by_element():
    (launch,) = plan.plan_launches(facts_of([torch.empty(8, 8, 3, 3)] * 2 + [torch.empty(5)], floor=True), LANES)
    assert launch.variant(launch.accesses([160, 320, 4])).small_accesses == (CONTIGUOUS,)
    accesses = launch.accesses([160, 324, 4])
    assert accesses == [CONTIGUOUS, STRIDED, CONTIGUOUS]
    assert launch.variant(accesses).small_accesses == (STRIDED, CONTIGUOUS)
