/* SPDX-License-Identifier: Apache-2.0 */
#include "bare.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef HAS_CUDA

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#define WORKSPACE ((size_t)32 << 20)
/* Given at once. */
#define RUNS 20
#define COPIES 10

struct gpu_bare {
    cublasLtHandle_t blas;
    cudaStream_t stream;
    cudaEvent_t begin, end;
    void *workspace;
    double seconds; /* that a measurement takes at least */
};

static void check(int code, const char *what)
{
    if (code == 0)
        return;
    fprintf(stderr, "bench-gpu: %s answered %d\n", what, code);
    exit(1);
}

struct gpu_bare *gpu_bare_open(double seconds)
{
    struct gpu_bare *bare = calloc(1, sizeof(*bare));

    if (bare == NULL)
        exit(1);
    bare->seconds = seconds;
    check(cudaSetDevice(0), "cudaSetDevice");
    check((int)cublasLtCreate(&bare->blas), "cublasLtCreate");
    check(cudaStreamCreateWithFlags(&bare->stream, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
    check(cudaEventCreateWithFlags(&bare->begin, cudaEventDefault), "cudaEventCreateWithFlags");
    check(cudaEventCreateWithFlags(&bare->end, cudaEventDefault), "cudaEventCreateWithFlags");
    check(cudaMalloc(&bare->workspace, WORKSPACE), "cudaMalloc");
    return bare;
}

/* Milliseconds of the device between the two events. */
static float elapsed(struct gpu_bare *bare)
{
    float ms;

    check(cudaEventRecord(bare->end, bare->stream), "cudaEventRecord");
    check(cudaEventSynchronize(bare->end), "cudaEventSynchronize");
    check(cudaEventElapsedTime(&ms, bare->begin, bare->end), "cudaEventElapsedTime");
    return ms;
}

double gpu_bare_product(struct gpu_bare *bare, uint64_t rows, uint64_t inputs, uint64_t outputs)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const size_t workspace = WORKSPACE;
    const float one = 1, zero = 0;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    void *weight, *input, *output;
    double runs = 0, seconds = 0;
    int n = 0;

    check(cudaMalloc(&weight, inputs * outputs * 2), "cudaMalloc");
    check(cudaMalloc(&input, rows * inputs * 2), "cudaMalloc");
    check(cudaMalloc(&output, rows * outputs * 2), "cudaMalloc");
    check(cudaMemset(weight, 0, inputs * outputs * 2), "cudaMemset");
    check(cudaMemset(input, 0, rows * inputs * 2), "cudaMemset");
    check((int)cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cuBLASLt");
    check((int)cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof(transposed)),
          "cuBLASLt");
    check((int)cublasLtMatrixLayoutCreate(&w, CUDA_R_16BF, inputs, outputs, (int64_t)inputs),
          "cuBLASLt");
    check((int)cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, inputs, rows, (int64_t)inputs),
          "cuBLASLt");
    check((int)cublasLtMatrixLayoutCreate(&y, CUDA_R_16BF, outputs, rows, (int64_t)outputs),
          "cuBLASLt");
    check((int)cublasLtMatmulPreferenceCreate(&preference), "cuBLASLt");
    check((int)cublasLtMatmulPreferenceSetAttribute(
              preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)),
          "cuBLASLt");
    check((int)cublasLtMatmulAlgoGetHeuristic(bare->blas, operation, w, x, y, y, preference, 1,
                                              &result, &n),
          "cublasLtMatmulAlgoGetHeuristic");
    for (int round = 0; round < 2 || (seconds < bare->seconds && round < 10000); round++) {
        check(cudaEventRecord(bare->begin, bare->stream), "cudaEventRecord");
        for (int i = 0; i < RUNS; i++)
            check((int)cublasLtMatmul(bare->blas, operation, &one, weight, w, input, x, &zero,
                                      output, y, output, y, &result.algo, bare->workspace,
                                      WORKSPACE, bare->stream),
                  "cublasLtMatmul");
        /* The first round warms up. */
        const double took = elapsed(bare) * 1e-3;
        seconds += round > 0 ? took : 0;
        runs += round > 0 ? RUNS : 0;
    }
    (void)cublasLtMatmulPreferenceDestroy(preference);
    (void)cublasLtMatrixLayoutDestroy(w);
    (void)cublasLtMatrixLayoutDestroy(x);
    (void)cublasLtMatrixLayoutDestroy(y);
    (void)cublasLtMatmulDescDestroy(operation);
    check(cudaFree(weight), "cudaFree");
    check(cudaFree(input), "cudaFree");
    check(cudaFree(output), "cudaFree");
    return seconds / runs;
}

