/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without a fuzzer: all files of a corpus, then mutations of them.
 *
 *     fuzz-NAME FOLDER [MUTATIONS [SEED]]
 *
 * The mutations follow from the seed, so a failure comes again. The input that runs is kept in
 * fuzz-NAME.input of the current folder until it has passed; with a file in place of a folder,
 * that file alone is run.
 */
#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "fuzz/fuzz.h"

namespace
{

using input = std::vector<uint8_t>;

std::string input_file;
input current;

/* Only calls that a signal handler may make. */
void write_current()
{
    int fd = open(input_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd >= 0 && write(fd, current.data(), current.size()) >= 0)
        close(fd);
}

void on_crash(int signal)
{
    write_current();
    std::signal(signal, SIG_DFL);
    raise(signal);
}

void run(const input &data)
{
    current = data;
    /* A block of its own, so that a sanitizer sees a read beyond its end. */
    input exact(data);
    exact.shrink_to_fit();
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

input read_file(const std::filesystem::path &path)
{
    std::ifstream in(path, std::ios::binary);
    return input(std::istreambuf_iterator<char>(in), {});
}

class mutator
{
  public:
    mutator(const std::vector<input> &corpus, uint64_t seed) : corpus_(corpus), random_(seed)
    {
    }

    input next()
    {
        input data = pick();
        for (size_t n = 1 + below(4); n > 0; n--)
            mutate(data);
        if (data.size() > 1 << 20)
            data.resize(1 << 20);
        return data;
    }

  private:
    size_t below(size_t n)
    {
        return n == 0 ? 0 : random_() % n;
    }

    const input &pick()
    {
        return corpus_[below(corpus_.size())];
    }

    void insert(input &data, const std::string &text)
    {
        data.insert(data.begin() + (ptrdiff_t)below(data.size() + 1), text.begin(), text.end());
    }

    /* Numbers where limits are, in place of a run of digits. */
    void change_number(input &data)
    {
        static const char *const numbers[] = {"0",
                                              "-1",
                                              "1",
                                              "255",
                                              "4294967295",
                                              "4294967296",
                                              "2147483648",
                                              "9223372036854775807",
                                              "9223372036854775808",
                                              "18446744073709551616",
                                              "1e999",
                                              "0.5"};
        std::vector<size_t> digits;
        for (size_t i = 0; i < data.size(); i++)
            if (data[i] >= '0' && data[i] <= '9')
                digits.push_back(i);
        if (digits.empty())
            return;
        size_t from = digits[below(digits.size())], to = from;
        while (to < data.size() && data[to] >= '0' && data[to] <= '9')
            to++;
        std::string number = numbers[below(std::size(numbers))];
        data.erase(data.begin() + (ptrdiff_t)from, data.begin() + (ptrdiff_t)to);
        data.insert(data.begin() + (ptrdiff_t)from, number.begin(), number.end());
    }

    void mutate(input &data)
    {
        static const char *const pieces[] = {
            "{",     "}",    "[",        "]",        "\"",
            ",",     ":",    "null",     "\\u0000",  "[[[[",
            "{}",    "true", "\xcc\x81", "\xed\xa0", "\xf0\x9f\x98\x80",
            "[SEP]", " "};
        switch (below(8)) {
        case 0:
            if (!data.empty())
                data[below(data.size())] ^= (uint8_t)(1u << below(8));
            break;
        case 1:
            if (!data.empty())
                data[below(data.size())] = (uint8_t)random_();
            break;
        case 2:
            data.resize(below(data.size() + 1));
            break;
        case 3:
            insert(data, pieces[below(std::size(pieces))]);
            break;
        case 4: { /* a stretch again, or gone */
            size_t from = below(data.size() + 1), n = below(data.size() - from + 1);
            std::string stretch(data.begin() + (ptrdiff_t)from,
                                data.begin() + (ptrdiff_t)(from + n));
            if (below(2) == 0)
                insert(data, stretch);
            else
                data.erase(data.begin() + (ptrdiff_t)from, data.begin() + (ptrdiff_t)(from + n));
            break;
        }
        case 5: { /* the head of this and the tail of another */
            const input &other = pick();
            data.resize(below(data.size() + 1));
            data.insert(data.end(), other.begin() + (ptrdiff_t)below(other.size() + 1),
                        other.end());
            break;
        }
        default:
            change_number(data);
            break;
        }
    }

    const std::vector<input> &corpus_;
    std::mt19937_64 random_;
};

} // namespace

int main(int argc, char **argv)
{
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s FOLDER|FILE [MUTATIONS [SEED]]\n", argv[0]);
        return 2;
    }
    input_file = std::filesystem::path(argv[0]).filename().string() + ".input";
    for (int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL})
        std::signal(signal, on_crash);

    if (std::filesystem::is_regular_file(argv[1])) {
        run(read_file(argv[1]));
        return 0;
    }
    std::vector<std::filesystem::path> paths;
    for (const auto &entry : std::filesystem::directory_iterator(argv[1]))
        if (entry.is_regular_file())
            paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end()); /* the mutations depend on the order */
    std::vector<input> corpus;
    for (const auto &path : paths)
        corpus.push_back(read_file(path));
    if (corpus.empty()) {
        std::fprintf(stderr, "%s: no input in it\n", argv[1]);
        return 2;
    }
    for (const input &data : corpus)
        run(data);

    unsigned long mutations = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1000;
    unsigned long seed = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 1;
    mutator mutations_of(corpus, seed);
    for (unsigned long i = 0; i < mutations; i++)
        run(mutations_of.next());
    std::printf("%zu inputs and %lu mutations (seed %lu) passed\n", corpus.size(), mutations, seed);
    return 0;
}
