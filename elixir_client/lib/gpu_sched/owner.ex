# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Owner do
  # Whose a request is. A process that another node spawned, as :erpc does, works for its parent
  # over there: when that dies nobody waits for the result any more, although this process, which
  # is not told, lives on.
  @moduledoc false

  @spec current() :: pid
  def current do
    case Process.info(self(), :parent) do
      {:parent, pid} when is_pid(pid) and node(pid) != node() -> pid
      _ -> self()
    end
  end
end
