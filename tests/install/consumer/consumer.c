/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What libsched.h shows at its top, made a program: has a text's words counted by an engine of our
 * own. consumer_c FOLDER_OF_THE_ENGINE
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include <libsched.h>

static int load(libsched *s, libsched_error *err)
{
    libsched_parameter separator = {.name = "separator", .type = LIBSCHED_PARAMETER_STRING};
    separator.value.string = ",";
    libsched_model_options model = LIBSCHED_MODEL_OPTIONS_INIT;
    model.name = "counter";
    model.engine = "words";
    model.parameters = &separator;
    model.n_parameters = 1;
    return libsched_model_load(s, &model, err);
}

static int submit(libsched *s, libsched_error *err)
{
    static const unsigned char texts[] = "\x0d\0\0\0one,two,three\0\0\0\0\x04\0\0\0four";
    libsched_tensor input = {.name = "text", .datatype = LIBSCHED_BYTES, .rank = 1};
    input.shape[0] = 3;
    input.data = texts;
    input.size = sizeof(texts) - 1;
    libsched_request request = LIBSCHED_REQUEST_INIT;
    request.model = "counter";
    request.inputs = &input;
    request.n_inputs = 1;
    request.timeout_ns = 20000000000u;
    uint64_t id;
    return libsched_submit(s, &request, &id, err);
}

/* Waits for the end; 0 where it is what it has to be. */
static int await(libsched *s)
{
    for (;;) {
        struct pollfd fd = {.fd = libsched_fd(s), .events = POLLIN};
        if (poll(&fd, 1, 120000) != 1)
            return 1;
        libsched_process(s, 0);
        libsched_completion done[4];
        size_t n = libsched_reap(s, done, 4);
        for (size_t i = 0; i < n; i++) {
            if (done[i].kind != LIBSCHED_END)
                continue;
            if (done[i].status != LIBSCHED_OK) {
                fprintf(stderr, "%s\n", done[i].message);
                return 1;
            }
            int words[3];
            memcpy(words, done[i].outputs[0].data, sizeof(words));
            libsched_release(s, done, n);
            printf("%d %d %d\n", words[0], words[1], words[2]);
            return words[0] == 3 && words[1] == 0 && words[2] == 1 ? 0 : 1;
        }
        libsched_release(s, done, n);
    }
}

int main(int argc, char **argv)
{
    libsched *s;
    libsched_error err;
    libsched_options options = LIBSCHED_OPTIONS_INIT;
    options.plugin_path = argc > 1 ? argv[1] : NULL;
    if (libsched_open(&s, &options, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int failed = load(s, &err) < 0 || submit(s, &err) < 0;
    if (failed)
        fprintf(stderr, "%s\n", err.message);
    else
        failed = await(s);
    libsched_close(s);
    return failed;
}
