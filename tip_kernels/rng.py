"""Keys, steps and the state tensor from which every backend draws the same noise.

The generators themselves are in the backends; ``docs/design.md`` section 3 is their contract.
"""

import hashlib
import os
import weakref

import torch

CONTRACT_VERSION = 1
"""Of the noise contract, docs/design.md section 3: the same version gives the same noise for the same key and step."""

GENERATORS = {"chacha8": 8, "chacha12": 12, "chacha20": 20, "philox": 10}
"""Generator names and their numbers of rounds, by which the ops name them. Philox is not secure."""

KEY_BYTES = 32
_MAX_STEP = 2**63 - 1


class NoiseRNG:
    """A secret key, a generator and a step: what makes the noise of a call and makes it only once.

    Every call of :func:`tip_kernels.perturb_` uses one step and advances it, on the gradients' device and
    without a host sync. Use one ``NoiseRNG`` per client; not from two threads or CUDA streams at the same time, and
    on no other device once a CUDA graph has captured it, because the graph keeps the state that it captured.

    The key never leaves the object: it is in no repr, error, ``state_dict``, pickle or copy. A copied,
    unpickled or forked ``NoiseRNG`` takes a new key of its own, because a (key, step) pair must be used once.

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
        if generator not in GENERATORS:
            raise ValueError(f"expected generator to be one of {', '.join(GENERATORS)}, got {generator!r}")
        _check_step(step)
        if key is not None and not isinstance(key, bytes):
            raise TypeError(f"expected key to be bytes, got {type(key).__name__}")
        if key is not None and len(key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)} bytes")
        self.generator = generator
        self._state = _new_state(os.urandom(KEY_BYTES) if key is None else key, step)
        _LIVE.add(self)

    @classmethod
    def from_seed(cls, seed: int, generator: str = "chacha12") -> "NoiseRNG":
        """A reproducible ``NoiseRNG`` for tests and experiments. Its key is public: it protects nobody."""
        return cls(hashlib.sha256(f"tip_kernels seed {seed}".encode()).digest(), generator)

    @property
    def rounds(self) -> int:
        """The generator's number of rounds, by which the ops name it."""
        return GENERATORS[self.generator]

    @property
    def step(self) -> int:
        """The step that the next call uses. Reading it waits for the device."""
        return int(self._state[4].item())

    @property
    def device(self) -> torch.device:
        """Where the state lies: on the device of the last call."""
        return self._state.device

    def state(self, device: torch.device) -> torch.Tensor:
        """The int64 [5] tensor (key, step) on ``device``, for the ops; moved there if it was elsewhere."""
        if self._state.device != device:
            with torch.inference_mode(False):  # the state must stay writable outside of it
                self._state = self._state.to(device)
        return self._state

    def state_dict(self) -> dict[str, object]:
        """Generator and step. Never the key: keep that yourself if a restart must go on with it."""
        return {"generator": self.generator, "step": self.step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Goes on from a saved step; never back, so that no (key, step) pair is used again.

        Raises:
            ValueError: the state was saved with another generator, or its step is out of range.
        """
        if state_dict["generator"] != self.generator:
            raise ValueError(f"expected a state of generator {self.generator}, got {state_dict['generator']!r}")
        _check_step(state_dict["step"])
        self._state[4] = max(self.step, state_dict["step"])

    def __repr__(self) -> str:
        return f"NoiseRNG(generator={self.generator!r}, key=<hidden>)"

    def __getstate__(self) -> dict[str, object]:
        return {"generator": self.generator}

    def __setstate__(self, saved: dict) -> None:
        self.__init__(generator=saved["generator"])  # type: ignore[misc]

    def _rekey_in_child(self) -> None:
        fresh = _new_state(os.urandom(KEY_BYTES), 0)
        if self._state.device.type == "cpu":
            self._state.copy_(fresh)  # in place: a compiled graph may hold this very tensor
        else:
            self._state = fresh  # a forked process cannot touch the parent's device memory


def _check_step(step: int) -> None:
    if not isinstance(step, int):
        raise TypeError(f"expected step to be an integer, got {type(step).__name__}")
    if not 0 <= step < _MAX_STEP:
        raise ValueError(f"expected step in [0, 2**63 - 1), got {step}")


def _new_state(key: bytes, step: int) -> torch.Tensor:
    with torch.inference_mode(False):  # as above
        return torch.frombuffer(bytearray(key + step.to_bytes(8, "little")), dtype=torch.int64).clone()


_LIVE: "weakref.WeakSet[NoiseRNG]" = weakref.WeakSet()


def _rekey_all_in_child() -> None:
    for rng in list(_LIVE):
        rng._rekey_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rekey_all_in_child)
