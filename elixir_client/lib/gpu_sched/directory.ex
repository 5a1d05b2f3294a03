# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Directory do
  # What callers need to know of a scheduler on this node, found by its pid without asking it: a
  # persistent term for each, taken away when the scheduler has ended, however that came about.
  @moduledoc false
  use GenServer

  alias GpuSched.Context

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

  @impl true
  def init(_arg), do: {:ok, nil}

  @impl true
  def handle_call({:register, ctx}, _from, state) do
    Process.monitor(ctx.server)
    :persistent_term.put({__MODULE__, ctx.server}, ctx)
    {:reply, :ok, state}
  end

  @impl true
  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    :persistent_term.erase({__MODULE__, pid})
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}
end
