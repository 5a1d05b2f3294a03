/* SPDX-License-Identifier: Apache-2.0 */
/* cuBLASLt by plain loops; strict about all that the real one demands. */
#include "cublasLt.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "fake_cuda.h"

struct cublasLtContext {
    int unused;
};

struct fake_operation {
    cublasComputeType_t compute;
    cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void *bias = nullptr;
    int bias_type = -1; /* as the output */
};

struct fake_layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t stride;
};

struct fake_preference {
    size_t workspace;
};

namespace
{

std::atomic<int> refusal;
/* Which of the algorithms that it recommends is not slow, and how often each ran. */
constexpr int n_algorithms = 3;
std::atomic<int> fastest;
std::atomic<uint64_t> runs[n_algorithms];

float wide(const void *data, cudaDataType_t type, size_t at)
{
    float value;
    if (type == CUDA_R_32F) {
        memcpy(&value, static_cast<const float *>(data) + at, sizeof(value));
    } else {
        uint32_t bits = (uint32_t) static_cast<const uint16_t *>(data)[at] << 16;
        memcpy(&value, &bits, sizeof(value));
    }
    return value;
}

void narrow(void *data, cudaDataType_t type, size_t at, float value)
{
    if (type == CUDA_R_32F) {
        static_cast<float *>(data)[at] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    static_cast<uint16_t *>(data)[at] =
        nan ? (uint16_t)0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float activate(float x, cublasLtEpilogue_t epilogue)
{
    switch (epilogue) {
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
        return x < 0 ? 0 : x;
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
        return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    default:
        return x;
    }
}

std::vector<float> columns_of(const void *data, const fake_layout &layout)
{
    std::vector<float> out(layout.rows * layout.columns);
    for (uint64_t c = 0; c < layout.columns; c++)
        for (uint64_t r = 0; r < layout.rows; r++)
            out[c * layout.rows + r] = wide(data, layout.type, c * (uint64_t)layout.stride + r);
    return out;
}

float dot(const float *a, const float *b, uint64_t n)
{
    float sums[8] = {};
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            sums[k] += a[i + (uint64_t)k] * b[i + (uint64_t)k];
    float sum = 0;
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (float s : sums)
        sum += s;
    return sum;
}

/* What an algorithm was recommended for, and which it is. */
cublasLtMatmulAlgo_t token(const fake_operation &op, const fake_layout &a, const fake_layout &b,
                           const fake_layout &d, uint64_t which)
{
    return {{a.rows, a.columns, b.columns, (uint64_t)a.type, (uint64_t)d.type,
             (uint64_t)op.epilogue, (uint64_t)d.rows, which}};
}

bool is_bias(cublasLtEpilogue_t epilogue)
{
    return ((int)epilogue & CUBLASLT_EPILOGUE_BIAS) != 0;
}

cublasStatus_t check(const fake_operation &op, const fake_layout &a, const fake_layout &b,
                     const fake_layout &c, const fake_layout &d)
{
    if (op.transpose_a != CUBLAS_OP_T || op.transpose_b != CUBLAS_OP_N ||
        op.compute != CUBLAS_COMPUTE_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a.rows != b.rows || a.columns != d.rows || b.columns != d.columns || c.rows != d.rows ||
        c.columns != d.columns || c.type != d.type || a.type != b.type ||
        a.stride < (int64_t)a.rows || b.stride < (int64_t)b.rows || d.stride < (int64_t)d.rows)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (a.type == CUDA_R_32F && d.type != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (is_bias(op.epilogue) && op.bias_type != -1 && op.bias_type != (int)d.type)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace

extern "C" {

void fake_cublas_refuses(int what)
{
    refusal = what;
}

void fake_cublas_fastest(int algorithm)
{
    fastest = algorithm;
    for (auto &n : runs)
        n = 0;
}

uint64_t fake_cublas_runs(int algorithm)
{
    return runs[algorithm];
}

#define CALLED                                        \
    if (int code = fake_called(__func__))             \
        return code == 2 ? CUBLAS_STATUS_ALLOC_FAILED \
                         : (code < 100 ? (cublasStatus_t)code : CUBLAS_STATUS_EXECUTION_FAILED);

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    CALLED
    *out = fake_make<cublasLtContext>(0);
    fake_live(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    fake_live(-1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    CALLED
    if (scale != CUDA_R_32F)
        return CUBLAS_STATUS_INVALID_VALUE;
    *out = new fake_operation{compute};
    fake_live(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation)
{
    delete operation;
    fake_live(-1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t op,
                                              cublasLtMatmulDescAttributes_t which,
                                              const void *value, size_t size)
{
    CALLED
    void *to = nullptr;
    size_t wanted = 4;
    switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        to = &op->transpose_a;
        break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        to = &op->transpose_b;
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        to = &op->epilogue;
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        to = &op->bias_type;
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        to = &op->bias;
        wanted = sizeof(void *);
        break;
    }
    if (to == nullptr || size != wanted)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t stride)
{
    CALLED
    *out = new fake_layout{type, rows, columns, stride};
    fake_live(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    fake_live(-1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    CALLED
    *out = new fake_preference{0};
    fake_live(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    fake_live(-1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t which,
                                                    const void *value, size_t size)
{
    CALLED
    if (which != CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES || size != sizeof(size_t))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&preference->workspace, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t op,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *got)
{
    CALLED(void) handle;
    (void)preference;
    *got = 0;
    cublasStatus_t status = check(*op, *a, *b, *c, *d);
    if (status != CUBLAS_STATUS_SUCCESS || wanted < 1)
        return status;
    if (refusal == 2 || (refusal == 1 && op->epilogue != CUBLASLT_EPILOGUE_DEFAULT))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    for (; *got < wanted && *got < n_algorithms; ++*got) {
        results[*got] = {};
        results[*got].algo = token(*op, *a, *b, *d, (uint64_t)*got);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t op, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t workspace_size, cudaStream_t stream)
{
    CALLED(void) handle;
    cublasStatus_t status = check(*op, *a_layout, *b_layout, *c_layout, *d_layout);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (refusal == 3 || (refusal == 4 && algorithm->data[7] == (uint64_t)fastest))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const uint64_t which = algorithm->data[7];
    const cublasLtMatmulAlgo_t expected = token(*op, *a_layout, *b_layout, *d_layout, which);
    if (which >= n_algorithms || memcmp(&expected, algorithm, sizeof(expected)) != 0 || c != d ||
        workspace == nullptr || workspace_size == 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (is_bias(op->epilogue) && (op->bias == nullptr || (uintptr_t)op->bias % 16 != 0))
        return CUBLAS_STATUS_INVALID_VALUE;
    const fake_operation now = *op;
    const fake_layout la = *a_layout, lb = *b_layout, ld = *d_layout;
    const float scale = *static_cast<const float *>(alpha),
                more = *static_cast<const float *>(beta);
    cudaError_t code = fake_push(stream, [=] {
        const std::vector<float> left = columns_of(a, la), right = columns_of(b, lb);
        runs[which]++;
        if (which != (uint64_t)fastest)
            fake_elapse(1e6 * (double)(1 + which));
        /* It may be written to at any time while the product runs. */
        memset(workspace, 0xee, 64);
        for (uint64_t j = 0; j < ld.columns; j++)
            for (uint64_t i = 0; i < ld.rows; i++) {
                const size_t at = j * (uint64_t)ld.stride + i;
                float value = scale * dot(&left[i * la.rows], &right[j * lb.rows], la.rows);
                if (more != 0)
                    value += more * wide(d, ld.type, at);
                if (is_bias(now.epilogue))
                    value += wide(now.bias, ld.type, i);
                narrow(d, ld.type, at, activate(value, now.epilogue));
            }
        return true;
    });
    return code == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // extern "C"
