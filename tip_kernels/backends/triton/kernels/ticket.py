"""How a call takes its step: the first launch advances it, when all of its programs have read it."""

import triton
import triton.language as tl


@triton.jit
def take_ticket(state, step):
    """The last program to finish advances the step; the state's last word, where programs count themselves, is 0 again.

    No program may read the advanced step. What a program adds to the counter depends on the step that it read, so the
    addition waits for the read; and the stores wait for the last addition. Hence no fence, which would cost more than
    everything else that a program of an unselected channel does. Its threads, which all read, wait for one another.
    Calls that share a state follow one another.
    """
    tl.debug_barrier()
    one = tl.where(step < 0, 2, 1).to(tl.int64)  # steps are not negative, but no compiler knows
    if tl.atomic_add(state + 5, one, sem="relaxed") == tl.num_programs(0).to(tl.int64) - 1:
        tl.store(state + 5, 0)
        tl.store(state + 4, step + 1)
