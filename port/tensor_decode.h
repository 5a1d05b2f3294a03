/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inputs of an infer: tensors in each of the forms that a message may give them.
 */
#ifndef PORT_TENSOR_DECODE_H
#define PORT_TENSOR_DECODE_H

#include "port.h"

struct decoded_inputs {
    uint32_t n;
    libsched_tensor tensors[LIBSCHED_MAX_TENSORS];
    libsched_buffer *buffers[LIBSCHED_MAX_TENSORS]; /* where a tensor lies, or NULL */

    /* References that this holds. */
    uint32_t n_owned;
    libsched_buffer *owned[LIBSCHED_MAX_TENSORS];

    /* The leases that were committed: a list for the request, and their buffers by id. */
    uint32_t leases;
    uint32_t n_lease_ids;
    uint32_t lease_ids[LIBSCHED_MAX_TENSORS];
    libsched_buffer *lease_buffers[LIBSCHED_MAX_TENSORS];
};

/*
 * Decodes the map `inputs` for the model. What it converts lies in the port's zone or in buffers;
 * what a message holds as it is stays there. LIBSCHED_ENOTREADY, and nothing done, where the
 * model's description is needed and not known yet. Whatever the answer, inputs_release() is called
 * in the end, and the list of leases is the caller's.
 */
int inputs_decode(struct port *p, const struct message *m, const char *model,
                  const msgpack_object *inputs, struct decoded_inputs *out, libsched_error *err);

void inputs_release(struct decoded_inputs *inputs);

#endif
