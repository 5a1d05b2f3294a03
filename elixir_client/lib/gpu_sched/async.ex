# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Async do
  # Requests that are begun now and asked for later.
  #
  # Each has a process of its own, which waits and decodes: whoever handles {ref, result} itself, as
  # a GenServer does, gets the result, not what came off the wire. The reference is that of a
  # monitor with an alias: the first answer ends both, and nothing can come after it.
  @moduledoc false

  alias GpuSched.Cluster.Route
  alias GpuSched.{Error, Link, Local, Options, Owner, Remote, Request, Resolve, Telemetry, Tensor}

  @spec start(GenServer.server(), term, term, Options.t()) :: Request.t()
  def start(server, model, inputs, opts) do
    caller = self()
    owner = Owner.current()
    # It counts from here, not from when the other process gets to run.
    opts = %{opts | deadline: Local.due(opts)}

    {pid, ref} =
      :erlang.spawn_opt(
        fn ->
          ref = await_go(caller)
          send(ref, {ref, run(server, model, inputs, opts, owner, caller, ref)})
        end,
        monitor: [alias: :reply_demonitor]
      )

    send(pid, {:go, ref})
    %Request{ref: ref, owner: caller, pid: pid, model: model}
  end

  # A caller may be killed before it says so.
  defp await_go(caller) do
    monitor = Process.monitor(caller)

    receive do
      {:go, ref} ->
        Process.demonitor(monitor, [:flush])
        ref

      {:DOWN, ^monitor, :process, _pid, _reason} ->
        exit(:normal)
    end
  end

  defp run(:any, model, inputs, opts, owner, caller, ref) do
    monitors = Enum.map(Enum.uniq([caller, owner]), &Process.monitor/1)

    Telemetry.span(:any, model, fn ->
      Route.infer(model, inputs, opts, owner, ref, monitors)
    end)
  end

  defp run(server, model, inputs, opts, owner, caller, ref) do
    case Resolve.server(server) do
      {:local, ctx} -> Local.infer(ctx, model, inputs, opts, owner, ref)
      {:remote, node, name} -> remote(node, name, model, inputs, opts, {caller, owner}, ref)
      {:error, error} -> {:error, error}
    end
  end

  # This process is the owner over there: it ends when it is stopped, and when the caller dies, or the
  # process on another node that the caller works for.
  defp remote(node, name, model, inputs, opts, {caller, owner}, stop) do
    monitors = Enum.map(Enum.uniq([caller, owner]), &Process.monitor/1)
    deadline = opts.deadline

    case Link.begin(node, name, model, inputs, opts, deadline) do
      {:ok, request} -> Link.await(request, %{stop: stop, monitors: monitors})
      {:error, error} -> {:error, error}
      :none -> alone(node, name, model, inputs, opts, deadline, {stop, monitors})
    end
  end

  defp alone(node, name, model, inputs, opts, deadline, ends) do
    left = %{opts | timeout: Local.remaining(deadline)}

    with {:ok, args} <- Remote.infer_args(name, model, inputs, left) do
      request = :erpc.send_request(node, GpuSched, :infer, args)
      remote_answer(request, node, opts, deadline, ends)
    end
  end

  defp remote_answer(request, node, opts, deadline, {stop, monitors} = ends) do
    receive do
      {:gpu_sched_stop, ^stop} ->
        exit(:normal)

      message ->
        if is_tuple(message) and elem(message, 0) == :DOWN and elem(message, 1) in monitors,
          do: exit(:normal)

        remote_answer(message, request, node, opts, deadline, ends)
    after
      Local.remaining(deadline) -> {:error, Local.timed_out(opts.timeout)}
    end
  end

  defp remote_answer(message, request, node, opts, deadline, ends) do
    case :erpc.check_response(message, request) do
      {:response, {:ok, result}} -> Tensor.outputs(result, opts.output)
      {:response, {:error, error}} -> {:error, error}
      :no_response -> remote_answer(request, node, opts, deadline, ends)
    end
  rescue
    e in ErlangError -> {:error, Remote.from_erpc(e.original, node, opts.timeout)}
  end

  @spec await(Request.t(), timeout) :: {:ok, map} | {:error, Error.t()}
  def await(request, timeout) do
    case yield(request, timeout) do
      nil ->
        cancel(request)
        {:error, Local.timed_out(timeout)}

      result ->
        result
    end
  end

  @spec yield(Request.t(), timeout) :: {:ok, map} | {:error, Error.t()} | nil
  def yield(%Request{ref: ref} = request, timeout) do
    check_owner!(request)

    receive do
      {^ref, result} -> result
      {:DOWN, ^ref, :process, _pid, reason} -> {:error, failed(reason)}
    after
      timeout -> nil
    end
  end

  @spec await_many([Request.t()], timeout) :: [{:ok, map} | {:error, Error.t()}]
  def await_many(requests, timeout) do
    Enum.each(requests, &check_owner!/1)
    deadline = Local.deadline(timeout)

    Enum.map(requests, fn request ->
      case yield(request, Local.remaining(deadline)) do
        nil ->
          cancel(request)
          {:error, Local.timed_out(timeout)}

        result ->
          result
      end
    end)
  end

  @spec cancel(Request.t()) :: :ok
  def cancel(%Request{ref: ref, pid: pid} = request) do
    check_owner!(request)
    send(pid, {:gpu_sched_stop, ref})
    Local.forget(ref)
  end

  defp check_owner!(%Request{owner: owner}) when owner == self(), do: :ok

  defp check_owner!(%Request{owner: owner} = request) do
    raise ArgumentError,
          "#{inspect(request)} belongs to #{inspect(owner)}, and only that may await or cancel it; " <>
            "this is #{inspect(self())}"
  end

  defp failed(reason) do
    Error.exception(
      reason: :unknown,
      message: "the process of the request ended: #{inspect(reason, limit: 8)}"
    )
  end
end
