/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* That of the longest name. */
#define METRIC_WIDTH 24

struct report {
    const char *bench;
    bool json;
    json_t *machine, *results;
    json_t *columns; /* the names of those whose head was printed last; NULL: none yet */
};

static void die(const char *why)
{
    fprintf(stderr, "bench: %s\n", why);
    exit(1);
}

/* "model name" of the first processor. */
static void add_cpu(struct report *report)
{
    char line[512], *value;
    FILE *file = fopen("/proc/cpuinfo", "re");

    if (file == NULL)
        return;
    while (fgets(line, sizeof(line), file) != NULL) {
        value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || value == NULL)
            continue;
        line[strcspn(line, "\n")] = '\0';
        report_machine(report, "cpu", value + 2);
        break;
    }
    fclose(file);
}

struct report *report_open(const char *bench, bool json)
{
    struct report *report = calloc(1, sizeof(*report));
    struct utsname name;

    if (report == NULL)
        die("no memory");
    report->bench = bench;
    report->json = json;
    report->machine = json_object();
    report->results = json_array();
    add_cpu(report);
    json_object_set_new(report->machine, "cores", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    if (uname(&name) == 0)
        report_machine(report, "kernel", name.release);
    return report;
}

void report_machine(struct report *report, const char *key, const char *value)
{
    json_object_set_new(report->machine, key, json_string(value));
}

static void print_value(const json_t *value, int width)
{
    if (json_is_string(value))
        printf(" %*s", width, json_string_value(value));
    else if (json_is_real(value))
        printf(" %*.4g", width, json_real_value(value));
    else
        printf(" %*" JSON_INTEGER_FORMAT, width, json_integer_value(value));
}

/* Four digits that mean something, whatever the unit. */
static void print_number(double number)
{
    printf(" %12.*f", number < 10 ? 3 : number < 100 ? 2 : 1, number);
}

static void print_machine(const struct report *report)
{
    const char *key;
    json_t *value;

    json_object_foreach(report->machine, key, value)
    {
        printf("%s:", key);
        print_value(value, 1);
        printf("\n");
    }
}

/* Where they are not those of the line before. */
static void print_head(struct report *report, json_t *params)
{
    json_t *columns = json_array(), *value;
    const char *key;

    json_object_foreach(params, key, value) json_array_append_new(columns, json_string(key));
    if (report->columns != NULL && json_equal(columns, report->columns)) {
        json_decref(columns);
        return;
    }
    if (report->columns == NULL)
        print_machine(report);
    json_decref(report->columns);
    report->columns = columns;
    printf("\n%-*s", METRIC_WIDTH, "metric");
    json_object_foreach(params, key, value) printf(" %10s", key);
    printf(" %12s %12s %7s\n", "value", "bare limit", "ratio");
}

void report_add(struct report *report, const char *metric, json_t *params, double value,
                const char *unit, double baseline)
{
    const char *key;
    json_t *param, *result;

    if (!report->json) {
        print_head(report, params);
        printf("%-*s", METRIC_WIDTH, metric);
        json_object_foreach(params, key, param) print_value(param, 10);
        print_number(value);
        if (baseline > 0) {
            print_number(baseline);
            printf(" %7.3f", value / baseline);
        }
        printf("\n");
        fflush(stdout);
    }
    result = json_pack("{s:s, s:o, s:f, s:s}", "metric", metric, "params", params, "value", value,
                       "unit", unit);
    if (baseline > 0) {
        json_object_set_new(result, "baseline", json_real(baseline));
        json_object_set_new(result, "ratio", json_real(value / baseline));
    }
    json_array_append_new(report->results, result);
}

void report_close(struct report *report)
{
    if (report->json) {
        json_t *all = json_pack("{s:s, s:o, s:o}", "bench", report->bench, "machine",
                                report->machine, "results", report->results);
        char *text = all != NULL ? json_dumps(all, JSON_REAL_PRECISION(6)) : NULL;
        if (text == NULL)
            die("no memory");
        puts(text);
        free(text);
        json_decref(all);
    } else {
        json_decref(report->machine);
        json_decref(report->results);
    }
    json_decref(report->columns);
    free(report);
}
