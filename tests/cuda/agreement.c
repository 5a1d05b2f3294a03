/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled against the toolkit's own headers: the numbers that the fake of CUDA, and the plugin's
 * declarations of NCCL and NVML, have of their own.
 */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stddef.h>

#define SAME(name, value) _Static_assert((long long)(name) == (value), #name)

SAME(cudaSuccess, 0);
SAME(cudaErrorInvalidValue, 1);
SAME(cudaErrorMemoryAllocation, 2);
SAME(cudaErrorInsufficientDriver, 35);
SAME(cudaErrorNoDevice, 100);
SAME(cudaErrorInvalidDevice, 101);
SAME(cudaErrorNotReady, 600);
SAME(cudaErrorIllegalAddress, 700);
SAME(cudaErrorInitializationError, 3);
SAME(cudaErrorStubLibrary, 34);
SAME(cudaErrorDevicesUnavailable, 46);
SAME(cudaErrorNoKernelImageForDevice, 209);
SAME(cudaErrorECCUncorrectable, 214);
SAME(cudaErrorNvlinkUncorrectable, 220);
SAME(cudaErrorUnsupportedPtxVersion, 222);
SAME(cudaErrorLaunchTimeout, 702);
SAME(cudaErrorAssert, 710);
SAME(cudaErrorLaunchFailure, 719);
SAME(cudaErrorNotSupported, 801);
SAME(cudaErrorSystemNotReady, 802);
SAME(cudaErrorSystemDriverMismatch, 803);
SAME(cudaMemcpyHostToDevice, 1);
SAME(cudaMemcpyDeviceToHost, 2);
SAME(cudaMemcpyDeviceToDevice, 3);
SAME(cudaEventDefault, 0);
SAME(cudaDevAttrComputeCapabilityMajor, 75);
SAME(cudaDevAttrComputeCapabilityMinor, 76);
SAME(cudaDevAttrMemoryPoolsSupported, 115);
SAME(cudaMemAllocationTypePinned, 1);
SAME(cudaMemHandleTypeNone, 0);
SAME(cudaMemLocationTypeDevice, 1);
SAME(cudaMemPoolAttrReleaseThreshold, 4);
SAME(cudaMemPoolAttrReservedMemCurrent, 5);
SAME(cudaMemPoolAttrUsedMemCurrent, 7);
SAME(cudaErrorStreamCaptureUnsupported, 900);
SAME(cudaErrorStreamCaptureInvalidated, 901);
SAME(cudaStreamCaptureModeThreadLocal, 1);
SAME(cudaStreamNonBlocking, 1);
SAME(cudaEventBlockingSync, 1);
SAME(cudaEventDisableTiming, 2);
SAME(cudaHostAllocDefault, 0);
SAME(cudaHostRegisterDefault, 0);
SAME(cudaHostRegisterReadOnly, 8);
SAME(cudaErrorHostMemoryAlreadyRegistered, 712);
SAME(cudaErrorHostMemoryNotRegistered, 713);
SAME(cudaDevAttrHostRegisterReadOnlySupported, 113);

SAME(CUBLAS_STATUS_SUCCESS, 0);
SAME(CUBLAS_STATUS_ALLOC_FAILED, 3);
SAME(CUBLAS_STATUS_INVALID_VALUE, 7);
SAME(CUBLAS_STATUS_ARCH_MISMATCH, 8);
SAME(CUBLAS_STATUS_EXECUTION_FAILED, 13);
SAME(CUBLAS_STATUS_NOT_SUPPORTED, 15);
SAME(CUBLAS_OP_N, 0);
SAME(CUBLAS_OP_T, 1);
SAME(CUBLAS_COMPUTE_32F, 68);
SAME(CUDA_R_32F, 0);
SAME(CUDA_R_16BF, 14);
SAME(CUBLASLT_EPILOGUE_DEFAULT, 1);
SAME(CUBLASLT_EPILOGUE_RELU, 2);
SAME(CUBLASLT_EPILOGUE_BIAS, 4);
SAME(CUBLASLT_EPILOGUE_RELU_BIAS, 6);
SAME(CUBLASLT_EPILOGUE_GELU, 32);
SAME(CUBLASLT_EPILOGUE_GELU_BIAS, 36);
SAME(CUBLASLT_MATMUL_DESC_TRANSA, 3);
SAME(CUBLASLT_MATMUL_DESC_TRANSB, 4);
SAME(CUBLASLT_MATMUL_DESC_EPILOGUE, 7);
SAME(CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8);
SAME(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, 26);
SAME(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1);
SAME(sizeof(cublasLtMatmulAlgo_t), 64);
SAME(offsetof(cublasLtMatmulHeuristicResult_t, state), 72);

