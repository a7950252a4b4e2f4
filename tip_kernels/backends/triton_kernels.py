"""The Triton kernels: the noise contract and the whole list of tensors in one launch (docs/design.md).

A lane draws superblocks of 16 words, so that words and normals stay in the registers of the thread that uses them.
On the path QUADS it owns four kernels, whose taps it reads and writes as vectors of four elements; on KERNELS it owns
one, of any size, and the product with the basis is a dot; on ELEMENTS it owns 16 elements. Programs are one warp wide:
then a program rarely spans a selected and an unselected channel, reductions need no barrier, and an unselected
channel costs one warp a rank and nothing more.
"""

import triton
import triton.language as tl

from . import triton_tables
from .triton_tables import Row

_COLUMNS = tl.constexpr(len(Row._fields))
_PATH = tl.constexpr(Row._fields.index("path"))
_FIRST_PROGRAM = tl.constexpr(Row._fields.index("first_program"))
_PROGRAMS_PER_RUN = tl.constexpr(Row._fields.index("programs_per_run"))
_RUN_LENGTH = tl.constexpr(Row._fields.index("run_length"))
_SPAN = tl.constexpr(Row._fields.index("span"))
_CHANNELS = tl.constexpr(Row._fields.index("channels"))
_KERNELS = tl.constexpr(Row._fields.index("kernels"))
_TAPS = tl.constexpr(Row._fields.index("taps"))
_CHANNEL_STRIDE = tl.constexpr(Row._fields.index("channel_stride"))
_KERNEL_STRIDE = tl.constexpr(Row._fields.index("kernel_stride"))
_TAP_OFFSETS = tl.constexpr(Row._fields.index("tap_offsets"))
_FIRST_CHANNEL = tl.constexpr(Row._fields.index("first_channel"))
_FIRST_KERNEL = tl.constexpr(Row._fields.index("first_kernel"))
_WHOLE_KERNELS = tl.constexpr(Row._fields.index("whole_kernels"))
_TENSOR_ID = tl.constexpr(Row._fields.index("tensor_id"))
_BASIS = tl.constexpr(Row._fields.index("basis"))
_HIGH_DIM = tl.constexpr(Row._fields.index("high_dim"))
_PITCH = tl.constexpr(Row._fields.index("pitch"))
_SELECTED = tl.constexpr(Row._fields.index("selected"))
_SCORE_COUNT = tl.constexpr(Row._fields.index("score_count"))
_SCORE_STRIDE = tl.constexpr(Row._fields.index("score_stride"))
_BASIS_PITCH = tl.constexpr(Row._fields.index("basis_pitch"))
_RUN_ELEMENTS = tl.constexpr(Row._fields.index("run_elements"))

_BASIS_UNIT = tl.constexpr(triton_tables.BASIS_UNIT)

_IDLE = tl.constexpr(triton_tables.IDLE)
_QUADS_PATH = tl.constexpr(triton_tables.QUADS)
_KERNELS_PATH = tl.constexpr(triton_tables.KERNELS)
_ELEMENTS_PATH = tl.constexpr(triton_tables.ELEMENTS)
_STRIDED = tl.constexpr(triton_tables.STRIDED)
_FLAT = tl.constexpr(triton_tables.FLAT)
_ALONG = tl.constexpr(triton_tables.ALONG)


_NOT_CONSTANT = "header rows programs offsets bases stds floor_stds grad_scale state advance".split()
"""Arguments for whose values or alignment no second kernel is compiled."""


# ---------------------------------------------------------------------------------------------------- random words


@triton.jit
def _wrapping_add(a, b):
    return tl.add(a, b, sanitize_overflow=False)  # in Triton's debug mode an ordinary sum would fail


@triton.jit
def _quarter_round(a, b, c, d):
    """Written out, since each call of a function costs Triton's interpreter a millisecond."""
    a = tl.add(a, b, sanitize_overflow=False)
    d ^= a
    d = (d << 16) | (d >> 16)
    c = tl.add(c, d, sanitize_overflow=False)
    b ^= c
    b = (b << 12) | (b >> 20)
    a = tl.add(a, b, sanitize_overflow=False)
    d ^= a
    d = (d << 8) | (d >> 24)
    c = tl.add(c, d, sanitize_overflow=False)
    b ^= c
    b = (b << 7) | (b >> 25)
    return a, b, c, d


@triton.jit
def _low_word(x):
    return x.to(tl.uint32)


@triton.jit
def _high_word(x):
    return (x >> 32).to(tl.uint32)


