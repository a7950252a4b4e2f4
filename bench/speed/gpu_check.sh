#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command and without a network: builds in place, runs the tests of the CUDA
# kernels, the benchmarks, compute-sanitizer on small shapes, then the tests of Triton's. Needs a CUDA torch >= 2.10,
# nvcc, pytest and what the tests import. Writes <gpu>.json and <gpu>.txt in bench/speed/results, whatever fails. Under
# eight minutes.
#
#   bench/speed/gpu_check.sh [python]
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
failed=()

step() {  # step SECONDS NAME COMMAND...: runs it within the time and the eight minutes; remembers if it failed
  local limit=$1 name=$2 begin=$SECONDS left=$((470 - SECONDS))
  shift 2
  limit=$((limit < left ? limit : left > 1 ? left : 1))
  echo "== $name"
  timeout "$limit" "$@" || failed+=("$name")
  echo "-- $name: $((SECONDS - begin)) s"
}

"$python" -c 'import torch; assert torch.cuda.is_available(), "torch finds no GPU"' || exit 1
read -r arch name < <("$python" -c '
import torch
from bench.speed import report
major, minor = torch.cuda.get_device_capability()
print(f"{major}{minor}", report.path(torch.device("cuda")).stem)')
mkdir -p bench/speed/results
exec > >(tee "bench/speed/results/$name.txt") 2>&1

"$python" -c '
import torch, importlib.metadata as versions
def version(package):
    try:
        return versions.version(package)
    except versions.PackageNotFoundError:
        return "absent"
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda, "Triton", version("triton"))'
nvidia-smi --query-gpu=driver_version --format=csv,noheader | sed 's/^/driver /'

export TIP_KERNELS_CUDA_ARCHS="$arch" TIP_KERNELS_REQUIRE_COMPILED=1
step 150 build "$python" setup.py -q build_ext --inplace
step 10 backends "$python" -c '
import tip_kernels as tip
print(tip.available_backends("cuda"))
assert tip.available_backends("cuda")[0] == "cuda", "the CUDA library does not run here: python -m tip_kernels says why"'

# The tests of devices: those that ask for a backend. Each line is there even if time runs out. Several processes, where
# pytest-xdist is installed, because most of the time goes into compiling for Triton, by each of them for all.
mapfile -t device_tests < <(grep -lE "def test.*\bbackend\b" tests/test_*.py)
processes=$("$python" -c 'import xdist; print("--numprocesses=8")' 2> /dev/null)
step 120 "tests of cuda" "$python" -m pytest -v $processes -k "cuda and not triton" "${device_tests[@]}"
step 90 ratios "$python" -m bench.speed.ratios --device cuda --models resnet18
step 60 gpu "$python" -m bench.speed.gpu
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    step 50 "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m bench.speed.sanitize
  done
else
  echo "== compute-sanitizer is not installed: no memcheck, no racecheck"
fi
step 240 "tests of triton" "$python" -m pytest -v $processes -k "triton and not cuda" "${device_tests[@]}"

if ((${#failed[@]})); then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "all passed in $SECONDS s"