/* Bytes a second of a copy that is given again and again. */
static double copy(struct gpu_bare *bare, void *to, const void *from, uint64_t bytes,
                   enum cudaMemcpyKind kind)
{
    double copied = 0, seconds = 0;

    for (int round = 0; round < 2 || (seconds < bare->seconds && round < 10000); round++) {
        check(cudaEventRecord(bare->begin, bare->stream), "cudaEventRecord");
        for (int i = 0; i < COPIES; i++)
            check(cudaMemcpyAsync(to, from, bytes, kind, bare->stream), "cudaMemcpyAsync");
        /* The first round warms up. */
        const double took = elapsed(bare) * 1e-3;
        seconds += round > 0 ? took : 0;
        copied += round > 0 ? COPIES * (double)bytes : 0;
    }
    return copied / seconds;
}

double gpu_bare_copy(struct gpu_bare *bare, uint64_t bytes, bool up)
{
    void *host, *memory;
    double rate;

    check(cudaHostAlloc(&host, bytes, cudaHostAllocDefault), "cudaHostAlloc");
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    rate = up ? copy(bare, memory, host, bytes, cudaMemcpyHostToDevice)
              : copy(bare, host, memory, bytes, cudaMemcpyDeviceToHost);
    check(cudaFree(memory), "cudaFree");
    check(cudaFreeHost(host), "cudaFreeHost");
    return rate;
}

double gpu_bare_device_copy(struct gpu_bare *bare, uint64_t bytes)
{
    void *from, *to;
    double rate;

    check(cudaMalloc(&from, bytes), "cudaMalloc");
    check(cudaMalloc(&to, bytes), "cudaMalloc");
    rate = copy(bare, to, from, bytes, cudaMemcpyDeviceToDevice);
    check(cudaFree(from), "cudaFree");
    check(cudaFree(to), "cudaFree");
    return rate;
}

void gpu_bare_close(struct gpu_bare *bare)
{
    (void)cublasLtDestroy(bare->blas);
    (void)cudaFree(bare->workspace);
    (void)cudaEventDestroy(bare->begin);
    (void)cudaEventDestroy(bare->end);
    (void)cudaStreamDestroy(bare->stream);
    free(bare);
}

#else

struct gpu_bare *gpu_bare_open(double seconds)
{
    (void)seconds;
    fprintf(stderr, "bench-gpu: built without the CUDA toolkit: there are no bare loops beside\n");
    return NULL;
}

double gpu_bare_product(struct gpu_bare *bare, uint64_t rows, uint64_t inputs, uint64_t outputs)
{
    (void)bare;
    (void)rows;
    (void)inputs;
    (void)outputs;
    return 0;
}

double gpu_bare_copy(struct gpu_bare *bare, uint64_t bytes, bool up)
{
    (void)bare;
    (void)bytes;
    (void)up;
    return 0;
}

double gpu_bare_device_copy(struct gpu_bare *bare, uint64_t bytes)
{
    (void)bare;
    (void)bytes;
    return 0;
}

void gpu_bare_close(struct gpu_bare *bare)
{
    (void)bare;
}

#endif
