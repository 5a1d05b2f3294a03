# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Directory do
  # What callers need to know of a scheduler on this node, found by its pid without asking it: a
  # persistent term for each, taken away when the scheduler has ended, however that came about. So
  # is its sched-port, should that not end by itself: one that hangs does not see that its port closed.
  @moduledoc false
  use GenServer

  alias GpuSched.{Context, OsProcess}
  alias GpuSched.Server.State

  # From the end of the scheduler on.
  @port_may_take_ms 2_000

  def start_link(_arg), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @spec fetch(pid) :: {:ok, Context.t()} | :error
  def fetch(pid) do
    case :persistent_term.get({__MODULE__, pid}, nil) do
      nil -> :error
      ctx -> {:ok, ctx}
    end
  end

  @spec register(Context.t()) :: :ok | {:error, GpuSched.Error.t()}
  def register(ctx) do
    if Process.whereis(__MODULE__) do
      GenServer.call(__MODULE__, {:register, ctx}, :infinity)
    else
      {:error,
       GpuSched.Error.exception(
         reason: :start_failed,
         message:
           "the application :gpu_sched is not started: add it to the applications of the " <>
             "release, or call Application.ensure_all_started(:gpu_sched) first"
       )}
    end
  end

  # The calling scheduler has started that program.
  @spec port(OsProcess.t() | nil) :: :ok
  def port(process), do: GenServer.cast(__MODULE__, {:port, self(), process})

  # `ports` has the schedulers that are watched.
  @impl true
  def init(_arg), do: {:ok, %{}}

  @impl true
  def handle_call({:register, ctx}, _from, ports) do
    :persistent_term.put({__MODULE__, ctx.server}, ctx)
    {:reply, :ok, watch(ports, ctx.server)}
  end

  @impl true
  def handle_cast({:port, pid, process}, ports),
    do: {:noreply, Map.put(watch(ports, pid), pid, process)}

  defp watch(ports, pid) when is_map_key(ports, pid), do: ports

  defp watch(ports, pid) do
    Process.monitor(pid)
    Map.put(ports, pid, nil)
  end

  @impl true
  def handle_info({:DOWN, _monitor, :process, pid, _reason}, ports) do
    :persistent_term.erase({__MODULE__, pid})
    {process, ports} = Map.pop(ports, pid)
    if OsProcess.alive?(process), do: spawn(fn -> end_port(process) end)
    {:noreply, ports}
  end

  def handle_info(_other, ports), do: {:noreply, ports}

  defp end_port(process) do
    unless OsProcess.await_exit(process, State.now_ms() + @port_may_take_ms),
      do: OsProcess.kill(process)
  end
end
