/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrix products, by cuBLASLt: what it needs to know of a shape, and the algorithm it recommends,
 * are asked for once. Where that is wanted, the fastest of several that it recommends is found out.
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
/* Of what it recommends, so many are measured, if any. */
#define ALGORITHMS 8

struct cuda_plan {
    struct cuda_plan *next;
    struct cuda_product product;
    int n; /* algorithms to choose from; 0: there is none, 1: it was chosen */
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t weight, input, output;
    cublasLtMatmulAlgo_t algorithms[ALGORITHMS]; /* that to be used first */
};

int cuda_products_open(struct cuda_device *device, libsched_error *err)
{
    int status;

    cuda_fastest_open(device);
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

/* Asks for algorithms. */
static cublasStatus_t ask(struct cuda_device *device, struct cuda_plan *plan)
{
    const uint64_t workspace = WORKSPACE;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t results[ALGORITHMS];
    cublasStatus_t code = cublasLtMatmulPreferenceCreate(&preference);
    int n = 0;

    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace));
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmulAlgoGetHeuristic(device->blas, plan->operation, plan->weight,
                                              plan->input, plan->output, plan->output, preference,
                                              device->measures ? ALGORITHMS : 1, results, &n);
    if (preference != NULL)
        (void)cublasLtMatmulPreferenceDestroy(preference);
    if (code == CUBLAS_STATUS_NOT_SUPPORTED)
        return CUBLAS_STATUS_SUCCESS;
    for (int i = 0; code == CUBLAS_STATUS_SUCCESS && i < n; i++) {
        if (results[i].state == CUBLAS_STATUS_SUCCESS)
            plan->algorithms[plan->n++] = results[i].algo;
        else if (results[i].state != CUBLAS_STATUS_NOT_SUPPORTED)
            code = results[i].state;
    }
    return code;
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
        status = cuda_check_blas(device, ask(device, plan), "cublasLtMatmulAlgoGetHeuristic", err);
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

/* A product that is to be computed. */
struct given {
    struct cuda_device *device;
    const struct cuda_plan *plan;
    const void *input, *weight;
    void *output;
};

static cublasStatus_t compute(const struct given *g, int algorithm)
{
    const struct cuda_plan *plan = g->plan;
    const float one = 1, zero = 0;

    return cublasLtMatmul(g->device->blas, plan->operation, &one, g->weight, plan->weight, g->input,
                          plan->input, plan->product.accumulate ? &one : &zero, g->output,
                          plan->output, g->output, plan->output, &plan->algorithms[algorithm],
                          g->device->workspace.data, WORKSPACE,
                          cuda_stream(g->device, CUDA_COMPUTE));
}

static bool try_algorithm(void *context, int algorithm)
{
    return compute(context, algorithm) == CUBLAS_STATUS_SUCCESS;
}

/* Puts the fastest first. It is measured into other memory than the output, which may be added to;
 * without any the first stays. */
static int choose(const struct given *g, struct cuda_plan *plan, libsched_error *err)
{
    const struct cuda_product *p = &plan->product;
    const uint64_t size = p->rows * p->outputs * (p->output_datatype == LIBSCHED_BF16 ? 2 : 4);
    struct given other = *g;
    struct cuda_span output;
    int best = 0, status;

    status = cuda_allocate(g->device, &output, size, "measuring a product", err);
    if (status != LIBSCHED_OK) {
        plan->n = 1;
        return status == LIBSCHED_ENODEVMEM ? LIBSCHED_OK : status;
    }
    other.output = output.data;
    status = cuda_fastest(g->device, plan->n, try_algorithm, &other, &best, err);
    cuda_release(g->device, &output);
    if (status == LIBSCHED_OK) {
        plan->algorithms[0] = plan->algorithms[best];
        plan->n = 1;
    }
    return status;
}

int cuda_product_run(struct cuda_device *device, const struct cuda_product *product,
                     const void *input, const void *weight, const void *bias, void *output,
                     bool *done, libsched_error *err)
{
    struct given given = {.device = device, .input = input, .weight = weight, .output = output};
    struct cuda_plan *plan = NULL;
    cublasStatus_t code;
    int status = get_plan(device, product, bias, &plan, err);

    *done = false;
    if (status != LIBSCHED_OK || plan->n == 0)
        return status;
    given.plan = plan;
    code = set_bias(plan, bias);
    /* Not while it is recorded: nothing is computed then. */
    if (code == CUBLAS_STATUS_SUCCESS && plan->n > 1 && device->recording == NULL)
        status = choose(&given, plan, err);
    if (status != LIBSCHED_OK)
        return status;
    if (code == CUBLAS_STATUS_SUCCESS)
        code = compute(&given, 0);
    /* What was recommended may turn out not to be possible after all. */
    if (code == CUBLAS_STATUS_NOT_SUPPORTED) {
        plan->n = 0;
        return LIBSCHED_OK;
    }
    status = cuda_check_blas(device, code, "cublasLtMatmul", err);
    *done = status == LIBSCHED_OK;
    return status;
}
