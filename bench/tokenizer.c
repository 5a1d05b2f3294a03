/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "tokenizer": how fast one thread turns text into token ids, beside the bare limit
 * of hashing each of the same bytes once, which no look-up in a hash table can do without.
 *
 * A round encodes all texts of a case and then hashes them; the result is the round whose ratio is
 * the median, so that the noise of a shared machine hits both alike. Time is the thread's own on
 * its core: it never waits, and what others take of the core is not its speed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/tokenizer.h"
#include "engine/tokenizer_vocabulary.h"
#include "report.h"

#define TEXTS 2048
#define MAX_TOKENS 4096 /* more than any text has: none is cut */
#define ROUNDS 31
/* A round repeats its texts until it took so long. */
#define ROUND_SECONDS 0.02

/*
 * What a case's texts are made of: parts in a random order, `parts` to a word, and words joined by
 * `between`. Sixteen words leave their places in the vocabulary warm, as frequent words are;
 * invented ones are nearly all different and split into several pieces, which is the worst that
 * natural text comes to.
 */
struct words {
    const char *name;
    const char *between;
    unsigned parts;
    const char *words[16];
};

static const struct words languages[] = {
    {"english",
     " ",
     1,
     {"The", "scheduler", "gathers", "requests", "into", "batches,", "and", "each", "device",
      "that", "is", "free", "takes", "one.", "Throughput", "matters"}},
    {"german",
     " ",
     1,
     {"Größere", "Wörter", "über", "die", "Straße", "führen", "natürlich", "zu", "mehr", "Stücken,",
      "für", "jedes", "Gerät", "gilt", "das", "Überraschend."}},
    {"russian",
     " ",
     1,
     {"Планировщик", "собирает", "запросы", "в", "пакеты,", "и", "каждое", "устройство", "которое",
      "свободно", "берёт", "один.", "Это", "очень", "быстро", "сейчас"}},
    {"chinese",
     "",
     1,
     {"调度", "器把", "请求", "收集", "成批", "，", "每个", "空闲", "的", "设备", "取走", "一批",
      "。", "速度", "很", "重要"}},
    {"invented",
     " ",
     4,
     {"ba", "kor", "mi", "ten", "lu", "shar", "vo", "ique", "dra", "ne", "pho", "gul", "sti", "ra",
      "wem", "ox"}},
};

static const unsigned lengths[] = {8, 32, 256}; /* words in a text */

struct texts {
    char *text[TEXTS];
    size_t length[TEXTS];
    size_t bytes;
};

static void die(const char *what, const libsched_error *err)
{
    fprintf(stderr, "bench-tokenizer: %s: %s\n", what, err->message);
    exit(1);
}

/* Seconds this thread has computed. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t random_state;

/* xorshift64*, 0 to n - 1. */
static unsigned random_below(unsigned n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (unsigned)((random_state * 0x2545f4914f6cdd1du) >> 33) % n;
}

static void make_texts(struct texts *out, const struct words *language, unsigned words)
{
    random_state = 20240229;
    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < TEXTS; i++) {
        FILE *to = open_memstream(&out->text[i], &out->length[i]);
        if (to == NULL)
            abort();
        for (unsigned n = 0; n < words; n++) {
            fputs(n > 0 ? language->between : "", to);
            for (unsigned part = 0; part < language->parts; part++)
                fputs(language->words[random_below(16)], to);
        }
        if (fclose(to) != 0)
            abort();
        out->bytes += out->length[i];
    }
}

static void free_texts(struct texts *texts)
{
    for (unsigned i = 0; i < TEXTS; i++)
        free(texts->text[i]);
}

/* What a run did, kept so that no compiler leaves it out. */
static volatile uint64_t sink;

