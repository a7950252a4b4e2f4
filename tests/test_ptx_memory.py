"""The interpreter of PTX catches what threads may not do with memory, and lets be what they may."""

import pytest
import torch
from ptx.one_instruction import run_body
from ptx.parse import PtxError
from ptx.shared import SharedMemory

SEEDS = [None, 0, 1, 2]
AT = "mad.wide.u32 %d0, %t, 4, %out;"  # the thread's own element of `out`
OWN = "mov.u32 %r8, memory; mad.lo.u32 %r0, %t, 4, %r8;"  # the thread's own word of shared memory
OTHER = "xor.b32 %r1, %t, {0}; mad.lo.u32 %r1, %r1, 4, %r8;"  # that of another


def words(count: int = 64) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int32)


def exchange(sync: str, distance: int, after: str = "") -> str:
    """A thread writes its number, and reads that of another."""
    return f"""{OWN} {OTHER.format(distance)} {AT}
    st.shared.u32 [%r0], %t;
    {sync}
    ld.shared.u32 %r2, [%r1];
    {after}
    st.global.u32 [%d0], %r2;"""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("sync", "distance"), [("bar.sync 0;", 37), ("barrier.sync 0;", 1), ("bar.warp.sync 0xffffffff;", 5)]
)
def test_barriers_order(sync, distance, seed):
    got = run_body(exchange(sync, distance), words(), threads=64, shared_bytes=256, seed=seed)
    assert got.tolist() == [i ^ distance for i in range(64)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("sync", "distance"),
    [("", 1), ("", 32), ("bar.warp.sync 0xffffffff;", 32), ("shfl.sync.bfly.b32 %r5, %t, 1, 31, 0xffffffff;", 1)],
)
def test_without_a_barrier_it_is_a_race(sync, distance, seed):
    """Or it reads what is not there yet, if the other thread comes later."""
    with pytest.raises(PtxError, match=r"line 1\d, block 0, thread \d+: race|nothing has written"):
        run_body(exchange(sync, distance), words(), threads=64, shared_bytes=256, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_read_must_not_be_written_without_a_barrier(seed):
    overwrite = "st.shared.u32 [%r0], 7;"
    with pytest.raises(PtxError, match="race: writes"):
        run_body(exchange("bar.sync 0;", 33, overwrite), words(), threads=64, shared_bytes=256, seed=seed)
    got = run_body(
        exchange("bar.sync 0;", 33, f"bar.sync 0; {overwrite}"), words(), threads=64, shared_bytes=256, seed=seed
    )
    assert got.tolist() == [i ^ 33 for i in range(64)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_barrier_of_half_a_warp_orders_that_half(seed):
    half = "setp.lt.u32 %p0, %t, 16; @%p0 bar.warp.sync 0xffff; @!%p0 bar.warp.sync 0xffff0000;"
    got = run_body(exchange(half, 15), words(32), shared_bytes=128, seed=seed)
    assert got.tolist() == [i ^ 15 for i in range(32)]
    with pytest.raises(PtxError, match=r"race|nothing has written"):
        run_body(exchange(half, 16), words(32), shared_bytes=128, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_threads_write_one_byte(seed, monkeypatch):
    """Which they may do where that is allowed, and if they agree."""
    some = "and.b32 %r0, %t, 3; mov.u32 %r8, memory; add.u32 %r0, %r0, %r8; st.shared.u8 [%r0], {0};"
    for code in ("st.shared.u8 [memory], {0};", some):
        for value, allowed in (("1", False), ("%t", False), ("%t", True)):
            monkeypatch.setattr(SharedMemory, "agreed_writes", allowed)
            with pytest.raises(PtxError, match="race"):
                run_body(code.format(value), words(), shared_bytes=4, threads=64, seed=seed)
        run_body(code.format("1"), words(), shared_bytes=4, threads=64, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics_do_not_race_with_one_another(seed):
    code = f"""setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [memory], 5; bar.sync 0;
    atom.shared.add.u32 %r0, [memory], 2; {{0}} ld.shared.u32 %r1, [memory]; {AT} st.global.u32 [%d0], %r1;"""
    assert run_body(code.format("bar.sync 0;"), words(), threads=64, shared_bytes=4, seed=seed).eq(5 + 128).all()
    with pytest.raises(PtxError, match="race"):
        run_body(code.format(""), words(), threads=64, shared_bytes=4, seed=seed)


UNDEFINED = {
    "stored": "st.global.u32 [%d0], %r2;",
    "computed with": "add.u32 %r2, %r2, 1; st.global.u32 [%d0], %r2;",
    "copied": "st.shared.u32 [%r0+256], %r2; ld.shared.u32 %r3, [%r0+256]; st.global.u32 [%d0], %r3;",
    "branched on": "setp.eq.u32 %p0, %r2, 0; @%p0 bra end;\nend: st.global.u32 [%d0], 0;",
    "chosen by": "setp.eq.u32 %p0, %r2, 0; selp.u32 %r3, 1, 2, %p0; st.global.u32 [%d0], %r3;",
    "address": "ld.shared.u32 %r3, [%r2];",
    "half": "mov.b32 {%h0, %h1}, %r2; mov.b32 %r3, {%h1, %h1}; st.global.u32 [%d0], %r3;",
}


@pytest.mark.parametrize("use", UNDEFINED)
def test_undefined_values_decide_nothing(use):
    write = "st.shared.u16 [%r0], 1;" if use == "half" else ""
    code = f"{OWN} {AT} {write} ld.shared.u32 %r2, [%r0]; {UNDEFINED[use]}"
    with pytest.raises(PtxError, match="nothing has written"):
        run_body(code, words(), shared_bytes=512)


def test_undefined_values_may_be_there():
    """As compilers make `a || b`, a choice between two values, and pairs of which one counts."""
    code = f"""{OWN} {AT} st.shared.u16 [%r0+2], %h0; ld.shared.u32 %r2, [%r0]; setp.eq.u32 %p0, %r2, 0;
    setp.ge.u32 %p1, %t, 0; or.pred %p2, %p0, %p1; @!%p2 bra end;
    selp.u32 %r3, %t, %r2, %p1; add.u32 %r2, %r2, 5; st.global.u32 [%d0], %r3;
    mov.b32 {{%h1, %h2}}, %r2; mov.u32 %r2, 0;\nend:""".replace("%h0;", "%h8;").replace(
        "ld.shared.u32 %r2", "ld.shared.u32 %r2"
    )
    code = "cvt.u16.u32 %h8, %t; " + code
    assert run_body(code, words(32), shared_bytes=256).tolist() == list(range(32))
    half = f"""cvt.u16.u32 %h8, %t; {OWN} {AT} st.shared.u16 [%r0+2], %h8; ld.shared.u32 %r2, [%r0];
    mov.b32 {{%h0, %h1}}, %r2;"""
    assert run_body(half + "st.global.u16 [%d0], %h1;", words(32), shared_bytes=256).tolist() == list(range(32))


GONE = "have gone|waits forever"
BAD = {
    "reads out of bounds": ("ld.global.u32 %r0, [%out+256];", "not registered"),
    "writes out of bounds": (f"{AT} st.global.u32 [%d0+252], 0;", "thread 1: .*not registered"),
    "before the first": ("ld.global.u32 %r0, [%out+-4];", "not registered"),
    "unaligned": ("ld.global.u32 %r0, [%out+2];", "not aligned"),
    "unaligned vector": ("ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%out+8];", "not aligned"),
    "beyond shared memory": ("st.shared.u32 [memory+64], 0;", "outside of 64 bytes"),
    "unaligned shared": ("st.shared.u32 [memory+2], 0;", "not aligned"),
    "beyond the parameters": ("ld.param.u64 %d0, [out+8];", "outside of the parameters"),
    "no address": ("mov.u64 %d0, 0xf000000000000000; st.u32 [%d0], 0;", "in no space"),
    "another space": ("cvta.to.shared.u64 %d0, %out;", "not an address in .shared"),
    "a register that is not set": ("add.u32 %r0, %r1, 1;", "register that nothing has written"),
    "a barrier for some": ("setp.eq.u32 %p0, %t, 3; @%p0 bra end; bar.sync 0;\nend:", GONE),
    "two barriers": (
        "setp.eq.u32 %p0, %t, 3; @%p0 bra other; bar.sync 0; bra end;\nother: bar.sync 0;\nend:", "different barriers"
    ),
    "a warp barrier for some": ("setp.eq.u32 %p0, %t, 3; @%p0 bra end; bar.warp.sync 0xffffffff;\nend:", GONE),
    "left out of its mask": ("bar.warp.sync 0xfffffffe;", "own mask leaves out"),
    "a shuffle from elsewhere": (
        "setp.lt.u32 %p0, %t, 16; @%p0 shfl.sync.bfly.b32 %r0, %t, 16, 31, 0xffff;", "takes no part"
    ),
    "waits forever": (
        "setp.lt.u32 %p0, %t, 16; @%p0 bra other; bar.warp.sync 0xffffffff; bra end;\n"
        "other: shfl.sync.bfly.b32 %r0, %t, 1, 31, 0xffffffff;\nend:", "waits forever"
    ),
    "division by zero": ("div.u32 %r0, %t, 0;", "division by zero"),
    "a trap": ("trap;", "trap"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_threads_may_not_do(name):
    code, message = BAD[name]
    with pytest.raises(PtxError, match=message):
        run_body(code, words(), shared_bytes=64)


def test_gaps_between_elements_are_nobodys():
    out = words(64)[::2]
    run_body("mad.wide.u32 %d0, %t, 8, %out; st.global.u32 [%d0], %t;", out)
    with pytest.raises(PtxError, match="may not write"):
        run_body("st.global.u32 [%out+4], 0;", out, threads=1)
    with pytest.raises(PtxError, match="between elements"):
        run_body("ld.global.v2.u32 {%r0, %r1}, [%out];", out, threads=1)


COPY = f"""{OWN} {OTHER.format(1)} {AT}
mul.lo.u32 %r3, %t, 16; add.u32 %r3, %r3, %r8; mad.wide.u32 %d1, %t, 16, %out;
cp.async.cg.shared.global [%r3], [%d1], 16;
{{wait}}
{{sync}}
ld.shared.u32 %r2, [%r3];
xor.b32 %r4, %t, 1; mul.lo.u32 %r4, %r4, 16; add.u32 %r4, %r4, %r8; ld.shared.u32 %r5, [%r4];
sub.u32 %r2, %r5, %r2; st.global.u32 [%d1], %r2; cp.async.wait_all;"""


@pytest.mark.parametrize("seed", SEEDS)
def test_asynchronous_copies_are_there_after_a_wait(seed):
    def run(wait: str, sync: str = "bar.warp.sync 0xffffffff;") -> list[int]:
        out = torch.arange(128, dtype=torch.int32)
        return run_body(COPY.format(wait=wait, sync=sync), out, shared_bytes=512, seed=seed)[::4].tolist()

    want = [4 if i % 2 == 0 else -4 for i in range(32)]
    assert run("cp.async.wait_all;") == want
    assert run("cp.async.commit_group; cp.async.wait_group 0;") == want
    for wait in (
        "",
        "cp.async.commit_group;",
        "cp.async.commit_group; cp.async.wait_group 1;",
        "cp.async.wait_group 0;",
    ):
        with pytest.raises(PtxError, match="in flight"):
            run(wait)
    with pytest.raises(PtxError, match=r"in flight|race"):
        run("cp.async.wait_all;", sync="")


def test_a_copy_must_not_be_left_behind():
    with pytest.raises(PtxError, match="leaves with a copy in flight"):
        run_body("cp.async.cg.shared.global [memory], [%out], 16;", words(), threads=1, shared_bytes=16)


# A block's threads write their parts; the last block to come adds them up.
LAST_BLOCK = """mad.lo.u32 %r0, %b, 32, %t; mad.wide.u32 %d0, %r0, 4, %out; st.global.u32 [%d0+8], %r0;
{sync}
setp.ne.u32 %p0, %t, 0; @%p0 bra end;
{release}
atom.global.{order}inc.u32 %r1, [%out], 3;
{acquire}
setp.ne.u32 %p0, %r1, 3; @%p0 bra end;
mov.u32 %r2, 0; mov.u32 %r3, 0; mov.u64 %d1, %out;
next: ld.global.u32 %r4, [%d1+8]; add.u32 %r2, %r2, %r4; add.u64 %d1, %d1, 4; add.u32 %r3, %r3, 1;
setp.lt.u32 %p1, %r3, 128; @%p1 bra next;
st.global.u32 [%out+4], %r2;
end:"""


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_tell_one_another_by_fences_and_atomics(seed):
    def run(
        sync: str = "bar.sync 0;", release: str = "membar.gl;", order: str = "", acquire: str = "membar.gl;"
    ) -> None:
        code = LAST_BLOCK.format(sync=sync, release=release, order=order, acquire=acquire)
        out = run_body(code, words(130), blocks=4, seed=seed)
        assert out[:2].tolist() == [0, sum(range(128))]

    run()
    run(release="fence.acq_rel.gpu;", acquire="fence.acq_rel.gpu;")
    run(release="", order="acq_rel.gpu.", acquire="")
    for missing in ("sync", "release", "acquire"):
        with pytest.raises(PtxError, match="race in global memory"):
            run(**{missing: ""})
    with pytest.raises(PtxError, match="race in global memory"):
        run(release="", order="relaxed.gpu.")
    with pytest.raises(PtxError, match="race in global memory"):
        run(release="", order="acquire.gpu.", acquire="")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_store_waits_for_its_branch(seed):
    """What the last block overwrites, all have read; no second fence is needed for that."""
    code = """ld.global.u32 %r0, [%out+4]; bar.sync 0; setp.ne.u32 %p0, %t, 0; @%p0 bra end;
    {0} atom.global.inc.u32 %r1, [%out], 3; setp.ne.u32 %p0, %r1, 3; @%p0 bra end;
    add.u32 %r0, %r0, 1; st.global.u32 [%out+4], %r0;\nend:"""
    assert run_body(code.format("membar.gl;"), words(2), blocks=4, seed=seed).tolist() == [0, 1]
    with pytest.raises(PtxError, match="race in global memory"):
        run_body(code.format(""), words(2), blocks=4, seed=seed)


def test_blocks_that_write_one_element():
    with pytest.raises(PtxError, match="race in global memory"):
        run_body(f"{AT} st.global.u32 [%d0], %b;", words(), blocks=2)


@pytest.mark.parametrize("code", ["ld.global.nc.u32 %r0, [%d0]; st.global.u32 [%d0], %r0;"])
def test_what_is_promised_to_be_constant(code):
    with pytest.raises(PtxError, match="race in global memory"):
        run_body(f"{AT} {code}", words())


@pytest.mark.parametrize("seed", SEEDS)
def test_reductions_and_votes(seed):
    code = f"""{AT} redux.sync.add.s32 %r0, %t, 0xffffffff; setp.gt.u32 %p0, %t, 40;
    vote.sync.ballot.b32 %r1, %p0, 0xffffffff; bar.red.or.pred %p1, 0, %p0; bar.red.popc.u32 %r2, 0, %p0;
    shfl.sync.down.b32 %r3, %t, 4, 31, 0xffffffff; shfl.sync.idx.b32 %r4, %t, 3, 0x1c1f, 0xffffffff;
    and.b32 %r5, %t, 3; setp.eq.u32 %p2, %r5, 0; @%p2 st.global.u32 [%d0], %r0; setp.eq.u32 %p2, %r5, 1;
    @%p2 st.global.u32 [%d0], %r1; selp.u32 %r6, 100, 0, %p1; add.u32 %r6, %r6, %r2; setp.eq.u32 %p2, %r5, 2;
    @%p2 st.global.u32 [%d0], %r6; mad.lo.u32 %r7, %r3, 1000, %r4; setp.eq.u32 %p2, %r5, 3;
    @%p2 st.global.u32 [%d0], %r7;"""
    got = run_body(code, words(), threads=64, seed=seed).long() & 0xFFFFFFFF
    assert got[0::4].tolist() == [496] * 8 + [496 + 1024] * 8
    assert got[1::4].tolist() == [0] * 8 + [0xFFFFFE00] * 8
    assert got[2::4].tolist() == [123] * 16
    down = [t + 4 if t % 32 < 28 else t for t in range(3, 64, 4)]
    segment = [t // 4 * 4 + 3 for t in range(3, 64, 4)]
    assert got[3::4].tolist() == [1000 * a + b for a, b in zip(down, segment, strict=True)]


@pytest.mark.parametrize("seed", SEEDS)
def test_matrices_are_loaded_by_whole_warps(seed):
    """Row i of matrix j is where thread 8 j + i says; thread t gets two elements of row t div 4."""
    code = f"""{OWN} {AT} mul.lo.u32 %r1, %t, 16; add.u32 %r1, %r1, %r8; mul.lo.u32 %r2, %t, 4;
    add.u32 %r3, %r2, 1; add.u32 %r4, %r2, 2; add.u32 %r5, %r2, 3; st.shared.v4.b32 [%r1], {{{{%r2, %r3, %r4, %r5}}}};
    {{sync}} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{{{%r2, %r3, %r4, %r5}}}}, [%r1];
    mad.lo.u32 %r6, %r5, 1000, %r2; st.global.u32 [%d0], %r6;"""
    got = run_body(code.format(sync="bar.warp.sync 0xffffffff;"), words(32), shared_bytes=512, seed=seed)
    assert got.tolist() == [(96 + t) * 1000 + t for t in range(32)]
    with pytest.raises(PtxError, match=r"race|nothing has written"):
        run_body(code.format(sync=""), words(32), shared_bytes=512, seed=seed)
