/* SPDX-License-Identifier: Apache-2.0 */
/* What is thrown where something is seen that must not be. */
#ifndef SIM_VIOLATION_H
#define SIM_VIOLATION_H

#include <string>

namespace sim
{

struct Violation {
    std::string check; /* which; a failing seed is shrunk as long as it stays the same */
    std::string what;
};

[[noreturn]] void violate(const char *check, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

inline void expect(bool condition, const char *check, const char *what)
{
    if (!condition)
        violate(check, "%s", what);
}

} // namespace sim

#endif
