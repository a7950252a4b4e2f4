"""The generators of docs/design.md, section 3, and the op ``words_``. GENERATOR is the number that names one."""

import triton
import triton.language as tl

from .inputs import Stream


@triton.jit
def low_word(x):
    return x.to(tl.uint32)


@triton.jit
def high_word(x):
    return (x >> 32).to(tl.uint32)


@triton.jit
def wrapping_add(a, b):
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
def _double_round(x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15, FIRST: tl.constexpr):
    """Columns, then diagonals; of the first one the columns 2 and 3 are given as they are after it."""
    x0, x4, x8, x12 = _quarter_round(x0, x4, x8, x12)
    x1, x5, x9, x13 = _quarter_round(x1, x5, x9, x13)
    if not FIRST:
        x2, x6, x10, x14 = _quarter_round(x2, x6, x10, x14)
        x3, x7, x11, x15 = _quarter_round(x3, x7, x11, x15)
    x0, x5, x10, x15 = _quarter_round(x0, x5, x10, x15)
    x1, x6, x11, x12 = _quarter_round(x1, x6, x11, x12)
    x2, x7, x8, x13 = _quarter_round(x2, x7, x8, x13)
    x3, x4, x9, x14 = _quarter_round(x3, x4, x9, x14)
    return x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15


@triton.jit
def _chacha(stream, counter, ROUNDS: tl.constexpr):
    """A block for each int64 counter, as 16 tensors of words."""
    key, columns = stream.key, stream.columns
    zero = low_word(counter) & 0
    x0 = zero + 0x61707865  # "expand 32-byte k"
    x1 = zero + 0x3320646E
    x4, x5, x8, x9 = zero + key[0], zero + key[1], zero + key[4], zero + key[5]
    x12, x13 = low_word(counter), high_word(counter)
    x2, x6, x10, x14 = zero + columns[0], zero + columns[1], zero + columns[2], zero + columns[3]
    x3, x7, x11, x15 = zero + columns[4], zero + columns[5], zero + columns[6], zero + columns[7]
    initial = (
        x0, x1, zero + 0x79622D32, zero + 0x6B206574,
        x4, x5, zero + key[2], zero + key[3], x8, x9, zero + key[6], zero + key[7],
        x12, x13, zero + low_word(stream.step), zero + high_word(stream.step),
    )  # fmt: skip
    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15 = _double_round(
        x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15, True
    )
    for _ in range(ROUNDS // 2 - 1):  # a loop that may be unrolled later: Triton's passes are slow on long code
        x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15 = _double_round(
            x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15, False
        )
    final = (x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15)
    words = ()
    for i in tl.static_range(16):
        words = words + (wrapping_add(final[i], initial[i]),)
    return words


@triton.jit
def _philox(key0, key1, counter, nonce):
    """A block for each int64 counter, as 4 tensors of words."""
    zero = low_word(counter) & 0
    x0, x1, x2, x3 = low_word(counter), high_word(counter), zero + low_word(nonce), zero + high_word(nonce)
    for _ in range(10):
        product0 = x0.to(tl.uint64) * 0xD2511F53
        product1 = x2.to(tl.uint64) * 0xCD9E8D57
        x0, x1, x2, x3 = (
            high_word(product1) ^ x1 ^ key0,
            low_word(product1),
            high_word(product0) ^ x3 ^ key1,
            low_word(product0),
        )
        key0 = wrapping_add(key0, tl.full([], 0x9E3779B9, tl.uint32))
        key1 = wrapping_add(key1, tl.full([], 0xBB67AE85, tl.uint32))
    return x0, x1, x2, x3


@triton.jit
def generate(stream, tensor_id, group, GENERATOR: tl.constexpr):
    """Words 16 group .. 16 group + 15 of a tensor for each int64 group, as 16 tensors."""
    counter = tensor_id << 40
    if GENERATOR == 10:
        words = ()
        for i in tl.static_range(4):
            words = words + _philox(stream.key[0], stream.key[1], counter + group * 4 + i, stream.step)
    else:
        words = _chacha(stream, counter + group, GENERATOR)
    return words


@triton.jit
def stream_of(state, step):
    """What the words depend on besides the tensor, and of it what all blocks of ChaCha have in common."""
    key = ()
    for i in tl.static_range(4):
        pair = tl.load(state + i)
        key = key + (low_word(pair), high_word(pair))
    zero = key[0] & 0
    columns = _quarter_round(zero + 0x79622D32, key[2], key[6], low_word(step))
    columns = columns + _quarter_round(zero + 0x6B206574, key[3], key[7], high_word(step))
    return Stream(key, step, columns)


@triton.jit(do_not_specialize=["tensor_id", "first_position", "count"])
def write_words(out, state, tensor_id, first_position, count, GENERATOR: tl.constexpr, LANES: tl.constexpr):
    """The op ``words_``: a group a lane."""
    first = tl.full([], 0, tl.int64) + first_position
    group = (first >> 4) + tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    stream = stream_of(state, tl.load(state + 4))
    words = generate(stream, tl.full([], 0, tl.int64) + tensor_id, group, GENERATOR)
    for i in tl.static_range(16):
        index = group * 16 + i - first
        tl.store(out + index, words[i].to(tl.int32, bitcast=True), mask=(index >= 0) & (index < count))
