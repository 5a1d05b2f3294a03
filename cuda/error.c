/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an error of CUDA means to the scheduler: whether the request, the device or the whole
 * machine is at fault, and whether the process has to end.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* "The process must be terminated and relaunched", as the runtime's header says of them; and an
 * uncorrectable ECC error (214) and a failed NVLink (220), after which the memory can't be
 * trusted. */
bool cuda_is_sticky(int code)
{
    static const int sticky[] = {214, 220, 226, 700, 702, 710, 714, 715,
                                 716, 717, 718, 719, 721, 810, 911};

    for (size_t i = 0; i < sizeof(sticky) / sizeof(sticky[0]); i++)
        if (sticky[i] == code)
            return true;
    return false;
}

static int status_of(int code)
{
    switch (code) {
    case 2: /* memory allocation */
        return LIBSCHED_ENODEVMEM;
    case 3:   /* the driver could not be initialised */
    case 35:  /* there is no driver, or it is older than the runtime */
    case 36:  /* the same, while another one runs it */
    case 46:  /* busy, or somebody else's alone */
    case 100: /* no device */
    case 101: /* no such device */
    case 802: /* the system is not ready yet: the fabric manager */
    case 803: /* driver and libraries do not fit */
    case 804: /* the card does not take the compatibility package */
        return LIBSCHED_ENODEVICE;
    case 209: /* no code for this card */
    case 222: /* made by a newer compiler than the driver knows */
    case 801: /* not supported */
        return LIBSCHED_ENOTSUP;
    default:
        return LIBSCHED_ESYSTEM;
    }
}

static const char *cure(int code)
{
    switch (code) {
    case 35:
    case 36:
        return ": install the NVIDIA driver, or a newer one";
    case 100:
    case 101:
        return ": is the device passed into this container, and in CUDA_VISIBLE_DEVICES?";
    case 209:
    case 222:
        return ": build the plugin for this card (GPU_SCHED_CUDA_ARCHITECTURES)";
    case 802:
        return ": is the fabric manager running?";
    case 803:
        return ": the driver's kernel module and its libraries are of different versions";
    default:
        return "";
    }
}

/* An error may be one of those that stay though nobody says so: it is when it is there again. */
static bool stays(struct cuda_device *device, cudaError_t code)
{
    cudaError_t again;

    if (cuda_is_sticky((int)code))
        return true;
    /* One that records must not be asked: that would spoil it. It is asked when it has ended. */
    if (device->lanes[CUDA_COMPUTE].stream == NULL || device->recording != NULL)
        return false;
    (void)cudaGetLastError();
    again = cudaStreamQuery(device->lanes[CUDA_COMPUTE].stream);
    if (again != cudaSuccess && again != cudaErrorNotReady) {
        (void)cudaGetLastError();
        return cuda_is_sticky((int)again) || again == code;
    }
    return false;
}

static int lost(const struct cuda_device *device, libsched_error *err)
{
    if (device->lost < 0)
        return libsched_error_set(err, LIBSCHED_EDEVICELOST, "the GPU at %s is lost: %s",
                                  device->pci, device->lost_by);
    return libsched_error_set(
        err, LIBSCHED_EDEVICELOST, "the GPU at %s is lost: %s: %s (%d): this process has to end",
        device->pci, device->lost_by, cudaGetErrorString((cudaError_t)device->lost), device->lost);
}

int cuda_check(struct cuda_device *device, cudaError_t code, const char *what, libsched_error *err)
{
    if (code == cudaSuccess)
        return LIBSCHED_OK;
    if (device->lost != 0)
        return lost(device, err);
    if (stays(device, code)) {
        device->lost = (int)code;
        snprintf(device->lost_by, sizeof(device->lost_by), "%s", what);
        return lost(device, err);
    }
    /* Or the next call would answer it once more. */
    (void)cudaGetLastError();
    return libsched_error_set(err, status_of((int)code), "%s: %s (%d)%s", what,
                              cudaGetErrorString(code), (int)code, cure((int)code));
}

int cuda_check_blas(struct cuda_device *device, cublasStatus_t code, const char *what,
                    libsched_error *err)
{
    int status;

    if (code == CUBLAS_STATUS_SUCCESS)
        return LIBSCHED_OK;
    /* Below it there may be one of CUDA's, which says more. */
    status = cuda_check(device, cudaGetLastError(), what, err);
    if (status != LIBSCHED_OK)
        return status;
    status = code == CUBLAS_STATUS_ALLOC_FAILED    ? LIBSCHED_ENODEVMEM
             : code == CUBLAS_STATUS_NOT_SUPPORTED ? LIBSCHED_ENOTSUP
             : code == CUBLAS_STATUS_ARCH_MISMATCH ? LIBSCHED_ENOTSUP
                                                   : LIBSCHED_ESYSTEM;
    return libsched_error_set(err, status, "%s: cuBLASLt answered %d", what, (int)code);
}

int cuda_give_up(struct cuda_device *device, const char *why, libsched_error *err)
{
    if (device->lost == 0) {
        device->lost = -1;
        snprintf(device->lost_by, sizeof(device->lost_by), "%s", why);
    }
    return lost(device, err);
}

void cuda_note(const struct cuda_device *device, const char *format, ...)
{
    char text[LIBSCHED_MESSAGE_SIZE];
    va_list args;

    if (device->note == NULL)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    device->note(device->note_context, text);
}

bool cuda_switch(const struct cuda_device *device, const char *variable, bool unless,
                 const char *then)
{
    const char *text = getenv(variable);

    if (text == NULL || text[0] == '\0')
        return unless;
    if (strcmp(text, "0") == 0 || strcmp(text, "1") == 0)
        return text[0] == '1';
    cuda_note(device, "%s is \"%.40s\", neither 0 nor 1: %s", variable, text, then);
    return unless;
}

int cuda_enter(struct cuda_device *device, libsched_error *err)
{
    if (device->recording != NULL)
        cuda_recording_drop(device);
    return cuda_enter_operation(device, err);
}

int cuda_enter_operation(struct cuda_device *device, libsched_error *err)
{
    /* CUDA keeps the device for each thread. */
    static _Thread_local int current = -1;
    int status;

    if (device->lost != 0)
        return lost(device, err);
    if (current == device->ordinal)
        return LIBSCHED_OK;
    status = cuda_check(device, cudaSetDevice(device->ordinal), "cudaSetDevice", err);
    if (status == LIBSCHED_OK)
        current = device->ordinal;
    return status;
}
