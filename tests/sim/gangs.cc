/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/gangs.h"

#include "sim/violation.h"

namespace sim
{

namespace
{

class NoGangs : public Gangs
{
  public:
    explicit NoGangs(const Workers &w) : workers(w)
    {
    }
    void begin() override
    {
    }
    void happen(const Happening &) override
    {
    }
    void action(const core_action &) override
    {
        violate("protocol", "an action that nothing led to");
    }
    void given(uint32_t) override
    {
    }
    void comes_up(uint32_t device) override
    {
        workers[device]->comes_up();
    }
    void settled() override
    {
    }
    void behave() override
    {
    }
    bool idle() const override
    {
        return true;
    }

  private:
    const Workers &workers;
};

} // namespace

std::unique_ptr<Gangs> make_gangs(World &, const Workers &workers)
{
    return std::make_unique<NoGangs>(workers);
}

} // namespace sim
