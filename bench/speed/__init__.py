"""How fast the package is, beside what a user would otherwise run; modules that begin with a command can be run.

ratios, overhead, bandwidth   the speed tables, of baselines and models, by interleaved timing
gpu, gpu_check.sh, sanitize   what needs an NVIDIA GPU
stages, modes, instructions   what bounds the kernels of the CPU and of CUDA
bounds, issued                what the machine code of CUDA and Triton allows, path by path, counted without a GPU
bench_perturb, compare        single calls, as pytest-benchmark sees and keeps them; what became slower since
models, baselines             what is perturbed, and what a user would run in place of us; more in tip_kernels/_bench/
report, results               how a report is written, and one for each device
"""