@triton.jit
def _chacha(key, counter, nonce, ROUNDS: tl.constexpr):
    """A block for each int64 counter, as 16 tensors of words."""
    zero = _low_word(counter) & 0
    x0 = zero + 0x61707865  # "expand 32-byte k"
    x1 = zero + 0x3320646E
    x2 = zero + 0x79622D32
    x3 = zero + 0x6B206574
    x4, x5, x6, x7 = zero + key[0], zero + key[1], zero + key[2], zero + key[3]
    x8, x9, x10, x11 = zero + key[4], zero + key[5], zero + key[6], zero + key[7]
    x12, x13, x14, x15 = _low_word(counter), _high_word(counter), zero + _low_word(nonce), zero + _high_word(nonce)
    initial = (x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15)
    for _ in range(ROUNDS // 2):  # a loop that LLVM may unroll: Triton's passes are slow on long code
        x0, x4, x8, x12 = _quarter_round(x0, x4, x8, x12)
        x1, x5, x9, x13 = _quarter_round(x1, x5, x9, x13)
        x2, x6, x10, x14 = _quarter_round(x2, x6, x10, x14)
        x3, x7, x11, x15 = _quarter_round(x3, x7, x11, x15)
        x0, x5, x10, x15 = _quarter_round(x0, x5, x10, x15)
        x1, x6, x11, x12 = _quarter_round(x1, x6, x11, x12)
        x2, x7, x8, x13 = _quarter_round(x2, x7, x8, x13)
        x3, x4, x9, x14 = _quarter_round(x3, x4, x9, x14)
    final = (x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15)
    words = ()
    for i in tl.static_range(16):
        words = words + (_wrapping_add(final[i], initial[i]),)
    return words


@triton.jit
def _philox(key0, key1, counter, nonce):
    """A block for each int64 counter, as 4 tensors of words."""
    zero = _low_word(counter) & 0
    x0, x1, x2, x3 = _low_word(counter), _high_word(counter), zero + _low_word(nonce), zero + _high_word(nonce)
    for _ in range(10):
        product0 = x0.to(tl.uint64) * 0xD2511F53
        product1 = x2.to(tl.uint64) * 0xCD9E8D57
        x0, x1, x2, x3 = (
            _high_word(product1) ^ x1 ^ key0,
            _low_word(product1),
            _high_word(product0) ^ x3 ^ key1,
            _low_word(product0),
        )
        key0 = _wrapping_add(key0, tl.full([], 0x9E3779B9, tl.uint32))
        key1 = _wrapping_add(key1, tl.full([], 0xBB67AE85, tl.uint32))
    return x0, x1, x2, x3


@triton.jit
def _superblock(key, step, tensor_id, index, ROUNDS: tl.constexpr):
    """Words 16 index .. 16 index + 15 of a tensor's stream for each int64 index, as 16 tensors."""
    counter = tensor_id << 40
    if ROUNDS == 10:
        words = ()
        for i in tl.static_range(4):
            words = words + _philox(key[0], key[1], counter + index * 4 + i, step)
    else:
        words = _chacha(key, counter + index, step, ROUNDS)
    return words


@triton.jit
def _load_key(state):
    """The eight words of the key."""
    words = ()
    for i in tl.static_range(4):
        pair = tl.load(state + i)
        words = words + (_low_word(pair), _high_word(pair))
    return words


# --------------------------------------------------------------------------------------------------------- normals


@triton.jit
def _minus_two_log(u):
    """-2 ln(u) for u in [2^-33, 1], to about one unit in the last place, also next to 1.

    u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); -2 ln(1 + f) = -2 f + f^2 + f^3 times a minimax polynomial
    (degree 7, relative error 6e-9).
    """
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    p = f * 0.15268592536449432 - 0.2552318871021271
    p = p * f + 0.26320523023605347
    p = p * f - 0.28403520584106445
    p = p * f + 0.3324669897556305
    p = p * f - 0.40002453327178955
    p = p * f + 0.500016450881958
    p = p * f - 0.6666666269302368
    square = f * f
    tail = p * (square * f) + square
    return exponent.to(tl.float32) * -1.3862943611198906 + (tail - 2.0 * f)


@triton.jit
def _cos_sin(word):
    """Cosine and sine of 2 pi word / 2^32, to about one unit in the last place.

    The nearest quarter turn is taken off in integers, exactly; the rest, within an eighth of a turn, goes into
    minimax polynomials (relative errors below 4e-9).
    """
    turned = _wrapping_add(word, tl.full([], 0x20000000, tl.uint32))  # its top two bits count the quarter turns
    angle = (word << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.657295198167899e-10  # pi / 2^33
    z = angle * angle
    s = z * -0.00019517267355695367 + 0.008332177996635437
    s = s * z - 0.16666655242443085
    sine = s * (z * angle) + angle
    c = z * 2.443312041577883e-05 - 0.0013887316454201937
    c = c * z + 0.04166664555668831
    c = c * z - 0.5
    cosine = c * z + 1.0
    odd = (turned & 0x40000000) != 0
    cos_sign = _wrapping_add(turned, tl.full([], 0x40000000, tl.uint32)) & 0x80000000
    sin_sign = turned & 0x80000000
    cos_bits = tl.where(odd, sine, cosine).to(tl.uint32, bitcast=True) ^ cos_sign
    sin_bits = tl.where(odd, cosine, sine).to(tl.uint32, bitcast=True) ^ sin_sign
    return cos_bits.to(tl.float32, bitcast=True), sin_bits.to(tl.float32, bitcast=True)


@triton.jit
def _pair_of_normals(word0, word1):
    """Box-Muller, as docs/design.md section 3 has it."""
    u = word0.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33
    radius = tl.sqrt(_minus_two_log(u))
    cosine, sine = _cos_sin(word1)
    return radius * cosine, radius * sine


@triton.jit
def _normals(words, USED: tl.constexpr, PITCH: tl.constexpr):
    """The normals of a superblock, of which the first USED of every PITCH matter; the others are zeros."""
    normals = ()
    for i in tl.static_range(0, 16, 2):
        if i % PITCH < USED:
            normals = normals + _pair_of_normals(words[i], words[i + 1])
        else:
            zero = tl.full([], 0, tl.float32)
            normals = normals + (zero, zero)
    return normals


# ------------------------------------------------------------------------------------------------------- selection


@triton.jit
def _sortable(score):
    """Integers in the order of the scores: NaN on top, -0 equal to 0."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    return tl.where(score != score, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def _outranking(scores, count, stride, channel, BLOCK: tl.constexpr):
    """How many of the channels outrank one: a higher score, or the same and a lower index."""
    own = _sortable(tl.load(scores + channel * stride))
    above = tl.full([BLOCK], 0, tl.int32)
    for first in range(0, count, BLOCK):
        index = first + tl.arange(0, BLOCK)
        inside = index < count
        other = _sortable(tl.load(scores + index * stride, mask=inside, other=0.0))
        outranks = (other > own) | ((other == own) & (index < channel))
        above += (inside & outranks).to(tl.int32)
    return tl.sum(above, axis=0)


@triton.jit
def _selected_lanes(row, scores, channel, lane_channel, last_channel, LANES: tl.constexpr):
    """Which lanes have a selected channel; ``lane_channel`` counts from ``channel``."""
    selected = tl.load(row + _SELECTED)
    count = tl.load(row + _SCORE_COUNT)
    outranking = tl.full([LANES], 0, tl.int64)
    if (selected > 0) & (selected < count):
        stride = tl.load(row + _SCORE_STRIDE)
        first_channel = tl.load(row + _FIRST_CHANNEL)
        for c in range(channel, last_channel + 1):
            its = _outranking(scores, count, stride, first_channel + c, LANES * 4)
            outranking = tl.where(lane_channel == c - channel, its.to(tl.int64), outranking)
    return outranking < selected


# ----------------------------------------------------------------------------------------------------- memory, casts


@triton.jit
def _narrow(x, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """Rounds to nearest even. Triton's interpreter would cut a bfloat16 off, so there its low half is rounded first."""
    if INTERPRETED and DTYPE == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = _wrapping_add(bits, 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return x.to(DTYPE)


@triton.jit
def _limit(floor_std, std, REAL: tl.constexpr):
    """2^23 steps of the grid of released values, in double 2^52; 0 for no grid. See csrc/core/grid.h."""
    floor = floor_std.to(tl.int32, bitcast=True)
    high = std.to(tl.int32, bitcast=True)
    exponent = (tl.where((high > 0) & (high < floor), high, floor) >> 23) - 10
    is_normal = (floor > 0) & (exponent >= 1) & (exponent <= 254 - 23)
    step = tl.where(is_normal, exponent << 23, 0).to(tl.float32, bitcast=True)
    return step.to(REAL) * (4503599627370496.0 if REAL == tl.float64 else 8388608.0)


@triton.jit
def _to_grid(x, limit):
    """Multiples of the step: from the limit to twice the limit numbers are a step apart, so the addition rounds."""
    shift = tl.where(x < 0.0, -limit, limit)
    return tl.where(tl.abs(x) < limit, (x + shift) - shift, x)


@triton.jit
def _join4(a, b, c, d, LANES: tl.constexpr):
    """Tensor [LANES, 4] of four tensors [LANES]: registers of the same thread side by side."""
    return tl.join(tl.join(a, c), tl.join(b, d)).reshape(LANES, 4)


@triton.jit
def _join16(v, LANES: tl.constexpr):
    """Tensor [LANES, 16] of 16 tensors [LANES]."""
    for half in tl.static_range(4):
        joined = ()
        for i in tl.static_range(8 >> half):
            joined = joined + (tl.join(v[i], v[i + (8 >> half)]),)
        v = joined
    return v[0].reshape(LANES, 16)


@triton.jit
def _split4(x, LANES: tl.constexpr):
    even, odd = tl.split(x.reshape(LANES, 2, 2))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


# ------------------------------------------------------------------------------------------------------------ spans


@triton.jit
def _span(row, program):
    """(run, first unit, unit after the last) of a program; units count from the start of the tensor."""
    index = program - tl.load(row + _FIRST_PROGRAM)
    per_run = tl.load(row + _PROGRAMS_PER_RUN)
    run = index // per_run
    run_length = tl.load(row + _RUN_LENGTH)
    span = tl.load(row + _SPAN)
    first = run * run_length + (index - run * per_run) * span
    return run, first, tl.minimum(first + span, (run + 1) * run_length)


@triton.jit
def _lane_channels(first_kernel, lane, kernels, TILE: tl.constexpr):
    """Channel of each lane, from the first lane's on. A program has one channel unless channels are small."""
    small = tl.minimum(kernels, TILE).to(tl.int32)
    return tl.where(kernels < TILE, (first_kernel.to(tl.int32) + lane) // small, 0)


@triton.jit
def _kernel_place(row, channel, kernel):
    """(offset of a kernel in memory, its global index)."""
    offset = channel * tl.load(row + _CHANNEL_STRIDE) + kernel * tl.load(row + _KERNEL_STRIDE)
    whole_channel = tl.load(row + _FIRST_CHANNEL) + channel
    return offset, whole_channel * tl.load(row + _WHOLE_KERNELS) + tl.load(row + _FIRST_KERNEL) + kernel


@triton.jit
def _any(lanes):
    return tl.max(lanes.to(tl.int32), axis=0) > 0


@triton.jit
def _zeros(COUNT: tl.constexpr, LANES: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(COUNT):
        zeros = zeros + (tl.full([LANES], 0, tl.float32),)
    return zeros


# ------------------------------------------------------------------------------------------------- the path QUADS


@triton.jit
def _quad_noise(
    key, step, tensor_id, quad, basis, std, floor, is_selected,
    TAPS: tl.constexpr, HIGH: tl.constexpr, USED: tl.constexpr, PITCH: tl.constexpr,
    ROUNDS: tl.constexpr, FLOOR: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Noise of kernels 4 quad .. 4 quad + 3: 4 TAPS tensors [LANES], kernel by kernel."""
    matrix = ()
    for i in tl.static_range(TAPS * USED):
        matrix = matrix + (tl.load(basis + (i // USED * _BASIS_UNIT + i % USED)),)
    by_kernel = _zeros(4 * TAPS, LANES)
    for superblock in range(PITCH // 4):  # each moves what it makes in at the end, and the oldest out
        words = _superblock(key, step, tensor_id, quad * (PITCH // 4) + superblock, ROUNDS)
        normals = _normals(words, USED, PITCH)
        later = ()
        for i in tl.static_range(16 // PITCH * TAPS, 4 * TAPS):
            later = later + (by_kernel[i],)
        for kernel in tl.static_range(16 // PITCH):
            for tap in tl.static_range(TAPS):
                noise = matrix[tap * USED] * normals[kernel * PITCH]
                for column in tl.static_range(1, HIGH):
                    noise += matrix[tap * USED + column] * normals[kernel * PITCH + column]
                noise *= std
                if FLOOR:
                    for column in tl.static_range(HIGH, TAPS):
                        noise += matrix[tap * USED + column] * floor * normals[kernel * PITCH + column]
                    noise = tl.where(is_selected, noise, normals[kernel * PITCH + tap] * floor)
                else:
                    noise = tl.where(is_selected, noise, 0.0)
                later = later + (noise,)
        by_kernel = later
    return by_kernel


@triton.jit
def _high_band(x, basis, factor, is_selected, TAPS: tl.constexpr, HIGH: tl.constexpr):
    """The high band of four kernels times a factor: 4 TAPS tensors, zeros where not selected."""
    parts = ()
    for kernel in tl.static_range(4):
        coefficients = ()
        for column in tl.static_range(HIGH):
            coefficient = tl.load(basis + column) * x[kernel * TAPS]
            for tap in tl.static_range(1, TAPS):
                coefficient += tl.load(basis + (tap * _BASIS_UNIT + column)) * x[kernel * TAPS + tap]
            coefficients = coefficients + (tl.where(is_selected, factor * coefficient, 0.0),)
        for tap in tl.static_range(TAPS):
            part = tl.load(basis + tap * _BASIS_UNIT) * coefficients[0]
            for column in tl.static_range(1, HIGH):
                part += tl.load(basis + (tap * _BASIS_UNIT + column)) * coefficients[column]
            parts = parts + (part,)
    return parts


@triton.jit
def _pack(grad, start, tap_offsets, stride, i: tl.constexpr, MEMORY: tl.constexpr):
    """Pointers [LANES, 4] to what a lane reads i-th: four elements in a row, or tap i of its four kernels."""
    four = tl.arange(0, 4)[None, :]
    if MEMORY == _FLAT:
        pointers = grad + start[:, None] + (4 * i + four)
    elif MEMORY == _ALONG:
        pointers = grad + start[:, None] + tl.multiple_of(tl.load(tap_offsets + i), 4) + four
    else:
        pointers = grad + start[:, None] + (tl.load(tap_offsets + i) + four * stride)
    return pointers


@triton.jit
def _load_quad(grad, start, tap_offsets, stride, mask, TAPS: tl.constexpr, MEMORY: tl.constexpr, LANES: tl.constexpr):
    """Four kernels as 4 TAPS tensors [LANES], kernel by kernel."""
    values = ()
    for i in tl.static_range(TAPS):
        pointers = _pack(grad, start, tap_offsets, stride, i, MEMORY)
        values = values + _split4(tl.load(pointers, mask=mask[:, None]).to(tl.float32), LANES)
    if MEMORY == _FLAT:
        kernels = values
    else:  # tap by tap so far
        kernels = ()
        for i in tl.static_range(4 * TAPS):
            kernels = kernels + (values[i % TAPS * 4 + i // TAPS],)
    return kernels


@triton.jit
def _store_quad(
    grad, start, tap_offsets, stride, mask, kernels,
    TAPS: tl.constexpr, MEMORY: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    for i in tl.static_range(TAPS):
        if MEMORY == _FLAT:
            values = _join4(kernels[4 * i], kernels[4 * i + 1], kernels[4 * i + 2], kernels[4 * i + 3], LANES)
        else:
            values = _join4(kernels[i], kernels[TAPS + i], kernels[2 * TAPS + i], kernels[3 * TAPS + i], LANES)
        pointers = _pack(grad, start, tap_offsets, stride, i, MEMORY)
        tl.store(pointers, _narrow(values, DTYPE, INTERPRETED), mask=mask[:, None])


@triton.jit
def _perturb_quad(
    grad, start, tap_offsets, stride, mask, noise, basis, scale, keep, is_selected, limit,
    TAPS: tl.constexpr, HIGH: tl.constexpr, MEMORY: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr,
    KEEP: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    x = _load_quad(grad, start, tap_offsets, stride, mask, TAPS, MEMORY, LANES)
    if KEEP:
        change = _high_band(x, basis, (keep - 1.0) * scale, is_selected, TAPS, HIGH)
    result = ()
    for i in tl.static_range(4 * TAPS):
        value = x[i]
        if SCALE:
            value = value * scale
        if KEEP:
            value += change[i]
        value += noise[i]
        if FLOOR:
            value = _to_grid(value, limit)
        result = result + (value,)
    _store_quad(grad, start, tap_offsets, stride, mask, result, TAPS, MEMORY, DTYPE, INTERPRETED, LANES)


@triton.jit
def _quads(
    row, program, address, memory, scores, offsets, bases, std, floor, limit, scale, keep, key, step,
    MEMORIES: tl.constexpr, TAPS: tl.constexpr, HIGH: tl.constexpr, ROUNDS: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr,
    KEEP: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    TILE: tl.constexpr = 4 * LANES
    USED: tl.constexpr = TAPS if FLOOR else HIGH
    PITCH: tl.constexpr = 4 if USED <= 4 else (8 if USED <= 8 else 16)
    run, first, last = _span(row, program)
    kernels = tl.load(row + _KERNELS)
    channel = first // kernels
    lane = 4 * tl.arange(0, LANES)
    lane_channel = _lane_channels(first - channel * kernels, lane, kernels, TILE)
    is_selected = _selected_lanes(row, scores, channel, lane_channel, (last - 1) // kernels, LANES)
    touched = (lane >= 0) if (FLOOR or SCALE) else is_selected
    if _any(touched & (first + lane < last)):
        drawing = (lane >= 0) if FLOOR else is_selected
        tensor_id = tl.load(row + _TENSOR_ID)
        tap_offsets = offsets + tl.load(row + _TAP_OFFSETS)
        basis = bases + tl.load(row + _BASIS)
        stride = tl.load(row + _KERNEL_STRIDE)
        grad = address.to(tl.pointer_type(DTYPE))
        for tile in range(first, last, TILE):
            lane_kernel = tile + lane  # in the tensor, a multiple of four
            mask = touched & (lane_kernel < last)
            its_channel = channel + lane_channel
            start, whole = _kernel_place(row, its_channel, lane_kernel - its_channel * kernels)
            noise = _zeros(4 * TAPS, LANES)
            if _any(drawing & mask):
                noise = _quad_noise(
                    key, step, tensor_id, whole >> 2, basis, std, floor, is_selected,
                    TAPS, HIGH, USED, PITCH, ROUNDS, FLOOR, LANES,
                )  # fmt: skip
            if _FLAT & MEMORIES:
                if memory == _FLAT:
                    flat = tl.multiple_of(lane_kernel * TAPS, 4)
                    _perturb_quad(
                        tl.multiple_of(grad, 16), flat, tap_offsets, stride, mask, noise, basis, scale, keep,
                        is_selected, limit, TAPS, HIGH, _FLAT, FLOOR, SCALE, KEEP, DTYPE, INTERPRETED, LANES,
                    )  # fmt: skip
            if _ALONG & MEMORIES:
                if memory == _ALONG:
                    _perturb_quad(
                        tl.multiple_of(grad, 16), tl.multiple_of(start, 4), tap_offsets, stride, mask, noise, basis,
                        scale, keep, is_selected, limit, TAPS, HIGH, _ALONG, FLOOR, SCALE, KEEP, DTYPE, INTERPRETED, LANES,
                    )  # fmt: skip
            if _STRIDED & MEMORIES:
                if memory == _STRIDED:
                    _perturb_quad(
                        grad, start, tap_offsets, stride, mask, noise, basis, scale, keep, is_selected,
                        limit, TAPS, HIGH, _STRIDED, FLOOR, SCALE, KEEP, DTYPE, INTERPRETED, LANES,
                    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- the path KERNELS


@triton.jit
def _from(normals, shift):
    """The normals from the ``shift``-th of the 16 on, by lane."""
    for half in tl.static_range(4):
        moved = ()
        for i in tl.static_range(16):
            if i + (8 >> half) < 16:
                moved = moved + (tl.where((shift & (8 >> half)) != 0, normals[i + (8 >> half)], normals[i]),)
            else:
                moved = moved + (normals[i],)
        normals = moved
    return normals


@triton.jit
def _group_of_normals(
    key, step, tensor_id, first_word, count, GROUP: tl.constexpr, ROUNDS: tl.constexpr, LANES: tl.constexpr
):
    """The ``count`` or GROUP normals from ``first_word`` on, and anything after them: GROUP tensors [LANES]."""
    group = _zeros(GROUP, LANES)
    for superblock in range(GROUP // 16):  # each moves what it makes in at the end, and the oldest out
        fresh = _zeros(16, LANES)
        if superblock * 16 < count:
            words = _superblock(key, step, tensor_id, (first_word >> 4) + superblock, ROUNDS)
            fresh = _from(_normals(words, 16, 16), (first_word & 15).to(tl.int32))
        later = ()
        for i in tl.static_range(16, GROUP):
            later = later + (group[i],)
        group = later + fresh
    return group


@triton.jit
def _coefficients(
    normals, first, high_dim, std, floor, is_selected,
    FLOOR: tl.constexpr, REAL: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """What the columns ``first`` .. of the basis are multiplied with; of the identity, where not selected."""
    coefficients = ()
    for i in tl.static_range(GROUP):
        normal = normals[i].to(REAL)
        if FLOOR:
            value = normal * tl.where(is_selected & (first + i < high_dim), std, floor)
        else:
            value = normal * tl.where(first + i < high_dim, std, 0.0)
        coefficients = coefficients + (value,)
    return coefficients


@triton.jit
def _perturb_kernels(
    grad, wide, start, tap_offsets, taps, mask, is_selected, coefficients, basis, pitch, high_dim, first, last, limit, scale, keep,
    FLOOR: tl.constexpr, SCALE: tl.constexpr, KEEP: tl.constexpr, GROUP: tl.constexpr,
    DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Adds the columns ``first`` .. of the basis to a kernel a lane.

    Large kernels take several passes, between which they are held in ``wide``. Columns are orthogonal: what a pass
    adds, the next does not see when it looks at its own part of the high band.
    """
    if KEEP:
        factor = keep - 1.0
        if SCALE:
            factor = tl.where(first == 0, factor * scale, factor)
        for tap in range(0, taps):
            place = start + tl.load(tap_offsets + tap)
            x = _load_real(grad, wide, place, mask & is_selected, first, DTYPE, REAL) * factor
            entries = basis + tap * pitch + first
            changed = ()
            for i in tl.static_range(GROUP):
                entry = tl.load(entries + i, mask=first + i < high_dim, other=0.0)
                changed = changed + (coefficients[i] + entry * x,)
            coefficients = changed
    for tap in range(0, taps):
        place = start + tl.load(tap_offsets + tap)
        value = _load_real(grad, wide, place, mask, first, DTYPE, REAL)
        if SCALE:
            value *= tl.where(first == 0, scale, 1.0)
        entries = basis + tap * pitch + first
        noise = value * 0.0
        for i in tl.static_range(GROUP):
            entry = tl.load(entries + i)
            if FLOOR:
                entry = tl.where(is_selected, entry, tl.where(first + i == tap, 1.0, 0.0))
            noise += entry * coefficients[i]
        if not FLOOR:
            noise = tl.where(is_selected, noise, 0.0)
        value += noise
        if last:
            if FLOOR:
                value = _to_grid(value, limit)
            tl.store(grad + place, _narrow(value, DTYPE, INTERPRETED), mask=mask)
        else:
            tl.store(wide + place, value, mask=mask)


@triton.jit
def _load_real(grad, wide, place, mask, first, DTYPE: tl.constexpr, REAL: tl.constexpr):
    if DTYPE == REAL:
        value = tl.load(grad + place, mask=mask, other=0.0)
    else:
        if first == 0:
            value = tl.load(grad + place, mask=mask, other=0.0).to(REAL)
        else:
            value = tl.load(wide + place, mask=mask, other=0.0)
    return value


@triton.jit
def _kernels(
    row, program, address, wide_address, scores, offsets, bases, std, floor, limit, scale, keep, key, step,
    GROUP: tl.constexpr, ROUNDS: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr, KEEP: tl.constexpr,
    DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    run, first, last = _span(row, program)
    kernels = tl.load(row + _KERNELS)
    channel = first // kernels
    lane = tl.arange(0, LANES)
    lane_channel = _lane_channels(first - channel * kernels, lane, kernels, LANES)
    is_selected = _selected_lanes(row, scores, channel, lane_channel, (last - 1) // kernels, LANES)
    touched = (lane >= 0) if (FLOOR or SCALE) else is_selected
    if _any(touched & (first + lane < last)):
        taps = tl.load(row + _TAPS)
        high_dim = tl.load(row + _HIGH_DIM)
        used = taps if FLOOR else high_dim
        drawing = (lane >= 0) if FLOOR else is_selected
        draws = _any(drawing & (first + lane < last))
        tensor_id = tl.load(row + _TENSOR_ID)
        tap_offsets = offsets + tl.load(row + _TAP_OFFSETS)
        basis = bases + tl.load(row + _BASIS)
        basis_pitch = tl.load(row + _BASIS_PITCH)
        grad = address.to(tl.pointer_type(DTYPE))
        wide = wide_address.to(tl.pointer_type(REAL))
        for tile in range(first, last, LANES):
            lane_kernel = tile + lane  # in the tensor
            mask = touched & (lane_kernel < last)
            its_channel = channel + lane_channel
            start, whole = _kernel_place(row, its_channel, lane_kernel - its_channel * kernels)
            first_word = whole * tl.load(row + _PITCH)
            for column in range(0, used, GROUP):
                count = tl.where(draws, used - column, 0)
                normals = _group_of_normals(key, step, tensor_id, first_word + column, count, GROUP, ROUNDS, LANES)
                coefficients = _coefficients(normals, column, high_dim, std, floor, is_selected, FLOOR, REAL, GROUP)
                _perturb_kernels(
                    grad, wide, start, tap_offsets, taps, mask, is_selected, coefficients, basis, basis_pitch, high_dim,
                    column, column + GROUP >= used, limit, scale, keep,
                    FLOOR, SCALE, KEEP, GROUP, DTYPE, REAL, INTERPRETED,
                )  # fmt: skip


# ---------------------------------------------------------------------------------------------- the path ELEMENTS


@triton.jit
def _element_offset(row, offsets, element, MEMORY: tl.constexpr):
    """Where elements lie, which count along the tensor in logical order."""
    if MEMORY == _FLAT:
        offset = element
    else:
        taps = tl.load(row + _TAPS)
        kernels = tl.load(row + _KERNELS)
        kernel = element // taps
        channel = kernel // kernels
        start, _ = _kernel_place(row, channel, kernel - channel * kernels)
        offset = start + tl.load(offsets + tl.load(row + _TAP_OFFSETS) + (element - kernel * taps))
    return offset


@triton.jit
def _perturb_elements(
    row, grad, offsets, element, mask, noise, limit, scale,
    MEMORY: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr,
    DTYPE: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    where = grad + _element_offset(row, offsets, element, MEMORY)
    x = tl.load(where, mask=mask, other=0.0).to(REAL)
    if SCALE:
        x *= scale
    if FLOOR:
        x = _to_grid(x + noise, limit)
    tl.store(where, _narrow(x, DTYPE, INTERPRETED), mask=mask)


@triton.jit
def _scale_elements(
    row, address, memory, offsets, first, last, scale,
    DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Multiplies elements ``first`` .. ``last - 1`` of the tensor."""
    REAL: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
    flat = memory == _FLAT
    aligned = ((address & 15) == 0) & ((first & 3) == 0) & ((last & 3) == 0)
    if flat & aligned:
        grad = tl.multiple_of(address.to(tl.pointer_type(DTYPE)), 16)
        for tile in range(first, last, 8 * LANES):
            for half in tl.static_range(2):
                begin = tl.multiple_of(tile + half * 4 * LANES + 4 * tl.arange(0, LANES), 4)
                element = begin[:, None] + tl.arange(0, 4)[None, :]
                _perturb_elements(
                    row, grad, offsets, element, (begin < last)[:, None], 0.0, 0.0, scale,
                    _FLAT, False, True, REAL, DTYPE, INTERPRETED,
                )  # fmt: skip
    else:
        grad = address.to(tl.pointer_type(DTYPE))
        for tile in range(first, last, 4 * LANES):
            element = tile + tl.arange(0, 4 * LANES)
            if flat:
                _perturb_elements(
                    row, grad, offsets, element, element < last, 0.0, 0.0, scale,
                    _FLAT, False, True, REAL, DTYPE, INTERPRETED,
                )  # fmt: skip
            else:
                _perturb_elements(
                    row, grad, offsets, element, element < last, 0.0, 0.0, scale,
                    _STRIDED, False, True, REAL, DTYPE, INTERPRETED,
                )  # fmt: skip


@triton.jit
def _elements(
    row, program, address, memory, offsets, floor, limit, scale, key, step,
    ROUNDS: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr,
    DTYPE: tl.constexpr, REAL: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """A superblock a lane. Words that precede the run or follow it are drawn for nothing."""
    run, first, last = _span(row, program)
    run_elements = tl.load(row + _RUN_ELEMENTS)
    first_element = run * run_elements
    _, whole = _kernel_place(row, run, 0)
    first_word = whole * tl.load(row + _TAPS)
    skew = first_word & 15
    first -= run * tl.load(row + _RUN_LENGTH)
    last -= run * tl.load(row + _RUN_LENGTH)
    if FLOOR:
        tensor_id = tl.load(row + _TENSOR_ID)
        flat = memory == _FLAT
        whole_packs = ((address & 15) == 0) & ((skew & 3) == 0) & ((run_elements & 3) == 0)
        unaligned = address.to(tl.pointer_type(DTYPE))
        grad = tl.multiple_of(address.to(tl.pointer_type(DTYPE)), 16)
        for tile in range(first, last, LANES):
            superblock = tile + tl.arange(0, LANES)
            normals = _zeros(16, LANES)
            if floor != 0.0:
                normals = _normals(_superblock(key, step, tensor_id, (first_word >> 4) + superblock, ROUNDS), 16, 16)
            begin = superblock * 16 - skew
            if flat & whole_packs:
                for i in tl.static_range(0, 16, 4):
                    four = _join4(normals[i], normals[i + 1], normals[i + 2], normals[i + 3], LANES).to(REAL) * floor
                    start = tl.multiple_of(begin + i, 4)
                    all_inside = ((start >= 0) & (start < run_elements))[:, None]
                    element = tl.multiple_of(first_element, 4) + start[:, None] + tl.arange(0, 4)[None, :]
                    _perturb_elements(
                        row, grad, offsets, element, all_inside, four, limit, scale,
                        _FLAT, FLOOR, SCALE, REAL, DTYPE, INTERPRETED,
                    )  # fmt: skip
            else:
                noise = _join16(normals, LANES).to(REAL) * floor
                place = begin[:, None] + tl.arange(0, 16)[None, :]
                inside = (place >= 0) & (place < run_elements)
                if flat:
                    _perturb_elements(
                        row, unaligned, offsets, first_element + place, inside, noise, limit, scale,
                        _FLAT, FLOOR, SCALE, REAL, DTYPE, INTERPRETED,
                    )  # fmt: skip
                else:
                    _perturb_elements(
                        row, unaligned, offsets, first_element + place, inside, noise, limit, scale,
                        _STRIDED, FLOOR, SCALE, REAL, DTYPE, INTERPRETED,
                    )  # fmt: skip
    else:
        _scale_elements(
            row, address, memory, offsets,
            first_element + tl.maximum(first * 16 - skew, 0), first_element + tl.minimum(last * 16 - skew, run_elements),
            scale, DTYPE, INTERPRETED, LANES,
        )  # fmt: skip


# --------------------------------------------------------------------------------------------------- the launches


@triton.jit
def _advance(state, step, finished):
    """The last program to finish advances the step, and the counter starts anew.

    No program may read the advanced step. What a program adds to the counter depends on the step that it read, so the
    addition waits for the read; and the store waits for the last addition. Hence no fence, which would cost more than
    everything else that a program of an unselected channel does.
    """
    one = tl.where(step < 0, 2, 1).to(tl.int64)  # steps are not negative, but no compiler knows
    if tl.atomic_add(finished, one, sem="relaxed") == tl.num_programs(0).to(tl.int64) - 1:
        tl.store(finished, 0)
        tl.store(state + 4, step + 1)


@triton.jit(do_not_specialize=_NOT_CONSTANT)
def perturb(
    header, rows, programs, offsets, bases, stds, floor_stds, grad_scale, state, advance,
    QUAD_TAPS: tl.constexpr, QUAD_HIGH: tl.constexpr, QUAD_MEMORIES: tl.constexpr,
    GROUP: tl.constexpr, ELEMENTS: tl.constexpr,
    ROUNDS: tl.constexpr, FLOOR: tl.constexpr, SCALE: tl.constexpr, KEEP: tl.constexpr,
    DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The op ``perturb_`` for the tensors of one dtype.

    ``header`` holds the counter of finished programs, the bits of ``keep`` and, for each row, the addresses of the
    gradient, its scores and memory to widen it, and how its memory is accessed. ``bases`` are in the type of the arithmetic.
    """
    REAL: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
    program = tl.program_id(0)
    tensor = tl.load(programs + program).to(tl.int64)
    row = rows + tensor * _COLUMNS
    path = tl.load(row + _PATH)
    entry = header + (2 + 4 * tensor)
    address = tl.load(entry)
    scores = tl.load(entry + 1).to(tl.pointer_type(tl.float32))
    wide = tl.load(entry + 2)
    memory = tl.load(entry + 3)
    tensor_id = tl.load(row + _TENSOR_ID)
    step = tl.load(state + 4) - (1 - advance)  # an earlier launch of this call has advanced it
    key = _load_key(state)
    keep = tl.load(header + 1).to(tl.float64, bitcast=True).to(REAL)
    busy = path != _IDLE  # there may be no std at all
    std32 = tl.load(stds + tensor_id, mask=busy, other=0.0)
    floor32 = tl.load(floor_stds + tensor_id, mask=busy, other=0.0) if FLOOR else std32
    std = std32.to(REAL)
    floor = floor32.to(REAL)
    limit = _limit(floor32, tl.where(path == _ELEMENTS_PATH, 0.0, std32), REAL) if FLOOR else floor
    scale = tl.load(grad_scale).to(REAL) if SCALE else tl.full([], 1.0, REAL)
    index = program.to(tl.int64)
    if QUAD_TAPS:
        if path == _QUADS_PATH:
            _quads(
                row, index, address, memory, scores, offsets, bases, std, floor, limit, scale, keep, key, step,
                QUAD_MEMORIES, QUAD_TAPS, QUAD_HIGH, ROUNDS, FLOOR, SCALE, KEEP, DTYPE, INTERPRETED, LANES,
            )  # fmt: skip
    if GROUP:
        if path == _KERNELS_PATH:
            _kernels(
                row, index, address, wide, scores, offsets, bases, std, floor, limit, scale, keep, key, step,
                GROUP, ROUNDS, FLOOR, SCALE, KEEP, DTYPE, REAL, INTERPRETED, LANES,
            )  # fmt: skip
    if ELEMENTS:
        if path == _ELEMENTS_PATH:
            _elements(
                row, index, address, memory, offsets, floor, limit, scale, key, step,
                ROUNDS, FLOOR, SCALE, DTYPE, REAL, INTERPRETED, LANES,
            )  # fmt: skip
    if advance != 0:
        _advance(state, step, header)


@triton.jit(do_not_specialize=["tensor_id", "first_position", "count"])
def words(out, state, tensor_id, first_position, count, ROUNDS: tl.constexpr, LANES: tl.constexpr):
    """The op ``words_``: a superblock a lane."""
    first = tl.full([], 0, tl.int64) + first_position
    superblock = (first >> 4) + tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    all_words = _superblock(
        _load_key(state), tl.load(state + 4), tl.full([], 0, tl.int64) + tensor_id, superblock, ROUNDS
    )
    for i in tl.static_range(16):
        place = superblock * 16 + i - first
        tl.store(out + place, all_words[i].to(tl.int32, bitcast=True), mask=(place >= 0) & (place < count))


@triton.jit(do_not_specialize=["rows", "units"])
def row_sums(
    x, sums, rows, units,
    UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Sum of each row of a contiguous [rows, units * UNIT] matrix."""
    length = units.to(tl.int64) * UNIT
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.full([ROWS, BLOCK], 0, REAL)
    for first in range(0, length, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (column < length)[None, :]
        total += tl.load(x + (row * length)[:, None] + column[None, :], mask=inside, other=0.0).to(REAL)
    tl.store(sums + row, tl.sum(total, axis=1), mask=row < rows)


@triton.jit(do_not_specialize=["length", "part", "units"])
def column_sums(
    x, sums, length, part, units,
    UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Sums over parts of the rows of contiguous [images, length, units * UNIT]: [images, parts, units * UNIT].

    The grid is [images, parts, blocks of columns].
    """
    columns = units.to(tl.int64) * UNIT
    image = tl.program_id(0).to(tl.int64)
    column = tl.program_id(2).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(1).to(tl.int64) * part
    last = tl.minimum(first + part, length)
    total = tl.full([ROWS, BLOCK], 0, REAL)
    for top in range(first, last, ROWS):
        row = top + tl.arange(0, ROWS)
        start = (image * length + row) * columns
        inside = (row < last)[:, None] & (column < columns)[None, :]
        total += tl.load(x + start[:, None] + column[None, :], mask=inside, other=0.0).to(REAL)
    place = (image * tl.num_programs(1) + tl.program_id(1)) * columns + column
    tl.store(sums + place, tl.sum(total, axis=0), mask=column < columns)
