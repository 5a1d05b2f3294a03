/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/feature.h"

namespace sim
{

const char *feature_name(uint32_t bit)
{
    static const char *const names[] = {
#define X(name) #name,
        SIM_FEATURES(X)
#undef X
    };
    return names[bit];
}

bool parse_features(const std::string &names, Features *out)
{
    for (size_t begin = 0; begin <= names.size();) {
        size_t end = names.find(',', begin);
        if (end == std::string::npos)
            end = names.size();
        std::string name = names.substr(begin, end - begin);
        uint32_t bit = 0;
        while (bit < n_features && name != feature_name(bit))
            bit++;
        if (bit == n_features)
            return false;
        *out |= UINT64_C(1) << bit;
        begin = end + 1;
    }
    return true;
}

std::string feature_names(Features features)
{
    std::string names;
    for (uint32_t bit = 0; bit < n_features; bit++) {
        if ((features >> bit & 1) == 0)
            continue;
        if (!names.empty())
            names += ',';
        names += feature_name(bit);
    }
    return names;
}

} // namespace sim
