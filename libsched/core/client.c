/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients that have requests in flight: a hash table with chains, whose entries are taken and
 * given back with the first and last request of a client. When all are taken, further clients
 * share entry 0.
 */
#include <stdlib.h>

#include "core/internal.h"

int core_clients_init(struct core *core)
{
    uint32_t n = core->config.max_clients, buckets = 16;

    while (buckets < n && buckets < (UINT32_C(1) << 24))
        buckets *= 2;
    core->clients = calloc((size_t)n + 1, sizeof(core->clients[0]));
    core->client_buckets = malloc(buckets * sizeof(core->client_buckets[0]));
    if (core->clients == NULL || core->client_buckets == NULL)
        return LIBSCHED_ENOMEM;
    core->client_mask = buckets - 1;
    for (uint32_t i = 0; i < buckets; i++)
        core->client_buckets[i] = CORE_NONE;
    for (uint32_t i = 1; i <= n; i++)
        core->clients[i].next = i < n ? i + 1 : CORE_NONE;
    core->free_client = n > 0 ? 1 : CORE_NONE;
    return LIBSCHED_OK;
}

static uint32_t *client_bucket(struct core *core, uint64_t key)
{
    /* Fibonacci hashing: keys need not be well mixed. */
    uint64_t hash = key * UINT64_C(0x9E3779B97F4A7C15);
    return &core->client_buckets[(hash >> 32) & core->client_mask];
}

uint32_t core_client_enter(struct core *core, uint64_t key)
{
    uint32_t *bucket = client_bucket(core, key);

    for (uint32_t i = *bucket; i != CORE_NONE; i = core->clients[i].next) {
        if (core->clients[i].key == key) {
            core->clients[i].requests++;
            return i;
        }
    }
    uint32_t i = core->free_client;
    if (i == CORE_NONE) {
        core->clients[0].requests++;
        return 0;
    }
    struct core_client *client = &core->clients[i];
    core->free_client = client->next;
    client->key = key;
    client->requests = 1;
    client->next = *bucket;
    *bucket = i;
    return i;
}

void core_client_leave(struct core *core, uint32_t index)
{
    struct core_client *client = &core->clients[index];

    if (--client->requests > 0 || index == 0)
        return;
    uint32_t *link = client_bucket(core, client->key);
    while (*link != index)
        link = &core->clients[*link].next;
    *link = client->next;
    client->next = core->free_client;
    core->free_client = index;
}
