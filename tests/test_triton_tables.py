"""The Triton backend's work tables: every kernel and element belongs to one program, whatever the list looks like."""

import itertools
import math

import numpy as np
import pytest
import torch
from released import assert_on_grid, step_of, unrounded

import tip_kernels as tip
from tip_kernels.backends import triton as backend_module
from tip_kernels.backends import triton_tables as tables
from tip_kernels.backends.triton_tables import ALONG, ELEMENTS, FLAT, IDLE, KERNELS, QUADS, STRIDED

LANES = 32
BASIS_TAPS = [9, 25]  # of the bases 0 and 1


def entry(grad: torch.Tensor, basis=-1, high_dim=0, selected=None, shard=None, tensor_id=0) -> tables.Tensor:
    channels = grad.shape[0] if grad.dim() else 1
    selected = (channels if basis >= 0 else 0) if selected is None else selected
    return tables.Tensor(tuple(grad.shape), grad.stride(), tensor_id, basis, high_dim, selected, channels, 1, shard)


def conv(*shape, layout=torch.contiguous_format, **options) -> tables.Tensor:
    grad = torch.empty(shape, device="meta").to(memory_format=layout)
    return entry(grad, **{"basis": 0, "high_dim": 8, **options})


def other(*shape) -> tables.Tensor:
    return entry(torch.empty(shape, device="meta"))


def build(tensors, floor=False, scale=False, wide=False) -> tables.Tables:
    return tables.build(tensors, BASIS_TAPS, floor, scale, wide, LANES)


def rows_of(built: tables.Tables) -> list[tables.Row]:
    return [tables.Row(*row) for row in built.rows.tolist()]


def spans(row: tables.Row, count: int) -> list[tuple[int, int, int]]:
    """(run, first unit, unit after the last) of a row's programs, as ``triton_kernels._span`` finds them."""
    found = []
    for index in range(count):
        run, part = divmod(index, row.programs_per_run)
        first = run * row.run_length + part * row.span
        found.append((run, first, min(first + row.span, (run + 1) * row.run_length)))
    return found


def assert_partition(tensors, built: tables.Tables, scale: bool, floor: bool) -> None:
    """Each row's programs are consecutive, and their spans put end to end are its runs."""
    rows = rows_of(built)
    expected = np.repeat(np.arange(len(rows)), np.bincount(built.programs, minlength=len(rows)))
    assert np.array_equal(built.programs, expected)
    for i, tensor in enumerate(tensors):
        row = rows[i]
        count = int((built.programs == i).sum())
        assert count == 0 or row.first_program == int(np.argmax(built.programs == i))
        if row.path == IDLE:
            needed = math.prod(tensor.shape) and (scale or floor or (tensor.high_dim and tensor.selected))
            assert count == 0
            assert not needed
            continue
        edges = spans(row, count)
        assert all(first < last for _, first, last in edges)
        assert [last for _, _, last in edges[:-1]] == [first for _, first, _ in edges[1:]]
        assert edges[0][1] == 0
        units = edges[-1][2]
        if row.path == ELEMENTS:
            runs = units // row.run_length
            assert runs * row.run_elements == math.prod(tensor.shape)
            for run in range(runs):
                word = ((row.first_channel + run) * row.whole_kernels + row.first_kernel) * row.taps
                last_superblock = (word + row.run_elements - 1) // tables.WORDS
                assert word // tables.WORDS + row.run_length > last_superblock
        else:
            assert units == tensor.channels * tensor.kernels
            tile = 4 * LANES if row.path == QUADS else LANES
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
    for wide in (False, True):
        built = build(LISTS[name], floor, scale, wide)
        assert_partition(LISTS[name], built, scale, floor)
        assert len(built.programs) > 0  # one has to advance the step


def test_more_tensors_than_lanes_or_blocks():
    tensors = [conv(1 + i % 3, 1 + i % 5, 3, 3) if i % 2 else other(1 + i % 7) for i in range(5000)]
    assert_partition(tensors, build(tensors, floor=True), False, True)


