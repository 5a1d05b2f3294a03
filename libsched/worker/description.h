/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether what an engine says of a model makes sense: asked by the worker, and again by the host,
 * who need not believe the worker.
 */
#ifndef WORKER_DESCRIPTION_H
#define WORKER_DESCRIPTION_H

#include <libsched/engine.h>
#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* LIBSCHED_EENGINE with what is wrong. Ends the text where it is not ended. */
int description_check(libsched_engine_description *description, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