/* Encodes every text once; returns the tokens. */
static uint64_t encode_all(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                           const struct texts *texts)
{
    int32_t ids[MAX_TOKENS];
    uint64_t tokens = 0;
    libsched_error err;
    for (unsigned i = 0; i < TEXTS; i++) {
        uint32_t n;
        bool truncated;
        if (tokenizer_encode(tokenizer, scratch, texts->text[i], texts->length[i], MAX_TOKENS, ids,
                             &n, &truncated, &err) != LIBSCHED_OK)
            die("encoding", &err);
        if (truncated)
            abort(); /* its bytes would count, though they were not all encoded */
        tokens += n;
    }
    sink += tokens;
    return tokens;
}

static void hash_all(const struct texts *texts)
{
    for (unsigned i = 0; i < TEXTS; i++) {
        uint32_t hash = vocabulary_hash_start(false);
        for (size_t at = 0; at < texts->length[i]; at++)
            hash = vocabulary_hash_byte(hash, (unsigned char)texts->text[i][at]);
        sink += hash;
    }
}

/* Seconds that one pass over the texts takes, encoding and hashing. */
struct round {
    double encode, hash;
};

static int compare_ratios(const void *a, const void *b)
{
    const struct round *x = a, *y = b;
    double p = x->hash / x->encode, q = y->hash / y->encode;
    return p < q ? -1 : p > q;
}

static struct round measure(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                            const struct texts *texts)
{
    struct round rounds[ROUNDS];
    for (unsigned i = 0; i < ROUNDS; i++) {
        double start = now(), stop;
        unsigned passes = 0;
        do {
            encode_all(tokenizer, scratch, texts);
            passes++;
        } while ((stop = now()) - start < ROUND_SECONDS);
        rounds[i].encode = (stop - start) / passes;
        start = now();
        passes = 0;
        do {
            hash_all(texts);
            passes++;
        } while ((stop = now()) - start < ROUND_SECONDS);
        rounds[i].hash = (stop - start) / passes;
    }
    qsort(rounds, ROUNDS, sizeof(rounds[0]), compare_ratios);
    return rounds[ROUNDS / 2];
}

static void add(struct report *report, const char *metric, const char *unit,
                const struct words *language, unsigned words, double amount, struct round round)
{
    report_add(report, metric, json_pack("{s:s, s:i}", "text", language->name, "words", (int)words),
               amount / round.encode, unit, amount / round.hash);
}

static int usage(void)
{
    fprintf(stderr, "usage: bench-tokenizer [--json] [FOLDER]\n"
                    "FOLDER holds tokenizer.json or vocab.txt; without it: GPU_SCHED_MINILM\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *folder = getenv("GPU_SCHED_MINILM");
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct texts texts;
    libsched_error err;
    bool json = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (argv[i][0] != '-')
            folder = argv[i];
        else
            return usage();
    }
    if (folder == NULL || *folder == '\0')
        return usage();
    if (tokenizer_open(&tokenizer, folder, &err) != LIBSCHED_OK ||
        tokenizer_scratch_open(&scratch, tokenizer, &err) != LIBSCHED_OK)
        die(folder, &err);

    struct report *report = report_open("tokenizer", json);
    for (size_t l = 0; l < sizeof(languages) / sizeof(languages[0]); l++) {
        for (size_t n = 0; n < sizeof(lengths) / sizeof(lengths[0]); n++) {
            make_texts(&texts, &languages[l], lengths[n]);
            uint64_t tokens = encode_all(tokenizer, scratch, &texts);
            struct round round = measure(tokenizer, scratch, &texts);
            add(report, "texts_per_s", "1/s", &languages[l], lengths[n], TEXTS, round);
            add(report, "tokens_per_s", "1/s", &languages[l], lengths[n], (double)tokens, round);
            add(report, "bytes_per_s", "B/s", &languages[l], lengths[n], (double)texts.bytes,
                round);
            free_texts(&texts);
        }
    }
    report_close(report);
    tokenizer_scratch_close(scratch);
    tokenizer_close(tokenizer);
    return 0;
}
