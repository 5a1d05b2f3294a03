/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrix products, by cuBLASLt: what it needs to know of a shape, and the algorithm it recommends,
 * are asked for once.
 *
 * Its matrices are column by column. Read so, a row-major matrix is its own transpose: what is
 * computed is outputᵀ = weight inputᵀ, where the weight has to be transposed back, and the bias
 * goes along the columns of outputᵀ, as cuBLASLt has it.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define PLAN_BUCKETS 1024u
/* Beyond it, the shapes are forgotten: somebody has very many. */
#define MAX_PLANS 16384u
/* What NVIDIA recommends for Hopper; less would rule algorithms out. */
#define WORKSPACE (UINT64_C(32) << 20)

struct cuda_plan {
    struct cuda_plan *next;
    struct cuda_product product;
    bool none; /* there is no algorithm */
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t weight, input, output;
    cublasLtMatmulAlgo_t algorithm;
};

int cuda_products_open(struct cuda_device *device, libsched_error *err)
{
    int status;

    device->plans = calloc(PLAN_BUCKETS, sizeof(*device->plans));
    if (device->plans == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for plans of products");
    status = cuda_check_blas(device, cublasLtCreate(&device->blas), "cublasLtCreate", err);
    if (status == LIBSCHED_OK)
        status = cuda_allocate(device, &device->workspace, WORKSPACE, "cuBLASLt's workspace", err);
    return status;
}

static void free_plan(struct cuda_plan *plan)
{
    /* These are memory of the host; nothing can be done about a failure. */
    if (plan->operation != NULL)
        (void)cublasLtMatmulDescDestroy(plan->operation);
    if (plan->weight != NULL)
        (void)cublasLtMatrixLayoutDestroy(plan->weight);
    if (plan->input != NULL)
        (void)cublasLtMatrixLayoutDestroy(plan->input);
    if (plan->output != NULL)
        (void)cublasLtMatrixLayoutDestroy(plan->output);
    free(plan);
}

static void forget_plans(struct cuda_device *device)
{
    for (uint32_t i = 0; device->plans != NULL && i < PLAN_BUCKETS; i++) {
        while (device->plans[i] != NULL) {
            struct cuda_plan *plan = device->plans[i];
            device->plans[i] = plan->next;
            free_plan(plan);
        }
    }
    device->n_plans = 0;
}

void cuda_products_close(struct cuda_device *device)
{
    forget_plans(device);
    free(device->plans);
    device->plans = NULL;
    cuda_release(device, &device->workspace);
    if (device->blas != NULL && device->lost == 0)
        (void)cublasLtDestroy(device->blas);
    device->blas = NULL;
}

/* -------------------------------------------------------------------------------------- a plan */

static cudaDataType_t type_of(uint32_t datatype)
{
    return datatype == LIBSCHED_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasLtEpilogue_t epilogue_of(const struct cuda_product *product)
{
    switch (product->epilogue) {
    case CUDA_EPILOGUE_RELU:
        return product->bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    case CUDA_EPILOGUE_GELU_TANH:
        return product->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    default:
        return product->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    }
}

static cublasStatus_t set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                          const void *value, size_t size)
{
    return cublasLtMatmulDescSetAttribute(operation, attribute, value, size);
}

static cublasStatus_t describe(struct cuda_plan *plan)
{
    const struct cuda_product *p = &plan->product;
    const cudaDataType_t type = type_of(p->datatype), output_type = type_of(p->output_datatype);
    const cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = epilogue_of(p);
    cublasStatus_t code =
        cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (code == CUBLAS_STATUS_SUCCESS)
        code = set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    if (code == CUBLAS_STATUS_SUCCESS)
        code = set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof(plain));
    if (code == CUBLAS_STATUS_SUCCESS)
        code = set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue));
    if (code == CUBLAS_STATUS_SUCCESS && p->bias)
        code = set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &output_type,
                   sizeof(output_type));
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatrixLayoutCreate(&plan->weight, type, p->inputs, p->outputs,
                                          (int64_t)p->inputs);
    if (code == CUBLAS_STATUS_SUCCESS)
        code =
            cublasLtMatrixLayoutCreate(&plan->input, type, p->inputs, p->rows, (int64_t)p->inputs);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatrixLayoutCreate(&plan->output, output_type, p->outputs, p->rows,
                                          (int64_t)p->outputs);
    return code;
}

