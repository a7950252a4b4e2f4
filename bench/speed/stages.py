"""Where the CPU kernel's time goes, a stage at a time, on one core; needs a C++ compiler.

    python -m bench.speed.stages [--copies 2]

Nanoseconds and cycles (of the clock that the processor names) for each normal, the least of many repeats. More copies
at once show what cores take from one another, whatever the program: no kernel can scale better on that machine.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile

from bench import paths

COMPILE = (
    "c++", "-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast", "-fno-math-errno",
    "-w", "-Icsrc", "-DTIP_VARIANT=native", "bench/speed/stages.cpp",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=1, help="copies of the program at once; the slowest is shown")
    copies = parser.parse_args().copies
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/stages"
        subprocess.run([*COMPILE, "-o", program], cwd=paths.ROOT, check=True)
        running = [subprocess.Popen([program], stdout=subprocess.PIPE, text=True) for _ in range(copies)]
        outputs = [process.communicate()[0].splitlines() for process in running]
    gigahertz = clock()
    print("| stage | ns a normal | cycles |\n|---|---|---|")
    for lines in zip(*outputs, strict=True):
        name = lines[0].split("\t")[0]
        nanoseconds = max(float(line.split("\t")[1]) for line in lines)
        cycles = f"{nanoseconds * gigahertz:.2f}" if gigahertz else "?"
        print(f"| {name} | {nanoseconds:.2f} | {cycles} |")


def clock() -> float | None:
    """GHz that Linux reports for the first processor."""
    info = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"cpu MHz\s*:\s*([\d.]+)", info.read_text()) if info.exists() else None
    return float(found[1]) / 1e3 if found else None


if __name__ == "__main__":
    main()
