# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Jobs.Hold do
  # Devices held while a function runs. It runs in a process of its own, linked to the caller, so that
  # it can be ended when the time is up.
  @moduledoc false

  alias GpuSched.{Error, Jobs}

  @spec run(GenServer.server(), keyword, ([String.t()] -> term)) ::
          {:ok, term} | {:error, Error.t()}
  def run(server, opts, fun) do
    with {:ok, %{"job" => id, "devices" => devices}} <- Jobs.reserve(server, opts) do
      caller = self()
      ref = make_ref()
      callers = [caller | Process.get(:"$callers") || []]

      pid =
        spawn_link(fn ->
          Process.put(:"$callers", callers)
          send(caller, {ref, attempt(fun, devices)})
        end)

      :ok = Jobs.subscribe(id, caller)
      finish(await(ref, id), pid, ref, id)
    end
  end

  # What it did, whatever that is, belongs to the caller.
  defp attempt(fun, devices) do
    {:returned, fun.(devices)}
  catch
    kind, reason -> {:raised, kind, reason, __STACKTRACE__}
  end

  defp await(ref, id) do
    receive do
      {^ref, outcome} -> outcome
      {:gpu_sched, ^id, {:error, error}} -> {:taken, error}
      {:gpu_sched, ^id, {:done, _result}} -> {:taken, Error.exception(reason: :cancelled)}
      {:gpu_sched, ^id, {:progress, _progress}} -> await(ref, id)
    end
  end

  defp finish(outcome, pid, ref, id) do
    Process.unlink(pid)
    Process.exit(pid, :kill)
    Jobs.unsubscribe(id, self())
    _ = Jobs.release(id)
    flush(ref, id, pid)

    case outcome do
      {:returned, value} -> {:ok, value}
      {:raised, kind, reason, stack} -> :erlang.raise(kind, reason, stack)
      {:taken, error} -> {:error, error}
    end
  end

  defp flush(ref, id, pid) do
    receive do
      {^ref, _outcome} -> flush(ref, id, pid)
      {:gpu_sched, ^id, _event} -> flush(ref, id, pid)
      {:EXIT, ^pid, _reason} -> flush(ref, id, pid)
    after
      0 -> :ok
    end
  end
end
