/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/trace.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

namespace sim
{

namespace
{

std::vector<std::string> split(const std::string &line)
{
    std::vector<std::string> fields;
    size_t begin = 0;
    for (;;) {
        size_t end = line.find(',', begin);
        fields.push_back(line.substr(begin, end - begin));
        if (end == std::string::npos)
            return fields;
        begin = end + 1;
    }
}

bool number(const std::string &text, uint64_t most, uint64_t *out)
{
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos)
        return false;
    errno = 0;
    *out = std::strtoull(text.c_str(), nullptr, 10);
    return errno == 0 && *out <= most;
}

std::string strip(std::string line)
{
    while (!line.empty() && (line.back() == '\r' || line.back() == ' '))
        line.pop_back();
    return line;
}

} // namespace

bool read_trace(const std::string &path, uint64_t scale_ppb, Trace *out, std::string *error)
{
    std::ifstream file(path);
    std::string line;
    size_t columns[3], n = 0;
    static const char *const names[] = {"arrival_us", "model", "units"};
    std::map<std::string, uint32_t> models;

    *out = {};
    if (!file || !std::getline(file, line)) {
        *error = path + ": " + (errno != 0 ? std::strerror(errno) : "it is empty");
        return false;
    }
    std::vector<std::string> head = split(strip(line));
    for (int i = 0; i < 3; i++) {
        auto it = std::find(head.begin(), head.end(), names[i]);
        if (it == head.end()) {
            *error = path + ": there is no column " + names[i] + ", got \"" + line + "\"";
            return false;
        }
        columns[i] = static_cast<size_t>(it - head.begin());
    }
    for (n = 2; std::getline(file, line); n++) {
        line = strip(line);
        if (line.empty())
            continue;
        std::vector<std::string> fields = split(line);
        uint64_t us, units;
        if (fields.size() != head.size() || !number(fields[columns[0]], UINT64_C(1) << 46, &us) ||
            !number(fields[columns[2]], UINT64_C(1) << 32, &units) || units == 0) {
            *error = path + ":" + std::to_string(n) + ": wanted microseconds from 0 and units " +
                     "from 1, got \"" + line + "\"";
            return false;
        }
        auto [it, is_new] = models.emplace(fields[columns[1]], models.size());
        if (is_new)
            out->models.push_back(it->first);
        uint64_t ns =
            static_cast<uint64_t>(static_cast<unsigned __int128>(us) * scale_ppb / 1000000);
        out->arrivals.push_back({ns, it->second, units});
    }
    if (out->arrivals.empty()) {
        *error = path + ": it has no arrivals";
        return false;
    }
    std::stable_sort(out->arrivals.begin(), out->arrivals.end(),
                     [](const Arrival &a, const Arrival &b) { return a.at < b.at; });
    const uint64_t first = out->arrivals.front().at;
    for (Arrival &a : out->arrivals)
        a.at -= first;
    return true;
}

std::string traces_folder(const std::string &source_folder)
{
    const char *named = std::getenv("GPU_SCHED_SHARED_DATA");
    std::string folder =
        (named != nullptr && *named != '\0' ? named : source_folder + "/../shared/data") +
        std::string("/traces");
    return std::filesystem::is_directory(folder) ? folder : "";
}

} // namespace sim
