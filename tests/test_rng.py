"""A (key, step) pair makes its noise once, for the whole or for its parts, and the key stays hidden."""

import copy
import ctypes
import io
import itertools
import multiprocessing
import os
import pickle
import signal
import struct
import sys
import threading
import time
import traceback

import pytest
import torch
from released import TINY_FLOOR, step_of

import tip_kernels as tip
from tip_kernels._op.call import Options, prepare
from tip_kernels.backends.reference import perturb as reference
from tip_kernels.backends.reference import words as reference_words
from tip_kernels.rng import GENERATORS

KEY = b"this secret has just 32 letters!"
CPU = torch.device("cpu")


def _key(rng: tip.NoiseRNG) -> bytes:
    return struct.pack("<4q", *rng.state(CPU)[:4].tolist())


def _noise(backend, rng, count: int = 64) -> torch.Tensor:
    values = backend.zeros(count)
    backend.perturb_([values], [None], ratio=0, std=0.0, floor_std=TINY_FLOOR, rng=rng)
    return values


def test_every_object_has_its_own_key():
    keys = [_key(tip.NoiseRNG()) for _ in range(8)]
    assert len(set(keys)) == 8


def test_a_step_is_used_once(backend):
    rng = tip.NoiseRNG(KEY)
    noises = [_noise(backend, rng) for _ in range(4)]
    assert rng.step == 4
    for a, b in itertools.combinations(noises, 2):
        assert not torch.isin(a, b).any()


def test_a_call_without_gradients_uses_a_step_too(backend):
    rng = tip.NoiseRNG(KEY)
    backend.perturb_([], [], ratio=0.5, std=1.0, rng=rng)
    backend.perturb_([None, backend.zeros(0)], [None, None], ratio=0.5, std=1.0, rng=rng)
    assert rng.step == 2


def test_a_call_that_fails_uses_none(backend):
    rng = tip.NoiseRNG(KEY)
    values = backend.gradient(4, 3, 3, 3)
    before = values.clone()
    with pytest.raises(ValueError, match="expected scores"):
        backend.perturb_([values], [backend.scores(5)], ratio=0.5, std=1.0, rng=rng)
    assert rng.step == 0
    assert torch.equal(values, before)


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_same_key_and_step_repeat_the_noise(backend, generator):
    rng = tip.NoiseRNG(KEY, generator)
    noises = [_noise(backend, rng) for _ in range(3)]
    again = tip.NoiseRNG(KEY, generator, step=2)
    assert torch.equal(_noise(backend, again), noises[2])
    assert not torch.equal(_noise(backend, again), noises[2])


@pytest.mark.parametrize("step", [2**32 - 1, 2**62, 2**63 - 3])
def test_the_step_has_64_bits(backend, step):
    rng = tip.NoiseRNG(KEY, step=step)
    first, second = _noise(backend, rng), _noise(backend, rng)
    assert rng.step == step + 2
    assert torch.equal(first, _noise(backend, tip.NoiseRNG(KEY, step=step)))
    assert torch.equal(second, _noise(backend, tip.NoiseRNG(KEY, step=step + 1)))
    assert not torch.equal(second, _noise(backend, tip.NoiseRNG(KEY, step=(step + 1) % 2**32)))


@pytest.mark.parametrize("made_in", [True, False])
@pytest.mark.parametrize("used_in", [True, False])
def test_inference_mode_makes_no_difference(backend, made_in, used_in):
    with torch.inference_mode(made_in):
        rng = tip.NoiseRNG(KEY)
    with torch.inference_mode(used_in):
        first = _noise(backend, rng)
    second = _noise(backend, rng)
    assert rng.step == 2
    assert torch.equal(first, _noise(backend, tip.NoiseRNG(KEY)))
    assert not torch.equal(first, second)


def test_seeds_are_reproducible(backend):
    assert torch.equal(_noise(backend, tip.NoiseRNG.from_seed(5)), _noise(backend, tip.NoiseRNG.from_seed(5)))
    assert _key(tip.NoiseRNG.from_seed(5)) != _key(tip.NoiseRNG.from_seed(6))


def test_generators_differ(backend):
    noises = [_noise(backend, tip.NoiseRNG(KEY, generator)) for generator in GENERATORS]
    for a, b in itertools.combinations(noises, 2):
        assert not torch.isin(a, b).any()


