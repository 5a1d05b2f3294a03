# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Context do
  # What a caller needs to know of a scheduler on its node. It does not change while that lives:
  # what changes is in the counters (see GpuSched.Admission).
  @moduledoc false

  defstruct [:server, :counters, :client, :jobs, :events]

  @type t :: %__MODULE__{
          server: pid,
          counters: :atomics.atomics_ref(),
          client: String.t() | nil,
          jobs: GpuSched.Jobs.Table.handle(),
          events: GpuSched.Events.handle()
        }
end
