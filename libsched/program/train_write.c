/* SPDX-License-Identifier: Apache-2.0 */
#include "program/train_write.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/file.h"
#include "catalog/json.h"
#include "catalog/safetensors.h"
#include "program/new_path.h"

#define PIECE ((size_t)1 << 20)
#define MODULES "modules.json"

static int no_memory(libsched_error *err)
{
    return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to write a model");
}

/* --------------------------------------------------------------------------------------- files */

static int copy_content(int from, int to, char *piece)
{
    for (;;) {
        ssize_t n = read(from, piece, PIECE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -1 : fsync(to);
        for (ssize_t written = 0; written < n;) {
            ssize_t m = write(to, piece + written, (size_t)(n - written));
            if (m < 0 && errno != EINTR)
                return -1;
            written += m > 0 ? m : 0;
        }
    }
}

/* Copies a file, where it is there. */
static int copy(const char *from, const char *to, const char *name, libsched_error *err)
{
    char *source = catalog_file_join(from, name), *target = catalog_file_join(to, name);
    char *piece = malloc(PIECE);
    int status = LIBSCHED_OK, in = -1, out = -1;

    if (source == NULL || target == NULL || piece == NULL)
        status = no_memory(err);
    if (status == LIBSCHED_OK && (in = open(source, O_RDONLY | O_CLOEXEC)) < 0 && errno != ENOENT)
        status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be read: %m", source);
    if (in >= 0) {
        out = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (out < 0 || copy_content(in, out, piece) < 0)
            status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be written: %m", target);
    }
    if (in >= 0)
        close(in);
    if (out >= 0 && close(out) < 0 && status == LIBSCHED_OK)
        status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be written: %m", target);
    free(source);
    free(target);
    free(piece);
    return status;
}

/* The configuration of a module that modules.json names, in a folder of its own. */
static int copy_module(const char *from, const char *to, const char *path, libsched_error *err)
{
    char *folder, *name;
    int status = LIBSCHED_OK;

    /* The transformer's own is the model's folder. */
    if (path[0] == '\0' || path[0] == '.' || strchr(path, '/') != NULL)
        return LIBSCHED_OK;
    name = catalog_file_join(path, "config.json");
    folder = catalog_file_join(to, path);
    if (name == NULL || folder == NULL)
        status = no_memory(err);
    else if (catalog_file_exists(from, name)) {
        if (mkdir(folder, 0777) < 0 && errno != EEXIST)
            status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be made: %m", folder);
        if (status == LIBSCHED_OK)
            status = copy(from, to, name, err);
    }
    free(name);
    free(folder);
    return status;
}

static int copy_modules(const char *from, const char *to, libsched_error *err)
{
    json_t *modules, *module;
    size_t i;
    int status =
        catalog_json_load_optional_array(&modules, from, MODULES, CATALOG_JSON_MAX_SIZE, err);

    if (status != LIBSCHED_OK || modules == NULL)
        return status;
    json_array_foreach(modules, i, module)
    {
        const char *path = json_string_value(json_object_get(module, "path"));
        if (status == LIBSCHED_OK && path != NULL)
            status = copy_module(from, to, path, err);
    }
    json_decref(modules);
    return status == LIBSCHED_OK ? copy(from, to, MODULES, err) : status;
}

/* What the encoder reads, and what says where it comes from. */
static int copy_encoder(const char *from, const char *to, libsched_error *err)
{
    static const char *const names[] = {
        "config.json", SAFETENSORS_WEIGHTS,         "tokenizer.json", "tokenizer_config.json",
        "vocab.txt",   "sentence_bert_config.json", "LICENSE",        "special_tokens_map.json",
    };
    int status = copy_modules(from, to, err);

    for (size_t i = 0; status == LIBSCHED_OK && i < sizeof(names) / sizeof(names[0]); i++)
        status = copy(from, to, names[i], err);
    return status;
}

/* ------------------------------------------------------------------------------ what is new */

static json_t *parameter_json(const libsched_parameter *p)
{
    switch (p->type) {
    case LIBSCHED_PARAMETER_BOOL:
        return json_boolean(p->value.boolean);
    case LIBSCHED_PARAMETER_INT:
        return json_integer(p->value.integer);
    case LIBSCHED_PARAMETER_FLOAT:
        return json_real(p->value.real);
    default:
        return json_string(p->value.string);
    }
}

/* Without the limits of the encoder's manifest: they are of another use of it. */
static int write_manifest(const char *folder, const struct catalog_model *encoder,
                          libsched_error *err)
{
    json_t *parameters = json_object();
    json_t *manifest = json_pack("{s:s, s:o}", "engine", "encoder", "parameters", parameters);
    char *path = catalog_file_join(folder, CATALOG_MANIFEST_FILE);
    int status = LIBSCHED_OK;

    for (uint32_t i = 0; i < encoder->n_parameters; i++)
        json_object_set_new(parameters, encoder->parameters[i].name,
                            parameter_json(&encoder->parameters[i]));
    if (manifest == NULL || path == NULL)
        status = no_memory(err);
    else if (json_dump_file(manifest, path, JSON_INDENT(2)) < 0)
        status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be written: %m", path);
    json_decref(manifest);
    free(path);
    return status;
}

static int write_head(const char *folder, const struct softmax *head,
                      const struct encoder_label *labels, libsched_error *err)
{
    const uint64_t n = (uint64_t)head->classes * head->width;
    float *weight = malloc(n * sizeof(*weight)), *bias = malloc(head->classes * sizeof(*bias));
    char *path = catalog_file_join(folder, ENCODER_HEAD_FILE);
    int status;

    if (weight == NULL || bias == NULL || path == NULL) {
        status = no_memory(err);
    } else {
        for (uint32_t c = 0; c < head->classes; c++) {
            const double *row = head->weight + (uint64_t)c * (head->width + 1);
            for (uint32_t i = 0; i < head->width; i++)
                weight[(uint64_t)c * head->width + i] = (float)row[i];
            bias[c] = (float)row[head->width];
        }
        status = encoder_head_write(path, head->classes, head->width, weight, bias, labels, err);
    }
    free(weight);
    free(bias);
    free(path);
    return status;
}

/* ---------------------------------------------------------------------------------- the folder */

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

static void remove_folder(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* As any other new folder: mkdtemp() lets nobody else in. To ask
 * for the mask is to change it, for all threads: what another one makes just then is nobody's
 * rather than everybody's. */
static void open_up(const char *folder)
{
    mode_t mask = umask(0777);

    umask(mask);
    if (chmod(folder, 0777 & ~mask) < 0) {
        /* It then serves its owner. */
    }
}

int train_write(const char *path, const struct catalog_model *encoder, const struct softmax *head,
                const struct encoder_label *labels, libsched_error *err)
{
    char folder[PATH_MAX];
    int status = new_path_check(path, "train", "out", "folder", err);

    if (status != LIBSCHED_OK)
        return status;
    snprintf(folder, sizeof(folder), "%s.XXXXXX", path);
    if (mkdtemp(folder) == NULL)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be made: %m", folder);
    status = copy_encoder(encoder->path, folder, err);
    if (status == LIBSCHED_OK)
        status = write_head(folder, head, labels, err);
    if (status == LIBSCHED_OK)
        status = write_manifest(folder, encoder, err);
    if (status == LIBSCHED_OK) {
        open_up(folder);
        if (rename(folder, path) < 0)
            status = libsched_error_set(err, LIBSCHED_ESYSTEM, "%s can't be made: %m", path);
    }
    if (status != LIBSCHED_OK)
        remove_folder(folder);
    return status;
}