def _through_torch_save(rng: tip.NoiseRNG) -> tip.NoiseRNG:
    file = io.BytesIO()
    torch.save(rng, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle{p}": lambda rng, p=p: pickle.loads(pickle.dumps(rng, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)},
    "torch.save": _through_torch_save,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_take_new_keys(duplicate):
    rng = tip.NoiseRNG(KEY, "chacha20", step=3)
    other = duplicate(rng)
    assert other.generator == "chacha20"
    assert _key(other) not in (KEY, bytes(32))
    assert _key(duplicate(rng)) != _key(other)
    assert (_key(rng), rng.step) == (KEY, 3)


# Newer Pythons warn of any fork beside threads; these children use one thread and leave at once.
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def _key_after(fork, rng: tip.NoiseRNG) -> bytes:
    """The key that ``rng`` has in a child that ``fork`` makes."""
    reader, writer = os.pipe()
    child = fork()
    if child == 0:
        try:
            os.write(writer, _key(rng))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read()


@forks
@can_fork
def test_a_forked_process_takes_a_new_key():
    rng, other = tip.NoiseRNG(KEY), tip.NoiseRNG(KEY)
    state = rng.state(CPU)
    keys = [_key_after(os.fork, rng), _key_after(os.fork, rng), _key_after(os.fork, other)]
    assert {len(key) for key in keys} == {32}
    assert len({KEY, *keys}) == 4
    assert _key(rng) == KEY
    assert rng.state(CPU) is state


@forks
@can_fork
def test_a_fork_that_python_does_not_see_takes_a_new_key():
    """A library that forks in C calls none of Python's hooks."""
    rng = tip.NoiseRNG(KEY, step=7)
    fork_in_c = ctypes.PyDLL(None).fork
    keys = [_key_after(fork_in_c, rng) for _ in range(2)]
    assert [len(key) for key in keys] == [32, 32]
    assert len({KEY, *keys}) == 3
    assert (_key(rng), rng.step) == (KEY, 7)


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_process_with_any_other_number_takes_a_new_key(difference, monkeypatch):
    """The numbers of processes wrap around, so that a fork's may be the lower one."""
    rng = tip.NoiseRNG(KEY, step=3)
    child = os.getpid() + difference
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert rng.step == 0
    fresh = _key(rng)
    assert fresh != KEY
    assert rng.step == 0
    assert _key(rng) == fresh  # taken once


@forks
@can_fork
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hook_that_fails_after_a_fork_leaves_no_child_with_the_key(monkeypatch):
    """The first has no new key to be had; the second has, and neither has the parent's."""
    rngs = [tip.NoiseRNG(KEY), tip.NoiseRNG(KEY)]
    states = [rng.state(CPU) for rng in rngs]
    draw, calls = os.urandom, []

    def fails_once(count: int) -> bytes:
        calls.append(count)
        if len(calls) == 1:
            raise OSError("no entropy")
        return draw(count)

    monkeypatch.setattr(os, "urandom", fails_once)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            steps = sorted(int(state[4]) for state in states)  # the ops refuse the step -1
            os.write(writer, struct.pack("<2q", *steps) + _key(rngs[0]) + _key(rngs[1]))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        seen = pipe.read()
    assert struct.unpack("<2q", seen[:16]) == (-1, 0)
    keys = [seen[16:48], seen[48:]]
    assert [len(key) for key in keys] == [32, 32]
    assert len({KEY, *keys}) == 3
    assert [_key(rng) for rng in rngs] == [KEY, KEY]


def test_threads_use_no_step_twice(backend):
    """Four threads with one NoiseRNG: as many different noises as calls."""
    rng = tip.NoiseRNG(KEY)
    count, threads = 60, 4
    noises: list[torch.Tensor] = []

    def work():
        for _ in range(count):
            noises.append(_noise(backend, rng, 16))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert rng.step == count * threads
    assert len({tuple(noise.tolist()) for noise in noises}) == count * threads


def _noise_in_a_child(rng: tip.NoiseRNG, queue) -> None:
    torch.set_num_threads(1)  # the parent's pool of threads does not survive a fork
    values = torch.zeros(64)
    tip.perturb_([values], [None], ratio=0, std=0.0, floor_std=TINY_FLOOR, rng=rng, backend="reference")
    queue.put(values.tolist())


@forks
@can_fork
def test_processes_of_multiprocessing_draw_other_noise():
    """Those that fork; the others are sent a pickle, see above."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    rng = tip.NoiseRNG(KEY)
    children = [context.Process(target=_noise_in_a_child, args=(rng, queue)) for _ in range(2)]
    for child in children:
        child.start()
    noises = [torch.tensor(queue.get(timeout=120)) for _ in children]
    for child in children:
        child.join()
    own = torch.zeros(64)
    tip.perturb_([own], [None], ratio=0, std=0.0, floor_std=TINY_FLOOR, rng=rng, backend="reference")
    for a, b in itertools.combinations([own, *noises], 2):
        assert not torch.isin(a, b).any()


def _assert_hidden(text: str) -> None:
    words = [*struct.unpack("<4q", KEY), *struct.unpack("<8I", KEY)]
    forms = [KEY.decode(), KEY.hex(), *map(str, words), *map(hex, words), str(list(KEY))[1:-1]]
    assert not [form for form in forms if form in text]


def test_the_key_is_not_shown():
    rng = tip.NoiseRNG(KEY)
    _assert_hidden(repr(rng))
    _assert_hidden(f"{rng} {[rng]}")
    _assert_hidden(repr(rng.state_dict()))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert KEY not in pickle.dumps(rng, protocol)
        _assert_hidden(pickle.dumps(rng, protocol).decode("latin-1"))


def _shown(thing: object) -> str:
    """What a debugger, a log or pytest prints of an object and its attributes."""
    attributes = {name: repr(value) for name, value in vars(thing).items()}
    return f"{thing!r} {thing} {attributes}"


def test_the_key_is_not_in_the_attributes():
    rng = tip.NoiseRNG(KEY)
    _assert_hidden(_shown(rng))
    assert "<hidden>" in _shown(rng)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3))
    defense = tip.TIP(model, rng=rng)
    _assert_hidden(_shown(defense))


def _variables_in_traceback(error: BaseException) -> str:
    """What ``pytest -l`` and the like print of an exception: the variables of every frame, but those of this file."""
    shown = []
    seen = error
    while seen is not None:
        frames = traceback.TracebackException.from_exception(seen, capture_locals=True).stack
        shown += [f"{frame.filename}: {frame.locals}" for frame in frames if frame.filename != __file__]
        seen = None if seen.__suppress_context__ else seen.__context__
    return "\n".join(shown)


def test_the_key_is_in_no_traceback_with_variables(backend, monkeypatch):
    rng = tip.NoiseRNG(KEY)
    values = backend.gradient(4, 3, 3, 3)
    call = prepare([values], [backend.scores(4)], Options(0.5, 1.0, rng, floor_std=1.0, backend=backend.name))
    _assert_hidden(repr(call))

    def fail(*args):
        return call.op(*args[:-1], "no shards")  # torch refuses them, with the key among its variables

    monkeypatch.setattr(reference_words, "split64", lambda values: 1 / 0)
    broken = call._replace(op=fail)
    with pytest.raises(RuntimeError, match="shards") as caught:
        broken.run()
    _assert_hidden(_variables_in_traceback(caught.value))
    if backend.name == "reference":
        with pytest.raises(ZeroDivisionError) as caught:
            call.run()
        _assert_hidden(_variables_in_traceback(caught.value))
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("bad", [{"key": KEY + b"!"}, {"generator": "chacha21"}, {"step": -1}, {"step": 1.5}], ids=str)
def test_a_refused_key_is_in_no_traceback_with_variables(bad):
    with pytest.raises((TypeError, ValueError), match="expected") as caught:
        tip.NoiseRNG(**{"key": KEY, **bad})
    _assert_hidden(_variables_in_traceback(caught.value))


@forks
@can_fork
def test_a_lock_that_a_thread_held_at_a_fork_is_open_in_the_child():
    held, done = threading.Event(), threading.Event()

    def hold():
        with reference._TAKING:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        with reference._TAKING:
            os._exit(7)
    done.set()
    holder.join()
    for _ in range(200):
        waited, status = os.waitpid(child, os.WNOHANG)
        if waited:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


class Interrupted(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_an_interrupted_reference_call_changes_nothing_and_uses_its_step(at, monkeypatch):
    """It repeated its noise: the step was advanced last."""
    rng = tip.NoiseRNG(KEY)
    grads = [torch.randn(6, 5, 3, 3) for _ in range(4)]
    before = [grad.clone() for grad in grads]
    scores = [torch.arange(6.0)] * 4
    options = {"ratio": 0.5, "std": 1.0, "floor_std": 0.5, "backend": "reference"}
    convert, calls = reference_words.normals, []

    def interrupted(words):
        calls.append(words)
        if len(calls) > at:
            raise Interrupted
        return convert(words)

    with monkeypatch.context() as patch:
        patch.setattr(reference_words, "normals", interrupted)
        with pytest.raises(Interrupted):
            tip.perturb_(grads, scores, rng=rng, **options)
    assert all(map(torch.equal, grads, before))
    assert rng.step == 1
    again = [grad.clone() for grad in before]
    tip.perturb_(again, scores, rng=rng, **options)
    first = [grad.clone() for grad in before]
    tip.perturb_(first, scores, rng=tip.NoiseRNG(KEY), **options)
    for a, b, c in zip(again, first, before, strict=True):
        step = step_of(0.5, 1.0)  # on whose multiples two independent values may meet
        assert ((a - b).abs() > step).float().mean() > 0.98
        assert abs(torch.corrcoef(torch.stack([(a - c).flatten(), (b - c).flatten()]))[0, 1]) < 0.5


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"key": KEY.decode()}, TypeError),
        ({"key": bytearray(KEY)}, TypeError),
        ({"key": KEY + b"!"}, ValueError),
        ({"key": KEY, "generator": "mt19937"}, ValueError),
        ({"key": KEY, "step": -1}, ValueError),
        ({"key": KEY, "step": 2**63 - 1}, ValueError),
    ],
)
def test_errors_name_the_argument_and_hide_the_key(arguments, error):
    with pytest.raises(error, match=r"expected (a )?(key|generator|step)") as caught:
        tip.NoiseRNG(**arguments)
    _assert_hidden(str(caught.value))


def test_the_unknown_generator_error_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"{', '.join(GENERATORS)}, got 'mt19937'"):
        tip.NoiseRNG(generator="mt19937")


def test_loading_goes_forward_only():
    rng = tip.NoiseRNG(KEY, step=10)
    rng.load_state_dict({"generator": "chacha12", "step": 4})
    assert rng.step == 10
    rng.load_state_dict(tip.NoiseRNG(step=12).state_dict())
    assert rng.step == 12
    assert _key(rng) == KEY
    with pytest.raises(ValueError, match="expected a state of generator chacha12, got 'philox'"):
        rng.load_state_dict({"generator": "philox", "step": 20})
    assert rng.step == 12


CALLS = {
    "plain": {"std": 0.5},
    "floor": {"std": 0.5, "floor_std": 0.25},
    "replace and scale": {"std": 0.5, "keep": 0.0, "grad_scale": 0.7},
    "everything": {"std": 0.5, "floor_std": 0.25, "keep": 0.5, "grad_scale": 0.7},
}


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("generator", ["chacha12", "philox"])
@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 1), (5,), (3, 3, 3)], ids=str)
def test_parts_get_the_noise_of_the_whole(backend, kernel_size, generator, options):
    """Bit for bit, for cuts at odd places in channels and in kernels; a part may hold no selected channel."""
    channels, kernels = 13, 11
    scores = backend.scores(channels, seed=3)
    whole = backend.gradient(channels, kernels, *kernel_size, seed=1)
    parts = whole.clone()

    def run(tensor, shard):
        shards = [None, shard] if shard else None
        rng = tip.NoiseRNG(KEY, generator, step=5)
        backend.perturb_([None, tensor], [None, scores], ratio=0.3, shards=shards, rng=rng, **options)

    run(whole, None)
    for first_channel, last_channel in itertools.pairwise([0, 1, 2, 7, 13]):
        for first_kernel, last_kernel in itertools.pairwise([0, 3, 4, 11]):
            part = parts[first_channel:last_channel, first_kernel:last_kernel]
            run(part, tip.Shard(first_channel, first_kernel, kernels))
    assert torch.equal(parts, whole)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("shape", [(101,), (29, 7), (13, 5, 1, 1), (7, 5, 3)], ids=str)
def test_parts_of_tensors_without_scores_get_the_noise_of_the_whole(backend, generator, shape):
    """Their words are not padded, so that a part starts inside blocks and inside Box-Muller pairs."""
    whole = backend.zeros(*shape)
    parts = whole.clone()

    def run(tensor, shard):
        rng = tip.NoiseRNG(KEY, generator)
        shards = [shard] if shard else None
        backend.perturb_([tensor], [None], ratio=0, std=0.0, floor_std=TINY_FLOOR, rng=rng, shards=shards)

    run(whole, None)
    kernels = shape[1] if len(shape) > 1 else 1
    columns = [0, 1, kernels - 1, kernels] if kernels > 1 else [0, 1]
    for first_channel, last_channel in itertools.pairwise([0, 1, 4, shape[0]]):
        for first_kernel, last_kernel in itertools.pairwise(columns):
            part = parts[first_channel:last_channel]
            part = part[:, first_kernel:last_kernel] if len(shape) > 1 else part
            run(part, tip.Shard(first_channel, first_kernel, kernels))
    assert torch.equal(parts, whole)
