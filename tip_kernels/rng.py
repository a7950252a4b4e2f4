"""Keys, steps and the state tensor from which every backend draws the same noise.

The generators themselves are in the backends; ``docs/design.md`` section 3 is their contract.
"""

import hashlib
import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch

from ._runtime.locks import ForkSafeLock
from ._runtime.tracing import is_dry_run, refuse_recorders

CONTRACT_VERSION = 1
"""Of the noise contract, docs/design.md section 3: the same version gives the same noise for the same key and step."""

GENERATORS = {"chacha8": 8, "chacha12": 12, "chacha20": 20, "philox": 10}
"""Generators and the numbers by which the ops name them; those of ChaCha and Philox are their rounds, and a new one
takes any other. Philox is not secure."""

KEY_BYTES = 32
MAX_STEP = 2**63 - 1
"""No step is this one: it would have no successor."""

_NO_STEP = -1  # the ops refuse a state with it


def block_words(generator: int) -> int:
    """Words in a block of the generator that the ops name so."""
    return 4 if generator == GENERATORS["philox"] else 16


class NoiseRNG:
    """A secret key, a generator and a step: what makes the noise of a call and makes it only once.

    Every call of :func:`tip_kernels.perturb_` uses one step and advances it, on the gradients' device and
    without a host sync. Use one ``NoiseRNG`` per client. Threads may share it, since each call has a step of its own;
    two CUDA streams may not at the same time. Do not use it on another device once a CUDA graph has captured it: the
    graph keeps the state that it captured. Do not load a state while calls run.

    The key never leaves the object: it is in no repr, ``vars()``, error, traceback, ``state_dict``, pickle or copy. A
    copied, unpickled or forked ``NoiseRNG`` takes a new key of its own, because a (key, step) pair must be used once.
    What goes unnoticed: a fork by C code of a process whose next call is in a graph that ``torch.compile`` has made
    already, and a snapshot of a whole machine that is started twice.
    ``torch.export``, ``make_fx`` and ``torch.jit.trace``, whose graphs would hold the key, are refused. Whoever can
    read the memory of the process can read the key: a debugger, a core dump, and what ``torch.compile`` writes for
    debugging (the inputs that its minifier saves, on request only) all show it.

    In a dry run (under ``FakeTensorMode``) no step is used.

    Args:
        key: 32 secret bytes; drawn from the operating system if absent. Giving the same key to two objects
            repeats the noise: do it only for the parts of one gradient, or to reproduce an experiment.
        generator: ``"chacha12"`` (default), ``"chacha20"``, ``"chacha8"`` or ``"philox"``. Philox4x32-10
            (Salmon et al. 2011) uses the first 8 bytes of the key and is *not* secure.
        step: the first step, at least 0; to go on after a restart with the same key.

    Raises:
        TypeError: the key is not bytes, or the step is not an integer.
        ValueError: the key is not 32 bytes long, the generator is unknown or the step is out of range.
    """

    def __init__(self, key: bytes | None = None, generator: str = "chacha12", step: int = 0) -> None:
        self.generator = generator
        problem = _problem_of_generator(generator) or _problem_of_step(step) or _problem_of_key(key)
        if problem is not None:
            key = None  # a traceback may show the variables of this frame
            raise problem
        self._secret = Secret(_new_state(os.urandom(KEY_BYTES) if key is None else key, step))
        if key is not None:  # one that was drawn is nobody else's
            self._secret.fingerprint = hashlib.sha256(b"tip_kernels fingerprint" + key).digest()
        self._owner = os.getpid()
        _LIVE.add(self)

    @classmethod
    def from_seed(cls, seed: int, generator: str = "chacha12") -> "NoiseRNG":
        """A reproducible ``NoiseRNG`` for tests and experiments. Its key is public: it protects nobody."""
        return cls(hashlib.sha256(f"tip_kernels seed {seed}".encode()).digest(), generator)

    @property
    def generator_id(self) -> int:
        """The number by which the ops name the generator."""
        return GENERATORS[self.generator]

    @property
    def step(self) -> int:
        """The step that the next call uses. Reading it waits for the device."""
        self._own()
        return int(self._secret.tensor[4].item())

    @property
    def device(self) -> torch.device:
        """The device on which the state lies, that of the last call."""
        return self._secret.tensor.device

    def state(self, device: torch.device) -> torch.Tensor:
        """The int64 [6] tensor (key, step, counter) on ``device``, for the ops; moved there if it was elsewhere.

        In a dry run a fake one, that holds no key.

        Raises:
            ValueError: the device holds no data (``meta``): the key would be lost there.
            RuntimeError: a graph is being recorded that would hold the key.
        """
        refuse_recorders()
        if device.type == "meta":
            raise ValueError("expected a device that holds data, got meta")
        if not torch.compiler.is_compiling():
            if is_dry_run():
                return torch.empty(6, dtype=torch.int64, device=device)
            self._own()
        if self._secret.tensor.device != device:
            if torch.compiler.is_compiling():
                self._move(device)
            else:
                with _MOVING:  # two threads must not get two copies
                    self._move(device)
        return self._secret.tensor

    def _move(self, device: torch.device) -> None:
        if self._secret.tensor.device != device:
            with torch.inference_mode(False):  # the state must stay writable outside of it
                self._secret.tensor = self._secret.tensor.to(device)

    def state_dict(self) -> dict[str, object]:
        """Generator and step. Never the key: keep that yourself if a restart must go on with it.

        Save it after a call and before its message is sent: then a process that is killed at any moment and started
        again repeats no noise that anybody has seen.
        """
        return {"generator": self.generator, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved step; never back, so that no (key, step) pair is used again.

        Raises:
            ValueError: the state was saved with another generator, or its step is out of range.
        """
        if state_dict["generator"] != self.generator:
            raise ValueError(f"expected a state of generator {self.generator}, got {state_dict['generator']!r}")
        problem = _problem_of_step(state_dict["step"])
        if problem is not None:
            raise problem
        if state_dict["step"] > self.step:
            self._secret.tensor[4] = state_dict["step"]

    def warn_of_another_with_this_key(self) -> None:
        """Warns if this method has been called for another object of this process with the same key."""
        fingerprint = self._secret.fingerprint
        if fingerprint is None or _USED.setdefault(fingerprint, self) is self:
            return
        warnings.warn(
            "another NoiseRNG of this process has the same key: the difference of two messages with the same noise has "
            "none left, so give each client a NoiseRNG() of its own",
            RuntimeWarning,
            stacklevel=7,
        )

    def fingerprint(self) -> int:
        """Tells this key and generator from others, in 62 bits that tell nothing of the key. Waits for the device."""
        self._own()
        key = self._secret.tensor[:4].cpu().numpy().tobytes()
        digest = hashlib.sha256(b"tip_kernels ranks" + self.generator.encode() + key).digest()
        return int.from_bytes(digest[:8], "little") >> 2

    def exchange(self, broadcast: Callable[[torch.Tensor], object], device: torch.device) -> None:
        """Has ``broadcast`` overwrite a copy of the state, on ``device``, with another rank's, and goes on from that.

        For the ranks that hold one message. What the copy passes through carries the key.
        """
        self._own()
        secret = Secret(self._secret.tensor.detach().clone().to(device))
        try:
            broadcast(secret.tensor)
        except BaseException as error:  # the frames below hold the key
            raise error.with_traceback(None) from None
        self._secret.tensor.copy_(secret.tensor)  # in place: a compiled graph may hold this very tensor
        self._secret.fingerprint = None

    def __repr__(self) -> str:
        return f"NoiseRNG(generator={self.generator!r}, key=<hidden>)"

    def __getstate__(self) -> dict[str, object]:
        return {"generator": self.generator}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(generator=saved["generator"])  # type: ignore[misc]

    def _own(self) -> None:
        """Takes a new key if this process is a fork of the one that made the key, however it was forked."""
        if self._owner == os.getpid():
            return
        with _REKEYING:
            if self._owner != os.getpid():  # no other thread has done it meanwhile
                self._rekey()

    def _rekey(self) -> None:
        secret = self._secret
        fresh = Secret(_new_state(os.urandom(KEY_BYTES), 0))
        if secret.tensor.device.type == "cpu":
            secret.tensor.copy_(fresh.tensor)  # in place: a compiled graph may hold this very tensor
        else:
            self._secret = fresh  # a forked process cannot touch the parent's device memory
        self._secret.fingerprint = None
        self._owner = os.getpid()

    def _rekey_in_child(self) -> None:
        """Right after a fork; if there is no new key to be had, leaves a state that the ops refuse."""
        try:
            self._rekey()
        except BaseException:
            if self._secret.tensor.device.type == "cpu":
                self._secret.tensor[4] = _NO_STEP
            raise


class Secret:
    """Holds the state out of sight: what prints the attributes of an object prints this one's repr."""

    __slots__ = ("fingerprint", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.fingerprint: bytes | None = None

    def __repr__(self) -> str:
        return "<hidden>"


def _problem_of_generator(generator: object) -> Exception | None:
    if isinstance(generator, str) and generator in GENERATORS:
        return None
    return ValueError(f"expected generator to be one of {', '.join(GENERATORS)}, got {generator!r}")


def _problem_of_step(step: object) -> Exception | None:
    if not isinstance(step, int):
        return TypeError(f"expected step to be an integer, got {type(step).__name__}")
    if not 0 <= step < MAX_STEP:
        return ValueError(f"expected step in [0, 2**63 - 1), got {step}")
    return None


def _problem_of_key(key: object) -> Exception | None:
    if key is not None and not isinstance(key, bytes):
        return TypeError(f"expected key to be bytes, got {type(key).__name__}")
    if key is not None and len(key) != KEY_BYTES:
        return ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)} bytes")
    return None


def _new_state(key: bytes, step: int) -> torch.Tensor:
    # The modes of a dry run or a tracer would make it a tensor without data.
    with torch.inference_mode(False), torch.utils._python_dispatch._disable_current_modes():
        return torch.frombuffer(bytearray(key + step.to_bytes(8, "little") + bytes(8)), dtype=torch.int64).clone()


_LIVE: "weakref.WeakSet[NoiseRNG]" = weakref.WeakSet()
_USED: "weakref.WeakValueDictionary[bytes, NoiseRNG]" = weakref.WeakValueDictionary()
_MOVING = ForkSafeLock()
_REKEYING = ForkSafeLock()


def _rekey_all_in_child() -> None:
    failures = []
    for rng in list(_LIVE):
        try:
            rng._rekey_in_child()
        except BaseException as error:  # the others must still have their new keys
            failures.append(error)
    if failures:
        raise failures[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rekey_all_in_child)
