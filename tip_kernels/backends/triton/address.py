"""Where the random words of a kernel lie. docs/design.md, section 3, is the contract."""

GROUP = 16
"""Words in a group: one ChaCha block or four Philox blocks, what the kernels draw at once."""


def used_words(taps: int, high_dim: int, floor: bool) -> int:
    """Words that a kernel uses; ``floor``: whether the call has a ``floor_std``."""
    return taps if floor else high_dim


def pitch(used: int) -> int:
    """Words from a kernel's first to the next kernel's: a power of two up to 16, then multiples of 16."""
    if used > GROUP:
        return -(-used // GROUP) * GROUP
    return 1 << (used - 1).bit_length() if used else 0
