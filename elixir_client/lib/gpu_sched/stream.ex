# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Stream do
  # The parts of one request as a lazy enumerable. Each part that the consumer has taken lets another
  # one come; they are granted in halves of the credit, to spare messages.
  @moduledoc false

  alias GpuSched.{Error, Local, Options, Protocol, Remote, Resolve, Tensor}
  alias GpuSched.Link.Bulk

  @spec new(GenServer.server(), term, term, Options.t()) :: Enumerable.t()
  def new(server, model, inputs, opts) do
    Stream.resource(fn -> open(server, model, inputs, opts) end, &next/1, &close/1)
  end

  defp open(server, model, inputs, opts) do
    case Resolve.server(server) do
      {:local, ctx} -> open_local(ctx, model, inputs, opts)
      {:remote, node, name} -> open_remote(node, name, model, inputs, opts)
      {:error, error} -> raise error
    end
  end

  defp open_local(ctx, model, inputs, opts) do
    case Local.begin(ctx, model, inputs, opts) do
      {:ok, request} -> {:local, request, opts, 0}
      {:error, error} -> raise error
    end
  end

  defp open_remote(node, name, model, inputs, opts) do
    alias_ref = :erlang.alias([:explicit_unalias])
    deadline = Local.deadline(opts.timeout)

    case Remote.open_stream(node, name, model, inputs, alias_ref, opts) do
      {:ok, ref} ->
        monitor = Process.monitor({:rex, node})
        {:remote, {node, name, ref, alias_ref, monitor, deadline}, opts, 0, nil}

      {:error, error} ->
        :erlang.unalias(alias_ref)
        raise error
    end
  end

  defp next(:done), do: {:halt, :done}

  defp next({:local, request, opts, taken}) do
    taken = grant(taken, opts.credit, &Local.grant(request, &1))
    %{ref: ref} = request

    receive do
      {^ref, :part, payload} ->
        {[part!(Local.part(payload, opts.output))], {:local, request, opts, taken + 1}}

      {^ref, payload} ->
        Local.close(request)
        last(finish(payload), opts)

      {:DOWN, ^ref, :process, _pid, reason} ->
        Local.close(request)
        raise Local.server_down(reason)
    after
      Local.remaining(request.deadline) ->
        Local.cancel(request)
        raise Local.timed_out(opts.timeout)
    end
  end

  # `down`: what comes in pieces, of which some have come (see GpuSched.Relay.Lane).
  defp next({:remote, {node, name, ref, _alias, monitor, deadline} = remote, opts, taken, down}) do
    taken = grant(taken, opts.credit, &Remote.cast(node, :grant, [name, ref, &1]))

    receive do
      {^ref, {:part, part}} ->
        {[part!(Tensor.outputs(part, opts.output))], {:remote, remote, opts, taken + 1, nil}}

      {^ref, {:gs_bulk, lane, tag, kind, size}} ->
        next({:remote, remote, opts, taken, {kind, Bulk.receiver(lane, tag, size)}})

      {^ref, {:gs_piece, piece}} ->
        piece(piece, down, remote, opts, taken)

      {^ref, {:done, result}} ->
        end_remote(remote)
        last({:ok, result}, opts)

      {^ref, {:error, error}} ->
        end_remote(remote)
        raise error

      {:DOWN, ^monitor, _type, _object, _reason} ->
        end_remote(remote)
        raise Remote.from_erpc({:erpc, :noconnection}, node, opts.timeout)
    after
      min(Local.remaining(deadline), pause(down)) ->
        if Local.remaining(deadline) == 0, do: raise(Local.timed_out(opts.timeout))
        next({:remote, remote, opts, taken, retry(down)})
    end
  end

  defp pause(nil), do: :infinity
  defp pause({_kind, receiver}), do: Bulk.pause(receiver)

  defp retry({kind, receiver}), do: {kind, Bulk.retry(receiver)}

  defp piece(piece, {kind, receiver}, remote, opts, taken) do
    case {Bulk.take(receiver, piece), kind} do
      {{:more, receiver}, _kind} ->
        next({:remote, remote, opts, taken, {kind, receiver}})

      {{:done, pieces}, :part} ->
        part = pieces |> IO.iodata_to_binary() |> Local.part(opts.output) |> part!()
        {[part], {:remote, remote, opts, taken + 1, nil}}

      {{:done, pieces}, :done} ->
        end_remote(remote)
        pieces |> IO.iodata_to_binary() |> finish() |> last(opts)
    end
  end

  defp part!({:ok, part}), do: part
  defp part!({:error, error}), do: raise(error)

  defp grant(taken, credit, fun) do
    if taken >= max(div(credit, 2), 1) do
      fun.(taken)
      0
    else
      taken
    end
  end

  defp finish(payload) when is_binary(payload), do: Protocol.result(payload)
  defp finish({:error, error}), do: {:error, error}

  # The response carries what the last part did not: nothing, where there were parts.
  defp last({:ok, %{"outputs" => outputs} = result}, opts) when map_size(outputs) > 0,
    do: {[part!(Tensor.outputs(result, opts.output))], :done}

  defp last({:ok, _result}, _opts), do: {:halt, :done}
  defp last({:error, %Error{} = error}, _opts), do: raise(error)

  # Called when the enumeration is halted, and when it ends in whatever way.
  defp close(:done), do: :ok

  defp close({:local, request, _opts, _taken}), do: Local.cancel(request)

  defp close({:remote, {node, name, ref, _, _, _} = remote, _opts, _taken, _down}) do
    Remote.cast(node, :cancel, [name, ref])
    end_remote(remote)
  end

  defp end_remote({_node, _name, ref, alias_ref, monitor, _deadline}) do
    :erlang.unalias(alias_ref)
    Process.demonitor(monitor, [:flush])
    Local.flush(ref)
  end
end
