"""The index arithmetic of the kernels for all inputs: proofs by z3, or every case there is.

A proof is of a model, a Python function that takes integers and z3's terms alike; that the C++ functions compute what
the models do is tested on random and extreme inputs.
"""

import ctypes
import itertools
import operator
import random

import numpy as np
import pytest
import z3
from test_cuda_on_host import library  # noqa: F401  a fixture

TENSORS, BLOCKS, GROUPS_OF_PHILOX = 2**24, 2**40, 2**38
SLOTS = 2**15
"""Above the slots of a tile, and the units of a row where several of them are in a tile."""

LANE_UNITS = (1, 2, 4, 8, 16)


def is_proved(claim, *assumptions) -> bool:
    solver = z3.Solver()
    solver.set("timeout", 120_000)
    solver.add(*assumptions, z3.Not(claim))
    return solver.check() == z3.unsat


def edges(limit: int, count: int = 300) -> list[int]:
    """Numbers below a limit: around powers of two, and random ones."""
    draw = random.Random(limit)
    near = {(1 << bit) + d for bit in range(limit.bit_length()) for d in (-1, 0, 1)}
    return sorted({n for n in near if 0 <= n < limit} | {draw.randrange(limit) for _ in range(count)})


# --- counters


def counter(tensor, block, shift=operator.rshift):
    """Low and high word, as csrc/core/address.h; ``shift`` for unsigned numbers."""
    return block & 0xFFFFFFFF, shift(block, 32) | (tensor << 8)


def philox_counter(low, high, i, shift=operator.rshift):
    """As csrc/core/generate.h, from the counter of a group."""
    return ((low << 2) & 0xFFFFFFFF) + i, ((high & 0xFF) << 2) | shift(low, 30) | (high & 0xFFFFFF00)


def test_counters_are_those_of_the_contract():
    """The 64-bit number tensor * 2^40 + block, and no two blocks of a call have the same."""
    tensor, block = z3.BitVecs("tensor block", 64)
    inside = [z3.ULT(tensor, TENSORS), z3.ULT(block, BLOCKS)]
    low, high = counter(tensor, block, z3.LShR)
    assert is_proved(((high << 32) | low) == tensor * 2**40 + block, *inside)
    assert is_proved(z3.ULT(high, 2**32), *inside)
    assert not is_proved(((high << 32) | low) == tensor * 2**40 + block, inside[0])  # a block more would be another's


def test_counters_of_philox():
    tensor, group, i = z3.BitVecs("tensor group i", 64)
    inside = [z3.ULT(tensor, TENSORS), z3.ULT(group, GROUPS_OF_PHILOX), z3.ULT(i, 4)]
    first, second = philox_counter(*counter(tensor, group, z3.LShR), i, z3.LShR)
    assert is_proved(((second << 32) | first) == tensor * 2**40 + 4 * group + i, *inside)
    assert is_proved(z3.And(z3.ULT(first, 2**32), z3.ULT(second, 2**32)), *inside)
    beyond = [inside[0], z3.ULT(group, GROUPS_OF_PHILOX + 1), inside[2]]
    assert not is_proved(((second << 32) | first) == tensor * 2**40 + 4 * group + i, *beyond)


def test_the_kernels_compute_these_counters(library):  # noqa: F811
    library.counter_on_host.restype = library.philox_counter_on_host.restype = ctypes.c_uint64
    for tensor, group in itertools.product(edges(TENSORS, 20), edges(GROUPS_OF_PHILOX, 50)):
        low, high = counter(tensor, group)
        got = library.counter_on_host(ctypes.c_uint32(tensor), ctypes.c_uint64(group))
        assert got == high << 32 | low
        for i in (0, 3):
            first, second = philox_counter(low, high, i)
            got = library.philox_counter_on_host(ctypes.c_uint32(tensor), ctypes.c_uint64(group), ctypes.c_uint32(i))
            assert got == second << 32 | first == tensor * 2**40 + 4 * group + i


# --- words of units


