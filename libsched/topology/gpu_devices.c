/* SPDX-License-Identifier: Apache-2.0 */
/* GPUs: the display and 3D controllers of NVIDIA on the PCI bus, with their nearest CPUs. */
#include "topology/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCI_VENDOR_NVIDIA 0x10de
#define PCI_CLASS_DISPLAY 0x03 /* the upper byte of the class: VGA, XGA, 3D, other */

static bool is_gpu(hwloc_obj_t obj)
{
    const struct hwloc_pcidev_attr_s *pci = &obj->attr->pcidev;
    return pci->vendor_id == PCI_VENDOR_NVIDIA && pci->class_id >> 8 == PCI_CLASS_DISPLAY;
}

static int compare_bus_ids(const void *a, const void *b)
{
    const struct hwloc_pcidev_attr_s *x = &(*(const hwloc_obj_t *)a)->attr->pcidev;
    const struct hwloc_pcidev_attr_s *y = &(*(const hwloc_obj_t *)b)->attr->pcidev;
    if (x->domain != y->domain)
        return x->domain < y->domain ? -1 : 1;
    int left = x->bus << 16 | x->dev << 8 | x->func;
    int right = y->bus << 16 | y->dev << 8 | y->func;
    return left - right;
}

/* An information about the GPU itself, or about one of the software devices (nvml0, cuda0) that
 * hwloc hangs below it. */
static const char *find_gpu_info(hwloc_obj_t pci, const char *name)
{
    const char *value = hwloc_obj_get_info_by_name(pci, name);
    for (hwloc_obj_t os = pci->io_first_child; os != NULL && value == NULL; os = os->next_sibling)
        value = hwloc_obj_get_info_by_name(os, name);
    return value;
}

static void describe(const struct topology *t, struct topology_entry *entry, hwloc_obj_t near,
                     unsigned parts)
{
    struct topology_device *device = &entry->device;
    const struct hwloc_pcidev_attr_s *pci = &entry->pci->attr->pcidev;
    device->pci_vendor = pci->vendor_id;
    device->pci_device = pci->device_id;
    snprintf(device->pci_bus_id, sizeof(device->pci_bus_id), "%04x:%02x:%02x.%x",
             (unsigned)pci->domain, pci->bus, pci->dev, pci->func);

    const char *model = find_gpu_info(entry->pci, "GPUModel");
    if (model == NULL)
        model = find_gpu_info(entry->pci, "PCIDevice");
    if (model != NULL)
        snprintf(device->model, sizeof(device->model), "%s", model);
    else
        snprintf(device->model, sizeof(device->model), "NVIDIA GPU %04x:%04x", pci->vendor_id,
                 pci->device_id);

    if (near->nodeset != NULL && hwloc_bitmap_weight(near->nodeset) == 1)
        device->numa_node = hwloc_bitmap_first(near->nodeset);

    const char *kib = find_gpu_info(entry->pci, "CUDAGlobalMemorySize");
    if (kib != NULL)
        device->memory_bytes = strtoull(kib, NULL, 10) * 1024 / parts;

    device->usable = false;
    snprintf(device->reason, sizeof(device->reason), "%s",
             t->is_this_machine ? "no CUDA driver plugin is loaded"
                                : "it belongs to a recorded machine");
}

/* One of the `parts` logical devices of a GPU. */
static int add_gpu(struct topology *t, hwloc_obj_t pci, unsigned parts, libsched_error *err)
{
    hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(t->hwloc, pci);
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    struct topology_entry *entry = NULL;
    if (cpus != NULL && hwloc_bitmap_and(cpus, near->cpuset, t->usable) == 0) {
        /* None of its nearest CPUs may be ours: any of ours can still drive it. */
        entry = topology_add_entry(t, TOPOLOGY_GPU, hwloc_bitmap_iszero(cpus) ? t->usable : cpus);
    }
    hwloc_bitmap_free(cpus);
    if (entry == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the list of GPUs");
    entry->pci = pci;
    describe(t, entry, near, parts);
    return LIBSCHED_OK;
}

int topology_add_gpus(struct topology *t, const struct topology_options *options,
                      libsched_error *err)
{
    const unsigned parts = options->devices_per_gpu > 0 ? options->devices_per_gpu : 1;
    int n = hwloc_get_nbobjs_by_type(t->hwloc, HWLOC_OBJ_PCI_DEVICE);
    if (n <= 0)
        return LIBSCHED_OK;
    hwloc_obj_t *gpus = calloc((size_t)n, sizeof(hwloc_obj_t));
    if (gpus == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for the list of GPUs");

    size_t count = 0;
    hwloc_obj_t obj = NULL;
    while ((obj = hwloc_get_next_pcidev(t->hwloc, obj)) != NULL) {
        if (is_gpu(obj))
            gpus[count++] = obj;
    }
    qsort(gpus, count, sizeof(hwloc_obj_t), compare_bus_ids);

    int rc = LIBSCHED_OK;
    for (size_t i = 0; i < count * parts && rc == LIBSCHED_OK; i++)
        rc = add_gpu(t, gpus[i / parts], parts, err);
    free(gpus);
    return rc;
}