def test_a_tensor_of_more_than_2_31_elements():
    """Planned, not allocated. Offsets and counts of elements exceed 32 bits; programs stay few enough for a grid."""
    tensors = [conv(2**15, 2**14, 3, 3), other(2**33 + 5), conv(2**15, 3, 5, 5, basis=1, high_dim=24)]
    built = build(tensors, floor=True, scale=True)
    first, second, third = rows_of(built)
    assert first.channel_stride == 9 * 2**14
    assert second.run_elements == 2**33 + 5
    assert third.first_program == int((built.programs < 2).sum())
    assert len(built.programs) < 2**20
    for i, (row, units) in enumerate(((first, 2**29), (second, -(-(2**33 + 5) // 16)))):
        edges = spans(row, int((built.programs == i).sum()))
        assert edges[-1][2] == units
        assert sum(last - first for _, first, last in edges) == units


def test_paths():
    """3x3 goes to QUADS where four kernels lie in a channel and begin a superblock; what cannot goes to KERNELS."""
    tensors = [
        conv(64, 64, 3, 3),
        conv(64, 62, 3, 3),
        conv(64, 64, 3, 3, shard=(0, 2, 66)),
        conv(8, 8, 5, 5, basis=1, high_dim=24),
        conv(8, 8, 3, 3, selected=0),
        other(9),
    ]
    built = build(tensors)
    assert [row.path for row in rows_of(built)] == [QUADS, KERNELS, KERNELS, KERNELS, IDLE, IDLE]
    assert built.quads == (9, 8)
    assert built.group == 32  # 24 normals of the 5x5 kernels
    assert not built.elements
    with_floor = build(tensors, floor=True)
    assert [row.path for row in rows_of(with_floor)] == [QUADS, KERNELS, KERNELS, KERNELS, QUADS, ELEMENTS]
    assert {row.path for row in rows_of(build(tensors, wide=True))} == {KERNELS, IDLE}


@pytest.mark.parametrize("used", range(1, 70))
def test_pitch_is_that_of_the_contract(used):
    """docs/design.md section 3: the smallest power of two up to 16, else the smallest multiple of 16."""
    allowed = [1, 2, 4, 8, 16] if used <= 16 else range(16, 100, 16)
    assert tables.pitch(used) == min(pitch for pitch in allowed if pitch >= used)


def test_memory():
    channels_last = torch.channels_last
    cases = [
        (torch.empty(8, 8, 3, 3), FLAT),
        (torch.empty(8, 8, 3, 3).to(memory_format=channels_last), ALONG),
        (torch.empty(8, 6, 3, 3).to(memory_format=channels_last), STRIDED),  # taps are 6 elements apart
        (torch.empty(8, 8, 1, 1).to(memory_format=channels_last), FLAT),
        (torch.empty(8, 8, 3, 6)[..., ::2], STRIDED),
        (torch.empty(8, 8, 3, 3).transpose(0, 1), STRIDED),
        (torch.empty(()), FLAT),
        (torch.empty(6)[::2], STRIDED),
    ]
    assert [build([entry(grad)], scale=True).memories[0] for grad, _ in cases] == [memory for _, memory in cases]


def test_tap_offsets_are_those_of_the_strides():
    grads = [torch.empty(4, 3, 2, 3, 4).permute(0, 1, 4, 2, 3), torch.empty(2, 2, 5, 6)[:, :, 1:4, ::2], torch.empty(3)]
    offsets = build([entry(grad) for grad in grads], scale=True).offsets
    expected = []
    for grad in grads:
        places = itertools.product(*map(range, grad.shape[2:]))
        strides = grad.stride()[2:]
        expected += [sum(p * s for p, s in zip(place, strides, strict=True)) for place in places]
    assert offsets.tolist()[: len(expected)] == expected


def test_packed_bases():
    bases = [torch.arange(9.0, dtype=torch.float64).reshape(3, 3) + 1, torch.eye(65, dtype=torch.float64)]
    packed = tables.pack_bases(bases, torch.float32, torch.device("cpu"))
    assert packed.dtype == torch.float32
    first, second = packed[: 3 * 64].reshape(3, 64), packed[3 * 64 :].reshape(65, 128)
    assert torch.equal(first[:, :3], bases[0].float())
    assert torch.equal(second[:, :65], bases[1].float())
    assert not first[:, 3:].any()
    assert not second[:, 65:].any()


def call_of(grads, floor=False, scale=False, keep=False, rounds=12) -> backend_module.Call:
    """The op's view of conv gradients, 3x3 with a high band, and of others."""
    return backend_module.Call(
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
        rounds=rounds,
        shards=None,
    )


def test_one_launch_for_each_dtype():
    grads = [torch.empty(8, 8, 3, 3, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float32)]
    launches = backend_module.plan(call_of(grads), LANES)
    assert [launch.members for launch in launches] == [(0, 2), (1,)]
    assert [launch.settings.dtype for launch in launches] == [torch.float32, torch.bfloat16]
    assert len(backend_module.plan(call_of([]), LANES)) == 1


def test_unaligned_gradients_are_accessed_by_element():
    (launch,) = backend_module.plan(call_of([torch.empty(8, 8, 3, 3)] * 2 + [torch.empty(5)], floor=True), LANES)
    assert launch.variant(launch.memories([160, 320, 4])).quad_memories == (FLAT,)
    memories = launch.memories([160, 324, 4])
    assert memories == [FLAT, STRIDED, FLAT]
    assert launch.variant(memories).quad_memories == (STRIDED, FLAT)


@pytest.fixture(params=["as on a GPU", "as in the interpreter"])
def who_takes_the_step(request, monkeypatch):
    """The first launch, or the host before it."""
    on_gpu = request.param == "as on a GPU"
    monkeypatch.setattr(backend_module, "_can_be_interrupted", lambda _device: not on_gpu)
    return on_gpu


def test_the_step_is_used_when_a_later_launch_fails(backend, who_takes_the_step, monkeypatch):
    """The noise of the first launch stays; a second call must not repeat it."""
    if backend.name != "triton":
        pytest.skip("about launches by dtype")
    grads = [backend.zeros(64), backend.zeros(64, dtype=torch.float64)]
    compile_time, calls = backend_module._constants, []

    def fails_once(variant):
        calls.append(variant)
        if len(calls) == 2:
            raise OSError("on purpose")
        return compile_time(variant)

    monkeypatch.setattr(backend_module, "_constants", fails_once)
    rng = tip.NoiseRNG.from_seed(3)
    options = {"ratio": 0, "std": 0.0, "floor_std": 1.0}
    with pytest.raises(OSError, match="on purpose"):
        backend.perturb_(grads, [None, None], rng=rng, **options)
    assert rng.step == 1
    first = grads[0].clone()
    assert first.all()
    grads[0].zero_()
    backend.perturb_(grads, [None, None], rng=rng, **options)
    assert not torch.isin(grads[0], first).any()


def test_mixed_dtypes_and_formats_in_one_call(backend, who_takes_the_step):
    """Several launches, of which one advances the step, and once."""
    if backend.name not in ("triton", "reference"):
        pytest.skip("about launches by dtype")
    like = {"layout": "channels_last"}
    kinds = [(torch.float32, {}), (torch.bfloat16, like), (torch.float64, {}), (torch.float32, like)]
    grads = [backend.gradient(5, 4, 3, 3, dtype=dtype, seed=i, **layout) for i, (dtype, layout) in enumerate(kinds)]
    expected = [grad.clone() for grad in grads]
    scores = [backend.scores(5, seed=i) for i in range(4)]
    rngs = [tip.NoiseRNG.from_seed(3, "chacha8") for _ in range(2)]
    backend.perturb_(grads, scores, ratio=0.4, std=1.0, rng=rngs[0])
    tip.perturb_(expected, scores, ratio=0.4, std=1.0, rng=rngs[1], backend="reference")
    assert rngs[0].step == 1
    for grad, want in zip(grads, expected, strict=True):
        # a normal is at most 6.8, off by some float32 roundoffs; a bfloat16 may then round to a neighbor
        relative = 2.0**-7 if grad.dtype is torch.bfloat16 else 0.0
        assert torch.allclose(grad, want, rtol=relative, atol=1e-5)


@pytest.mark.parametrize("enough", [1, 2**14])
@pytest.mark.parametrize("amounts", [{}, {"grad_scale": 0.5}, {"floor_std": 0.5}], ids=["std", "scale", "floor"])
def test_many_programs_of_many_tiles(enough, amounts, who_takes_the_step, monkeypatch):
    """As on a GPU: programs of 32 lanes, of one tile or of a whole channel; the interpreter's are wider otherwise."""
    if backend_module._import_problem() or torch.cuda.is_available():
        pytest.skip("for Triton's interpreter")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(backend_module, "_INTERPRETER_LANES", LANES)
    monkeypatch.setattr(backend_module, "_TABLES", backend_module._Cache(1))
    monkeypatch.setattr(tables, "_ENOUGH_PROGRAMS", enough)
    grads = [torch.randn(shape) for shape in ((2, 140, 3, 3), (33, 4, 3, 3), (2, 37, 1, 5), (40, 1, 3, 3), (600,))]
    scores = [torch.rand(len(grad)) if grad.dim() > 1 else None for grad in grads]
    results = []
    for name in ("triton", "reference"):
        rng = tip.NoiseRNG.from_seed(1, "chacha8")
        with unrounded():
            results.append(tip.perturb(grads, scores, ratio=0.5, std=1.0, rng=rng, backend=name, **amounts))
        assert rng.step == 1
    step = step_of(amounts.get("floor_std", 0.0))
    for got, want in zip(*results, strict=True):
        assert_on_grid(got, step)
        # normals of at most 6.8, some float32 roundoffs off
        assert torch.allclose(got, want, rtol=0, atol=1e-5 + step / 2)


def test_captured_memory_is_kept(monkeypatch):
    """A CUDA graph's tables outlive the cache; what was made during the capture is used by no other call."""
    cpu = torch.device("cpu")
    cache = backend_module._Cache(2)
    monkeypatch.setattr(backend_module, "_capturing", lambda device: capturing)

    def get(key):
        return cache.get(key, cpu, lambda: (object(), []))

    capturing = False
    known = get("known")
    assert get("known") is known
    capturing = True
    assert get("known") is known
    made = get("new")
    capturing = False
    assert get("new") is not made
    for key in range(5):
        get(key)
    assert len(cache._values) == 2
    assert [kept.value for kept in cache._captured] == [known, made]