static cublasStatus_t set_bias(struct cuda_plan *plan, const void *bias)
{
    if (!plan->product.bias)
        return CUBLAS_STATUS_SUCCESS;
    return set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias));
}

/* Asks for the algorithm. */
static cublasStatus_t choose(struct cuda_device *device, struct cuda_plan *plan)
{
    const uint64_t workspace = WORKSPACE;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    cublasStatus_t code = cublasLtMatmulPreferenceCreate(&preference);
    int n = 0;

    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace));
    if (code == CUBLAS_STATUS_SUCCESS)
        code =
            cublasLtMatmulAlgoGetHeuristic(device->blas, plan->operation, plan->weight, plan->input,
                                           plan->output, plan->output, preference, 1, &result, &n);
    if (preference != NULL)
        (void)cublasLtMatmulPreferenceDestroy(preference);
    if (code == CUBLAS_STATUS_NOT_SUPPORTED ||
        (code == CUBLAS_STATUS_SUCCESS &&
         (n == 0 || result.state == CUBLAS_STATUS_NOT_SUPPORTED))) {
        plan->none = true;
        return CUBLAS_STATUS_SUCCESS;
    }
    if (code == CUBLAS_STATUS_SUCCESS)
        plan->algorithm = result.algo;
    return code == CUBLAS_STATUS_SUCCESS ? result.state : code;
}

static struct cuda_plan **bucket(struct cuda_device *device, const struct cuda_product *product)
{
    const unsigned char *bytes = (const unsigned char *)product;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < sizeof(*product); i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return &device->plans[(hash ^ hash >> 32) % PLAN_BUCKETS];
}

_Static_assert(sizeof(struct cuda_product) == 3 * 8 + 6 * 4, "padding would be compared as well");

static int get_plan(struct cuda_device *device, const struct cuda_product *product,
                    const void *bias, struct cuda_plan **out, libsched_error *err)
{
    struct cuda_plan **chain = bucket(device, product), *plan;
    cublasStatus_t code;
    int status;

    for (plan = *chain; plan != NULL; plan = plan->next)
        if (memcmp(&plan->product, product, sizeof(*product)) == 0) {
            *out = plan;
            return LIBSCHED_OK;
        }
    if (device->n_plans == MAX_PLANS)
        forget_plans(device);
    plan = calloc(1, sizeof(*plan));
    if (plan == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a product's plan");
    memcpy(&plan->product, product, sizeof(*product));
    code = describe(plan);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = set_bias(plan, bias);
    status = cuda_check_blas(device, code, "cublasLtMatmulDescCreate", err);
    if (status == LIBSCHED_OK)
        status =
            cuda_check_blas(device, choose(device, plan), "cublasLtMatmulAlgoGetHeuristic", err);
    if (status != LIBSCHED_OK) {
        free_plan(plan);
        return status;
    }
    plan->next = *chain;
    *chain = plan;
    device->n_plans++;
    *out = plan;
    return LIBSCHED_OK;
}

int cuda_product_run(struct cuda_device *device, const struct cuda_product *product,
                     const void *input, const void *weight, const void *bias, void *output,
                     bool *done, libsched_error *err)
{
    const float one = 1, zero = 0;
    struct cuda_plan *plan = NULL;
    cublasStatus_t code;
    int status = get_plan(device, product, bias, &plan, err);

    *done = false;
    if (status != LIBSCHED_OK || plan->none)
        return status;
    code = set_bias(plan, bias);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmul(device->blas, plan->operation, &one, weight, plan->weight, input,
                              plan->input, product->accumulate ? &one : &zero, output, plan->output,
                              output, plan->output, &plan->algorithm, device->workspace.data,
                              WORKSPACE, cuda_stream(device, CUDA_COMPUTE));
    /* What was recommended may turn out not to be possible after all. */
    if (code == CUBLAS_STATUS_NOT_SUPPORTED) {
        plan->none = true;
        return LIBSCHED_OK;
    }
    status = cuda_check_blas(device, code, "cublasLtMatmul", err);
    *done = status == LIBSCHED_OK;
    return status;
}
