/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network interface by which ranks on GPUs find each other: NCCL opens a port on it that asks
 * nobody who he is. Left to itself it takes the first that looks good, which may be one that leads
 * nowhere, or to everybody; and what it says of a wrong one is hard to understand. So it is chosen
 * here, checked, and given to the workers in their environment.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

/* All ranks are on this host: what leads nowhere else is enough, and nobody else can come. */
#define DEFAULT_INTERFACE "lo"
#define NAME "NCCL_SOCKET_IFNAME"
#define FAMILY "NCCL_SOCKET_FAMILY"

struct interface {
    bool there, up, v4, v6;
};

/* NCCL takes no loopback address of IPv6. */
static bool counts(const struct sockaddr *address)
{
    if (address == NULL)
        return false;
    return address->sa_family == AF_INET ||
           (address->sa_family == AF_INET6 &&
            !IN6_IS_ADDR_LOOPBACK(
                &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr));
}

static void look(struct interface *out, const struct ifaddrs *all, const char *name)
{
    *out = (struct interface){0};
    for (const struct ifaddrs *at = all; at != NULL; at = at->ifa_next) {
        if (strcmp(at->ifa_name, name) != 0)
            continue;
        out->there = true;
        out->up = (at->ifa_flags & IFF_UP) != 0;
        if (counts(at->ifa_addr) && at->ifa_addr->sa_family == AF_INET)
            out->v4 = true;
        else if (counts(at->ifa_addr))
            out->v6 = true;
    }
}

static bool usable(const struct interface *i)
{
    return i->up && (i->v4 || i->v6);
}

/* Those that could be used, for messages. */
static void list_usable(char *out, size_t size, const struct ifaddrs *all)
{
    size_t n = 0;
    out[0] = '\0';
    for (const struct ifaddrs *at = all; at != NULL && n < size; at = at->ifa_next) {
        struct interface i;
        bool told = false;
        for (const struct ifaddrs *before = all; before != at; before = before->ifa_next)
            told = told || strcmp(before->ifa_name, at->ifa_name) == 0;
        look(&i, all, at->ifa_name);
        if (!told && usable(&i))
            n += (size_t)snprintf(out + n, size - n, "%s%s", n > 0 ? ", " : "", at->ifa_name);
    }
}

/* The family that is set for the user's own reasons, or else one that the interface has. */
static const char *family(const struct interface *i)
{
    const char *own = getenv(FAMILY);
    if (own != NULL && own[0] != '\0')
        return own;
    return i->v4 ? "AF_INET" : "AF_INET6";
}

static int check(const struct ifaddrs *all, const char *name, const struct interface *i,
                 libsched_error *err)
{
    char others[160];
    const char *wrong = NULL;
    list_usable(others, sizeof(others), all);
    if (!i->there)
        wrong = "is not there";
    else if (!i->up)
        wrong = "is down";
    else if (!i->v4 && !i->v6)
        wrong = "has no address";
    else if (strcmp(family(i), "AF_INET") == 0 && !i->v4)
        wrong = "has no IPv4 address, and " FAMILY " is AF_INET";
    else if (strcmp(family(i), "AF_INET6") == 0 && !i->v6)
        wrong = "has no IPv6 address of its own, and " FAMILY " is AF_INET6";
    if (wrong == NULL)
        return LIBSCHED_OK;
    return libsched_error_set(err, LIBSCHED_EINVAL,
                              "collective_interface is \"%.16s\", which %s; up and with an address "
                              "are: %s",
                              name, wrong, others[0] != '\0' ? others : "none");
}

static int set(char *environment[RUNTIME_ENVIRONMENT], const char *name, const struct interface *i)
{
    /* By its whole name: without the sign eth1 would also be eth10. */
    if (asprintf(&environment[0], NAME "==%s", name) < 0)
        environment[0] = NULL;
    if (asprintf(&environment[1], FAMILY "=%s", family(i)) < 0)
        environment[1] = NULL;
    return environment[0] != NULL && environment[1] != NULL ? LIBSCHED_OK : LIBSCHED_ENOMEM;
}

int runtime_interface_choose(char *environment[RUNTIME_ENVIRONMENT], const char *given,
                             libsched_error *err)
{
    const char *own = getenv(NAME), *name = given != NULL ? given : DEFAULT_INTERFACE;
    struct ifaddrs *all = NULL;
    struct interface i;
    int rc = LIBSCHED_OK;

    if (given == NULL && own != NULL && own[0] != '\0')
        return LIBSCHED_OK;
    if (getifaddrs(&all) != 0) {
        if (given == NULL)
            return LIBSCHED_OK; /* it is NCCL's to find one */
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "collective_interface: getifaddrs: %m");
    }
    look(&i, all, name);
    rc = check(all, name, &i, given != NULL ? err : NULL);
    if (rc == LIBSCHED_OK)
        rc = set(environment, name, &i);
    /* A machine whose loopback can't be used is none on which this is the first trouble. */
    else if (given == NULL)
        rc = LIBSCHED_OK;
    freeifaddrs(all);
    return rc;
}
