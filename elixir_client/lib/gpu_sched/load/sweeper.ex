# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Sweeper do
  # Where functions are called, each call has a process, and those would go on when whoever asked for
  # the run is gone and the generators have ended with it. Requests to a scheduler end by themselves.
  # To keep a list of them would cost each request something; who their parent was, the BEAM knows.
  @moduledoc false

  # Called by the generator, after whose end (unless that is said to be over) nothing may go on.
  @spec start([pid]) :: pid
  def start(workers) do
    generator = self()

    spawn(fn ->
      generator = Process.monitor(generator)

      receive do
        :over -> :ok
        {:DOWN, ^generator, :process, _pid, _reason} -> sweep(workers)
      end
    end)
  end

  @spec over(pid | nil) :: :ok
  def over(nil), do: :ok

  def over(pid) do
    send(pid, :over)
    :ok
  end

  # After the last of them has ended, so that none begins anything any more.
  defp sweep(workers) do
    for {monitor, _pid} <- Enum.map(workers, &{Process.monitor(&1), &1}) do
      receive do
        {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
      end
    end

    workers = MapSet.new(workers)

    for pid <- Process.list(), {:parent, parent} <- [Process.info(pid, :parent)] do
      if MapSet.member?(workers, parent), do: Process.exit(pid, :kill)
    end
  end
end
