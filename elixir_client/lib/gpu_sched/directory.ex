# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Directory do
  # What callers need to know of a scheduler on this node, found by its pid without asking it: a
  # persistent term for each, taken away when the scheduler has ended, however that came about. So
  # is its sched-port, should that not end by itself: one that hangs does not see that its port closed.
  @moduledoc false
  use GenServer

  alias GpuSched.{Admission, Context, OsProcess}
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

  # The one whose jobs are called so.
  @spec by_label(String.t()) :: {:ok, Context.t()} | :error
  def by_label(label) do
    case :persistent_term.get({__MODULE__, :label, label}, nil) do
      nil -> :error
      pid -> fetch(pid)
    end
  end

  # Those that run on this node.
  @spec schedulers :: [%{pid: pid, name: term, label: String.t(), state: atom}]
  def schedulers do
    if Process.whereis(__MODULE__), do: GenServer.call(__MODULE__, :schedulers), else: []
  end

  # Where the jobs of the schedulers that were called so are counted, the next one's too.
  @spec counter(String.t()) :: {:ok, :atomics.atomics_ref()} | {:error, GpuSched.Error.t()}
  def counter(label) do
    if Process.whereis(__MODULE__),
      do: GenServer.call(__MODULE__, {:counter, label}, :infinity),
      else: {:error, not_started()}
  end

  @spec register(Context.t()) :: :ok | {:error, GpuSched.Error.t()}
  def register(ctx) do
    if Process.whereis(__MODULE__) do
      GenServer.call(__MODULE__, {:register, ctx}, :infinity)
    else
      {:error, not_started()}
    end
  end

  defp not_started do
    GpuSched.Error.exception(
      reason: :start_failed,
      message:
        "the application :gpu_sched is not started: add it to the applications of the " <>
          "release, or call Application.ensure_all_started(:gpu_sched) first"
    )
  end

  # The calling scheduler has started that program.
  @spec port(OsProcess.t() | nil) :: :ok
  def port(process), do: GenServer.cast(__MODULE__, {:port, self(), process})

  # `ports` has the schedulers that are watched, `labels` what their jobs are called, `counters` how
  # many there were.
  @impl true
  def init(_arg), do: {:ok, %{ports: %{}, labels: %{}, counters: %{}}}

  @impl true
  def handle_call({:register, ctx}, _from, state) do
    :persistent_term.put({__MODULE__, ctx.server}, ctx)
    :persistent_term.put({__MODULE__, :label, ctx.jobs.label}, ctx.server)
    state = put_in(state.labels[ctx.server], ctx.jobs.label)
    {:reply, :ok, %{state | ports: watch(state.ports, ctx.server)}}
  end

  def handle_call({:counter, label}, _from, state) do
    counters = Map.put_new_lazy(state.counters, label, fn -> :atomics.new(1, []) end)
    {:reply, {:ok, counters[label]}, %{state | counters: counters}}
  end

  def handle_call(:schedulers, _from, state) do
    schedulers =
      for {pid, label} <- state.labels, {:ok, ctx} <- [fetch(pid)] do
        %{pid: pid, name: name(pid), label: label, state: Admission.state(ctx.counters)}
      end

    {:reply, Enum.sort_by(schedulers, & &1.label), state}
  end

  # nil where it is registered as nothing, or elsewhere than here.
  defp name(pid) do
    case Process.info(pid, :registered_name) do
      {:registered_name, name} -> name
      _ -> nil
    end
  end

  @impl true
  def handle_cast({:port, pid, process}, state),
    do: {:noreply, %{state | ports: Map.put(watch(state.ports, pid), pid, process)}}

  defp watch(ports, pid) when is_map_key(ports, pid), do: ports

  defp watch(ports, pid) do
    Process.monitor(pid)
    Map.put(ports, pid, nil)
  end

  @impl true
  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    :persistent_term.erase({__MODULE__, pid})
    {process, ports} = Map.pop(state.ports, pid)
    {label, labels} = Map.pop(state.labels, pid)
    # Another may be called so already.
    if :persistent_term.get({__MODULE__, :label, label}, nil) == pid,
      do: :persistent_term.erase({__MODULE__, :label, label})

    if OsProcess.alive?(process), do: spawn(fn -> end_port(process) end)
    {:noreply, %{state | ports: ports, labels: labels}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp end_port(process) do
    unless OsProcess.await_exit(process, State.now_ms() + @port_may_take_ms),
      do: OsProcess.kill(process)
  end
end
