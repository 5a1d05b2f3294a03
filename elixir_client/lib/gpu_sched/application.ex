# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Application do
  # Runs the directory of schedulers; nothing is started on its own account.
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    Supervisor.start_link([GpuSched.Directory],
      strategy: :one_for_one,
      name: GpuSched.Supervisor
    )
  end
end
