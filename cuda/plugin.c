/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin's table. */
#include "open.h"
#include "readings.h"

const libsched_device_driver *libsched_device_entry(uint32_t abi)
{
    static const libsched_device_driver driver = {
        .abi_version = LIBSCHED_DEVICE_ABI,
        .struct_size = sizeof(libsched_device_driver),
        .name = "cuda",
        .open = cuda_open,
        .close = cuda_close,
        .info = cuda_info,
        .buffer_create = cuda_buffer_create,
        .buffer_destroy = cuda_buffer_destroy,
        .upload = cuda_upload,
        .download = cuda_download,
        .weight_create = cuda_weight_create,
        .weight_destroy = cuda_weight_destroy,
        .sequences_create = cuda_sequences_create,
        .sequences_destroy = cuda_sequences_destroy,
        .sequences_set = cuda_sequences_set,
        .embed = cuda_embed,
        .linear = cuda_linear,
        .norm = cuda_norm,
        .attention = cuda_attention,
        .pool = cuda_pool,
        .synchronize = cuda_synchronize,
        .communicator_id = cuda_communicator_id,
        .communicator_create = cuda_communicator_create,
        .communicator_destroy = cuda_communicator_destroy,
        .communicator_abort = cuda_communicator_abort,
        .all_reduce = cuda_all_reduce,
        .broadcast = cuda_broadcast,
        .all_gather = cuda_all_gather,
        .reduce_scatter = cuda_reduce_scatter,
        .barrier = cuda_barrier,
        .readings = cuda_readings,
        .mark = cuda_mark,
        .reached = cuda_reached,
        .communicator_calls = cuda_communicator_calls,
        .weight_share = cuda_weight_share,
        .host_register = cuda_host_register,
        .host_unregister = cuda_host_unregister,
        .section_create = cuda_section_create,
        .section_destroy = cuda_section_destroy,
        .section_begin = cuda_section_begin,
        .section_end = cuda_section_end,
    };

    return abi == LIBSCHED_DEVICE_ABI ? &driver : NULL;
}
