/* SPDX-License-Identifier: Apache-2.0 */
/* What is printed: a table for people with a line for each cell and policy, or one JSON object. */
#ifndef GOODPUT_OUTPUT_H
#define GOODPUT_OUTPUT_H

#include <map>
#include <string>

#include "cell.h"

struct report;

namespace goodput
{

class Output
{
  public:
    explicit Output(bool json);
    void cell(const Cell &cell);
    void rate(const RateCell &cell);
    void close();

  private:
    void note(const Cell &cell);

    struct Worst {
        double value = 1e9;
        std::string where;

        /* A value of 0 is not known. */
        void note(double other, const std::string &there)
        {
            if (other > 0 && other < value) {
                value = other;
                where = there;
            }
        }
    };
    struct Worsts {
        Worst best_baseline, fluid, optimum, u2;
    };

    struct report *report = nullptr; /* with JSON */
    bool began = false, rates_began = false;
    std::map<std::string, Worsts> worsts; /* of the core's policies */
};

/* Every request's arrival, dispatch, batch, device, end and outcome. */
bool write_log(const std::string &path, const Setup &setup,
               const std::vector<sim::Arrival> &arrivals, const std::vector<std::string> &policies);
} // namespace goodput

#endif
