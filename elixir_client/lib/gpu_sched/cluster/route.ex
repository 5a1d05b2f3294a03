# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Cluster.Route do
  # A request for `:any`: chooses a scheduler, and where that one fails for a reason that is not the
  # request's, another, with the time that is left. It runs in the process of a GpuSched.Async, which
  # is the owner on the other node: when it ends, the request over there is cancelled.
  @moduledoc false

  alias GpuSched.{Error, Link, Local, Options, Remote, Resolve, Tensor}
  alias GpuSched.Cluster.{Choice, Member, Table}

  # What another host may do better. Not among them: what a request does to whoever computes it.
  @elsewhere [
    :unavailable,
    :closing,
    :overloaded,
    :queue_full,
    :client_limit,
    :unknown_model,
    :model_not_ready,
    :no_device,
    :device_lost,
    :out_of_device_memory,
    :out_of_memory,
    :system_error,
    :start_failed,
    :not_supported
  ]

  # How often a host that has been asked is looked at, whether it is heard of still, in ms.
  @watch_ms 250

  # `stop` is that of GpuSched.Async; `monitors` are of those who wait for the answer.
  @spec infer(term, term, Options.t(), pid, reference, [reference]) ::
          {:ok, map} | {:error, Error.t()}
  def infer(model, inputs, opts, owner, stop, monitors) do
    request = %{
      model: model,
      inputs: inputs,
      opts: opts,
      owner: owner,
      stop: stop,
      monitors: monitors,
      deadline: Local.due(opts)
    }

    route(request, [], nil, false)
  end

  # `failed` is the last error, `asked?` whether this node has asked again who is there.
  defp route(request, tried, failed, asked?) do
    case Choice.pick(request.model, tried) do
      {:ok, entry} ->
        request |> attempt(entry, request.opts) |> conclude(request, entry, tried, asked?)

      {:none, :tried} ->
        wait(request, failed, asked?)

      {:none, why} ->
        look(request, why, failed, asked?)
    end
  end

  defp conclude({:error, %Error{reason: reason} = error}, request, entry, tried, asked?)
       when reason in @elsewhere do
    if Local.remaining(request.deadline) == 0,
      do: {:error, Local.timed_out(request.opts.timeout)},
      else: route(request, [entry.pid | tried], error, asked?)
  end

  defp conclude(answer, _request, _entry, _tried, _asked?), do: answer

  # Nobody is known, or nobody who has the model: the table may be old.
  defp look(request, _why, failed, false) do
    case Member.look(min(Local.remaining(request.deadline), 5_000)) do
      :ok ->
        route(request, [], failed, true)

      {:error, %Error{reason: :deadline_exceeded}} ->
        {:error, Local.timed_out(request.opts.timeout)}

      {:error, error} ->
        {:error, failed || error}
    end
  end

  # They may be starting.
  defp look(%{opts: %{unavailable: :wait}} = request, _why, failed, true) do
    pause(request, 50, fn -> route(request, [], failed, true) end)
  end

  defp look(request, why, failed, true), do: {:error, failed || none(why, request.model)}

  defp none(:nobody, _model) do
    Error.exception(
      reason: :unavailable,
      message:
        "#{node()} knows no host that runs a scheduler: connect it to one (Node.connect/1), on which " <>
          "the application :gpu_sched is started"
    )
  end

  defp none(:model, model) do
    Error.exception(
      reason: :unknown_model,
      message: "no host that #{node()} knows has the model #{inspect(model)} ready"
    )
  end

  # All have been tried. Who said so waits, for the time that is left: where credit is what lacks, in
  # the line of the best of them.
  defp wait(%{opts: %{overload: :wait}} = request, %Error{reason: :overloaded}, asked?) do
    case Choice.pick(request.model, []) do
      {:ok, entry} ->
        # Not for all of it: another may have room before.
        limit = min(Local.remaining(request.deadline), 1_000)

        case attempt(request, entry, request.opts, limit) do
          {:error, %Error{reason: :deadline_exceeded}} = error ->
            if Local.remaining(request.deadline) == 0,
              do: error,
              else: route(request, [], nil, asked?)

          answer ->
            conclude(answer, request, entry, [], asked?)
        end

      {:none, why} ->
        look(request, why, nil, asked?)
    end
  end

  defp wait(%{opts: opts} = request, %Error{reason: reason} = error, asked?) do
    patient? =
      (opts.overload == :wait and reason in [:queue_full, :client_limit]) or
        (opts.unavailable == :wait and reason in [:unavailable, :closing, :model_not_ready])

    if patient?,
      do: pause(request, error.retry_after_ms || 50, fn -> route(request, [], nil, asked?) end),
      else: {:error, error}
  end

  defp pause(%{stop: stop, monitors: monitors} = request, ms, then) do
    receive do
      {:gpu_sched_stop, ^stop} ->
        exit(:normal)

      {:DOWN, monitor, :process, _pid, _reason} ->
        if monitor in monitors, do: exit(:normal), else: pause(request, ms, then)
    after
      min(ms, Local.remaining(request.deadline)) ->
        if Local.remaining(request.deadline) == 0,
          do: {:error, Local.timed_out(request.opts.timeout)},
          else: then.()
    end
  end

  # ---- one scheduler

  defp attempt(request, entry, opts),
    do: attempt(request, entry, %{opts | overload: :error, unavailable: :error}, :infinity)

  defp attempt(request, entry, opts, limit) do
    :counters.add(entry.sent, 1, 1)

    try do
      opts = %{
        opts
        | timeout: least(Local.remaining(request.deadline), limit),
          deadline: due(request, limit)
      }

      case Resolve.server(entry.pid) do
        {:local, ctx} ->
          # The span is that of the whole request (see GpuSched.Async).
          Local.run(ctx, request.model, request.inputs, opts, request.owner, request.stop)

        {:remote, node, pid} ->
          remote(request, entry, entry.via || node, pid, opts)

        {:error, error} ->
          {:error, error}
      end
    after
      :counters.sub(entry.sent, 1, 1)
    end
  end

  defp due(request, :infinity), do: request.deadline
  defp due(_request, _limit), do: nil

  defp least(ms, :infinity), do: ms
  defp least(:infinity, limit), do: limit
  defp least(ms, limit), do: min(ms, limit)

  defp remote(request, %{via: nil} = entry, node, pid, opts) do
    deadline = Local.due(opts)

    case Link.begin(node, pid, request.model, request.inputs, opts, deadline) do
      {:ok, asked} -> Link.await(asked, interrupts(request, entry, node, opts))
      {:error, error} -> {:error, error}
      :none -> alone(request, entry, node, pid, opts, deadline)
    end
  end

  defp remote(request, entry, node, pid, opts),
    do: alone(request, entry, node, pid, opts, Local.due(opts))

  defp interrupts(request, entry, node, opts) do
    watch = fn -> if lost?(entry), do: {:error, lost(node, opts)}, else: :go_on end
    %{stop: request.stop, monitors: request.monitors, every: {@watch_ms, watch}}
  end

  defp lost(node, opts), do: Remote.from_erpc({:erpc, :noconnection}, node, opts.timeout)

  defp alone(request, entry, node, pid, opts, deadline) do
    left = %{opts | timeout: Local.remaining(deadline)}

    with {:ok, args} <- Remote.infer_args(pid, request.model, request.inputs, left) do
      asked = :erpc.send_request(node, GpuSched, :infer, args)
      answer(asked, request, entry, node, opts, deadline)
    end
  end

  defp answer(asked, request, entry, node, opts, deadline) do
    %{stop: stop, monitors: monitors} = request

    receive do
      {:gpu_sched_stop, ^stop} ->
        exit(:normal)

      message ->
        if is_tuple(message) and elem(message, 0) == :DOWN and elem(message, 1) in monitors,
          do: exit(:normal)

        check(message, asked, request, entry, node, opts, deadline)
    after
      min(@watch_ms, Local.remaining(deadline)) ->
        cond do
          Local.remaining(deadline) == 0 ->
            abandon(asked)
            {:error, Local.timed_out(opts.timeout)}

          lost?(entry) ->
            abandon(asked)
            {:error, lost(node, opts)}

          true ->
            answer(asked, request, entry, node, opts, deadline)
        end
    end
  end

  defp check(message, asked, request, entry, node, opts, deadline) do
    case :erpc.check_response(message, asked) do
      {:response, {:ok, result}} -> Tensor.outputs(result, opts.output)
      {:response, {:error, error}} -> {:error, error}
      :no_response -> answer(asked, request, entry, node, opts, deadline)
    end
  rescue
    e in ErlangError -> {:error, Remote.from_erpc(e.original, node, opts.timeout)}
  end

  # Its machine may have stopped without a word: the connection notices that in a minute or so. One
  # that carries nothing at all, while whoever is there announces itself several times a second, is
  # given up sooner; one that is busy is not, however long it keeps announcements back. Of a host behind
  # another one, that one says when it is gone.
  defp lost?(%{via: nil, node: node}), do: Table.mute?(node)
  defp lost?(%{via: via, pid: pid}), do: Table.mute?(via) or Table.fetch(pid) == :error

  defp abandon(asked) do
    :erpc.receive_response(asked, 0)
  catch
    _kind, _reason -> :ok
  end
end
