# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Application do
  # Runs the directory of schedulers and this node's member of the cluster; no scheduler is started on
  # its own account.
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    pg = %{id: :pg, start: {:pg, :start_link, [GpuSched.Cluster]}}
    children = [GpuSched.Directory, GpuSched.Link.Near, pg, GpuSched.Cluster.Member]
    # A member is in a group of that :pg, and reads the directory.
    Supervisor.start_link(children, strategy: :rest_for_one, name: GpuSched.Supervisor)
  end
end
