/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

/* Since Linux 6.3; some systems are set up to refuse a memfd that does not say it. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int memory_create(int *out, const char *name, uint64_t size, libsched_error *err)
{
    if (size == 0 || size > INT64_MAX)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "memory \"%s\": %" PRIu64 " bytes is not a size to share", name,
                                  size);
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "memfd_create(\"%s\"): %m", name);
    if (ftruncate(fd, (off_t)size) < 0) {
        libsched_error_set(err, LIBSCHED_ESYSTEM, "ftruncate(\"%s\") to %" PRIu64 " bytes: %m",
                           name, size);
        close(fd);
        return LIBSCHED_ESYSTEM;
    }
    *out = fd;
    return LIBSCHED_OK;
}

int memory_seal(int fd, unsigned int seals, libsched_error *err)
{
    if (fcntl(fd, F_ADD_SEALS, seals) < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "fcntl(F_ADD_SEALS): %m");
    return LIBSCHED_OK;
}

int memory_map(void **out, int fd, uint64_t size, bool writable, libsched_error *err)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *address = mmap(NULL, size, protection, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (address == MAP_FAILED)
        return libsched_error_set(err, LIBSCHED_ENOMEM,
                                  "mmap of %" PRIu64 " bytes of shared memory: %m", size);
    madvise(address, size, MADV_DONTDUMP);
    *out = address;
    return LIBSCHED_OK;
}

void memory_unmap(void *address, uint64_t size)
{
    if (address != NULL)
        munmap(address, size);
}
