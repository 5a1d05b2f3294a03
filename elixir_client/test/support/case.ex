# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.FakePortCase do
  # Tests on the fake port.
  @moduledoc false
  use ExUnit.CaseTemplate

  alias GpuSched.FakePort

  using do
    quote do
      import GpuSched.FakePort,
        only: [start: 0, start: 1, start: 2, seen: 1, until: 1, until: 2, taken: 1, queued: 1]

      alias GpuSched.{Error, FakePort}

      @moduletag capture_log: true
      if reason = FakePort.missing(), do: @moduletag(skip: reason)
    end
  end
end