/* NCCL's header comes apart from the toolkit. */
#if __has_include(<nccl.h>)
#include <nccl.h>

#include "../../cuda/nccl.h"

#define SAME_FIELD(own, theirs) \
    _Static_assert(offsetof(struct nccl_config, own) == offsetof(ncclConfig_t, theirs), #own)

SAME(ncclSuccess, NCCL_SUCCESS);
SAME(ncclUnhandledCudaError, NCCL_CUDA_ERROR);
SAME(ncclInvalidArgument, NCCL_INVALID_ARGUMENT);
SAME(ncclRemoteError, NCCL_REMOTE_ERROR);
SAME(ncclInProgress, NCCL_IN_PROGRESS);
SAME(ncclUint8, NCCL_UINT8);
SAME(ncclFloat32, NCCL_FLOAT32);
SAME(ncclBfloat16, NCCL_BFLOAT16);
SAME(ncclSum, NCCL_SUM);
SAME(ncclMax, NCCL_MAX);
SAME(NCCL_CONFIG_UNDEF_INT, NCCL_UNDEFINED);
SAME(sizeof(ncclUniqueId), sizeof(nccl_id));
SAME(NCCL_VERSION(2, 18, 0), NCCL_CONFIG_VERSION);
SAME_FIELD(size, size);
SAME_FIELD(magic, magic);
SAME_FIELD(version, version);
SAME_FIELD(blocking, blocking);
SAME_FIELD(cluster_size, cgaClusterSize);
SAME_FIELD(min_ctas, minCTAs);
SAME_FIELD(max_ctas, maxCTAs);
SAME_FIELD(network, netName);
SAME_FIELD(split_share, splitShare);
#endif

/* NVML's header is a part of the toolkit that one may leave out. */
#if __has_include(<nvml.h>)
#include <nvml.h>

#include "../../cuda/nvml.h"

SAME(NVML_SUCCESS, NVML_OK);
SAME(NVML_ERROR_NOT_SUPPORTED, NVML_NOT_SUPPORTED);
SAME(NVML_ERROR_TIMEOUT, NVML_TIMEOUT);
SAME(NVML_TEMPERATURE_GPU, NVML_ON_DIE);
SAME(NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_CORRECTED);
SAME(NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_UNCORRECTED);
SAME(NVML_VOLATILE_ECC, NVML_VOLATILE);
SAME(nvmlEventTypeXidCriticalError, NVML_XID_EVENT);
SAME(nvmlClocksThrottleReasonApplicationsClocksSetting, NVML_CLOCK_SETTING);
SAME(nvmlClocksThrottleReasonSwPowerCap, NVML_CLOCK_POWER_CAP);
SAME(nvmlClocksThrottleReasonHwSlowdown, NVML_CLOCK_HARDWARE);
SAME(nvmlClocksThrottleReasonSyncBoost, NVML_CLOCK_SYNC);
SAME(nvmlClocksThrottleReasonSwThermalSlowdown, NVML_CLOCK_THERMAL);
SAME(nvmlClocksThrottleReasonHwThermalSlowdown, NVML_CLOCK_HARDWARE_THERMAL);
SAME(nvmlClocksThrottleReasonHwPowerBrakeSlowdown, NVML_CLOCK_BRAKE);
SAME(nvmlClocksThrottleReasonDisplayClockSetting, NVML_CLOCK_DISPLAY);
SAME(sizeof(nvmlMemory_t), sizeof(struct nvml_memory));
SAME(offsetof(nvmlMemory_t, used), offsetof(struct nvml_memory, used));
SAME(sizeof(nvmlUtilization_t), sizeof(struct nvml_utilization));
SAME(offsetof(nvmlUtilization_t, memory), offsetof(struct nvml_utilization, memory));
SAME(sizeof(nvmlEventData_t), sizeof(struct nvml_event));
SAME(offsetof(nvmlEventData_t, eventType), offsetof(struct nvml_event, type));
SAME(offsetof(nvmlEventData_t, eventData), offsetof(struct nvml_event, data));
#endif