@pytest.mark.parametrize("used", [*range(1, 17), 17, 31, 32, 33, 48, 49, 125, 961])
def test_lanes_have_the_words_of_the_contract(used):
    """Unit g begins at word g * pitch: in lane g div units, whose groups begin at word 16 * groups * lane."""
    pitch = next((2**n for n in range(5) if used <= 2**n), -(-used // 16) * 16)
    units, groups = (16 // pitch, 1) if pitch <= 16 else (1, pitch // 16)
    g = z3.Int("g")
    lane = g / units
    word = 16 * groups * lane + (g - lane * units) * (16 // units) * groups
    assert is_proved(word == g * pitch, g >= 0)
    assert is_proved(z3.Or(groups > 1, word / 16 == (word + used - 1) / 16), g >= 0)  # no unit straddles groups
    assert units * pitch == 16 * groups


# --- division


def test_division(library):  # noqa: F811
    """In 32 bits where both numbers have no more, which changes neither of them and so no quotient."""
    a, b = z3.BitVecs("a b", 64)
    assert is_proved(z3.And(z3.ULT(a, 2**32), z3.ULT(b, 2**32)), z3.LShR(a | b, 32) == 0)
    library.divide_on_host.restype = ctypes.c_int64
    for x, y in itertools.product(edges(2**63, 100), edges(2**63, 100)):
        if y:
            assert library.divide_on_host(ctypes.c_int64(x), ctypes.c_int64(y)) == x // y


def test_rows_by_multiplication_in_every_case():
    """(2 u (2^31 div r + 1)) >> 32 is u div r for all u and r below 2^15: all 2^30 of them."""
    units = np.arange(SLOTS, dtype=np.uint64)
    for row_units in range(1, SLOTS):
        inverse = np.uint64(2**31 // row_units + 1)
        assert inverse * np.uint64(2 * (SLOTS - 1)) < 2**63
        quotients = (2 * units * inverse) >> np.uint64(32)
        # Sorted, so it is enough that each quotient begins where it should.
        assert quotients[-1] == (SLOTS - 1) // row_units
        assert np.array_equal(np.flatnonzero(np.diff(quotients)) + 1, np.arange(row_units, SLOTS, row_units))


def test_rows_by_multiplication_on_the_host(library):  # noqa: F811
    row, unit = ctypes.c_int64(), ctypes.c_int64()
    for row_units, slot in itertools.product(edges(SLOTS, 60)[1:], edges(SLOTS, 200)):
        arguments = (ctypes.c_int64(row_units), ctypes.c_int64(slot), ctypes.byref(row), ctypes.byref(unit))
        library.row_unit_on_host(*arguments)
        assert (row.value, unit.value) == divmod(slot, row_units)


# --- tiles


def tiles_of_run(first, units, lane_units, tile_lanes):
    """As csrc/cuda/plan.cpp for one run: tiles so that all of the run's lanes have one."""
    lanes = (first % lane_units + units + lane_units - 1) // lane_units
    return -(-lanes // tile_lanes)


def tile_at(first, units, lane_units, tile_lanes, index):
    """(first lane, begin, end) of a tile, in slots counted from its first lane; as csrc/cuda/tile.h."""
    lane = first // lane_units + index * tile_lanes
    origin, slots = lane * lane_units - first, tile_lanes * lane_units
    return lane, max(0, -origin), min(units - origin, slots)


@pytest.mark.parametrize("lane_units", LANE_UNITS)
def test_tiles_are_a_partition_of_the_run(lane_units):
    """Every unit has one tile and one slot, whose lane and place in it are those of its index in the whole tensor."""
    first, units, tile_lanes, unit = z3.Ints("first units tile_lanes unit")
    steps, reached = z3.Ints("steps reached")  # lanes of earlier tiles, and of all: a product of unknowns each
    lanes = (first % lane_units + units + lane_units - 1) / lane_units
    sizes = [first >= 0, units >= 1, tile_lanes >= 1, steps >= 0]
    origin = (first / lane_units + steps) * lane_units - first
    begin = z3.If(origin < 0, -origin, 0)
    end = z3.If(units - origin < tile_lanes * lane_units, units - origin, tile_lanes * lane_units)
    # The first tile begins with the lane in which the run begins; steps go on by tile_lanes.
    assert is_proved(z3.And(origin <= 0, origin > -lane_units), *sizes, steps == 0)
    # A unit that lies in the tile's lanes is in [begin, end), and no other is.
    slot = unit - origin
    in_lanes = z3.And(slot >= 0, slot < tile_lanes * lane_units)
    inside = [unit >= 0, unit < units]
    assert is_proved(z3.Implies(in_lanes, z3.And(slot >= begin, slot < end)), *sizes, *inside)
    assert is_proved(z3.Implies(z3.And(slot >= begin, slot < end), z3.And(unit >= 0, unit < units)), *sizes)
    # Its lane and place there are those of its index in the whole.
    place = (first / lane_units + steps) + slot / lane_units
    assert is_proved(z3.Implies(in_lanes, place == (first + unit) / lane_units), *sizes, *inside)
    assert is_proved(z3.Implies(in_lanes, slot % lane_units == (first + unit) % lane_units), *sizes, *inside)
    # As many tiles as have all lanes reach the end of the run.
    last_origin = (first / lane_units + reached) * lane_units - first
    assert is_proved(last_origin >= units, *sizes, reached >= lanes)


def test_tiles_on_the_host(library):  # noqa: F811
    found = (ctypes.c_int64 * 4)()
    draw = random.Random(0)
    for _ in range(3000):
        lane_units = draw.choice(LANE_UNITS)
        first, units = draw.choice(edges(2**41)), draw.choice(edges(2**41)[1:])
        tile_lanes = draw.randint(1, 2**14 // lane_units)
        tiles = tiles_of_run(first, units, lane_units, tile_lanes)
        for index in {0, tiles - 1, draw.randrange(tiles)}:
            given = (first, units, lane_units, tile_lanes, tiles, index)
            library.tile_on_host(*map(ctypes.c_int64, given), found)
            lane, begin, end = tile_at(first, units, lane_units, tile_lanes, index)
            assert (found[0], found[1], found[2]) == (lane, begin, end)
            assert (found[3] > 0) == (end > begin)
