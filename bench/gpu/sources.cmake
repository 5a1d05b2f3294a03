# The benchmark "gpu", which is compiled twice: for a GPU, and over the fake of CUDA by the tests.
set(bench_gpu_sources
    gpu/bare.c
    gpu/bare_ranks.c
    gpu/busy.c
    gpu/checkpoint.c
    gpu/copies.c
    gpu/crosscheck.c
    gpu/encoder.c
    gpu/engine.c
    gpu/gemm.c
    gpu/gpu.c
    gpu/jobs.c
    gpu/main.c
    gpu/roofline.c
    gpu/served.c
    gpu/single.c
    local.c
    report.c
    steps.c
)
list(TRANSFORM bench_gpu_sources PREPEND ${PROJECT_SOURCE_DIR}/bench/)
# NCCL is loaded as the plugin loads it.
set(bench_gpu_nccl ${PROJECT_SOURCE_DIR}/cuda/library.c ${PROJECT_SOURCE_DIR}/cuda/nccl.c)
