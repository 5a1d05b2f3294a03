/* SPDX-License-Identifier: Apache-2.0 */
#include "library.h"

#include <stdlib.h>

int cuda_library_need(struct cuda_library *library, libsched_error *err)
{
    const char *name = getenv(library->variable);
    int status = LIBSCHED_OK;

    if (name == NULL || name[0] == '\0')
        name = library->name;
    pthread_mutex_lock(&library->mutex);
    if (!library->loaded) {
        status = library->load(name, err);
        library->loaded = status == LIBSCHED_OK;
    }
    pthread_mutex_unlock(&library->mutex);
    return status;
}
