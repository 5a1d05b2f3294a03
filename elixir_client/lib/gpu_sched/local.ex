# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Local do
  # A request to a scheduler on this node, in the process that makes it: it takes the credit,
  # encodes, writes large tensors, sends one message to the owner of the port, waits, and decodes.
  @moduledoc false

  alias GpuSched.{
    Admission,
    Context,
    Encode,
    Error,
    Options,
    Owner,
    Protocol,
    Server,
    Telemetry,
    Tensor,
    Upload,
    Way
  }

  # A request under way: what Many and Stream keep of it.
  defstruct [:ctx, :id, :ref, :deadline, :output, :sent]

  @type t :: %__MODULE__{}
  @type deadline :: integer | :infinity

  @spec deadline(timeout) :: deadline
  def deadline(:infinity), do: :infinity
  def deadline(ms), do: Admission.now() + ms * 1_000_000

  # That of a request, which may have begun to count elsewhere.
  @spec due(Options.t()) :: deadline
  def due(%Options{deadline: nil, timeout: timeout}), do: deadline(timeout)
  def due(%Options{deadline: deadline}), do: deadline

  @spec remaining(deadline) :: timeout
  def remaining(:infinity), do: :infinity
  def remaining(deadline), do: max(div(deadline - Admission.now() + 999_999, 1_000_000), 0)

  # The same for another node, whose clock is another: in µs, since that is what is lost each time.
  @spec left(deadline) :: non_neg_integer | :infinity
  def left(:infinity), do: :infinity
  def left(deadline), do: max(div(deadline - Admission.now(), 1_000), 0)

  @spec from_left(non_neg_integer | :infinity) :: deadline
  def from_left(:infinity), do: :infinity
  def from_left(us), do: Admission.now() + us * 1_000

  # ---- one result

  # `stop`: a reference; the message {:gpu_sched_stop, stop} cancels (see Async).
  @spec infer(Context.t(), term, term, Options.t(), pid, reference | nil) ::
          {:ok, map} | {:error, Error.t()}
  def infer(ctx, model, inputs, opts, owner \\ Owner.current(), stop \\ nil) do
    if Telemetry.available?() do
      Telemetry.infer(ctx.server, model, fn -> run(ctx, model, inputs, opts, owner, stop) end)
    else
      run(ctx, model, inputs, opts, owner, stop)
    end
  end

  # The same, for those who have told of it, or do so elsewhere.
  @spec run(Context.t(), term, term, Options.t(), pid, reference | nil) ::
          {:ok, map} | {:raw, binary} | {:error, Error.t()}
  def run(ctx, model, inputs, opts, owner, stop) do
    deadline = due(opts)

    with {:ok, request, ticket} <- prepare(ctx, model, inputs, opts, owner, deadline, stop) do
      id = Admission.next_id(ctx.counters)
      message = message(ctx, request, id, deadline)
      ref = :erlang.monitor(:process, ctx.server, alias: :reply_demonitor)
      sent = Admission.now()
      send(ctx.server, {:gs_send, id, ref, owner, request.bytes, message, ticket})

      receive do
        {^ref, payload} ->
          payload |> finish(opts.output) |> Way.learn_from(Admission.way(ctx.counters), sent)

        {:DOWN, ^ref, :process, _pid, reason} ->
          {:error, server_down(reason)}

        {:gpu_sched_stop, ^stop} when is_reference(stop) ->
          abandon(ctx, id, ref)
          {:error, Error.exception(reason: :cancelled)}
      after
        remaining(deadline) ->
          abandon(ctx, id, ref)
          Way.learn_late(Admission.way(ctx.counters))
          {:error, timed_out(opts.timeout)}
      end
    end
  end

  # ---- a request that is waited for elsewhere

  # Sends a request whose answer comes as {ref, payload}; with `opts.credit`, its parts before that
  # as {ref, :part, payload}.
  @spec begin(Context.t(), term, term, Options.t()) :: {:ok, t} | {:error, Error.t()}
  def begin(ctx, model, inputs, opts) do
    deadline = deadline(opts.timeout)
    owner = Owner.current()

    with {:ok, request, ticket} <- prepare(ctx, model, inputs, opts, owner, deadline, nil) do
      id = Admission.next_id(ctx.counters)
      message = message(ctx, request, id, deadline)
      ref = :erlang.monitor(:process, ctx.server, alias: :explicit_unalias)
      sent = Admission.now()
      send(ctx.server, {:gs_send, id, ref, owner, request.bytes, message, ticket})

      {:ok,
       %__MODULE__{
         ctx: ctx,
         id: id,
         ref: ref,
         deadline: deadline,
         output: opts.output,
         sent: sent
       }}
    end
  end

  # After its end: no message of it can come any more.
  @spec close(t) :: :ok
  def close(%__MODULE__{ref: ref}) do
    :erlang.unalias(ref)
    Process.demonitor(ref, [:flush])
    :ok
  end

  @spec cancel(t) :: :ok
  def cancel(%__MODULE__{ctx: ctx, id: id, ref: ref}) do
    :erlang.unalias(ref)
    abandon(ctx, id, ref)
  end

  @spec grant(t, pos_integer) :: :ok
  def grant(%__MODULE__{ctx: ctx, id: id, ref: ref}, n), do: Server.grant(ctx, id, ref, n)

  # Begins a request whose parts and end go to `pid` through the relay of its node.
  @spec stream_to(Context.t(), term, term, pid, Options.t(), reference | nil) ::
          {:ok, reference} | {:error, Error.t()}
  def stream_to(ctx, model, inputs, pid, opts, to \\ nil) do
    deadline = deadline(opts.timeout)

    with {:ok, request, ticket} <- prepare(ctx, model, inputs, opts, pid, deadline, nil) do
      id = Admission.next_id(ctx.counters)
      message = message(ctx, request, id, deadline)
      ref = make_ref()
      stream = {:relay, ref, pid, to || pid, opts.output, deadline}
      send(ctx.server, {:gs_send, id, stream, pid, request.bytes, message, ticket})
      {:ok, ref}
    end
  end

  # ---- the steps

  # Encodes, takes the credit, and writes what goes by a lease. `ticket` is nil where this process
  # took the credit itself, else the name under which the server holds it for us.
  defp prepare(ctx, model, inputs, opts, owner, deadline, stop) do
    with {:ok, request} <- Encode.request(ctx, model, inputs, opts, owner),
         {:ok, ticket} <- take(ctx, request.bytes, owner, opts, deadline, stop) do
      if request.uploads == [] do
        {:ok, request, ticket}
      else
        whole = fn -> Encode.request(ctx, model, inputs, opts, owner, false) end

        case Upload.run(ctx, request, ticket, owner, deadline, whole) do
          {:error, %Error{reason: :unavailable} = error} ->
            upload_again(error, ctx, request, whole, owner, opts, deadline, stop)

          other ->
            other
        end
      end
    end
  end

  # sched-port ended under a request that was being written. Like one that had been sent it goes to
  # the next sched-port, once.
  defp upload_again(error, ctx, request, whole, owner, opts, deadline, stop) do
    with true <- Process.alive?(ctx.server),
         {:ok, ticket} <- wait(ctx, request.bytes, owner, opts, deadline, stop) do
      Upload.run(ctx, request, ticket, owner, deadline, whole)
    else
      false -> {:error, error}
      {:error, error} -> {:error, error}
    end
  end

  defp take(ctx, bytes, owner, opts, deadline, stop) do
    case Admission.take(ctx.counters, bytes) do
      :ok ->
        {:ok, nil}

      {:error, %{reason: :overloaded}} when opts.overload == :wait ->
        wait(ctx, bytes, owner, opts, deadline, stop)

      {:error, %{reason: :unavailable}} when opts.unavailable == :wait ->
        wait(ctx, bytes, owner, opts, deadline, stop)

      {:error, error} ->
        {:error, refused(ctx, error)}
    end
  end

  # Counts and tells of one that is not taken.
  @spec refused(Context.t(), Error.t()) :: Error.t()
  def refused(ctx, error) do
    if error.reason == :overloaded, do: Admission.count_refused(ctx.counters)
    Telemetry.refused(error)
  end

  # Queues at the server, which takes the credit for us when there is some.
  defp wait(ctx, bytes, owner, opts, deadline, stop) do
    ticket = make_ref()
    ref = :erlang.monitor(:process, ctx.server, alias: :reply_demonitor)
    send(ctx.server, {:gs_wait, ref, ticket, owner, bytes})

    receive do
      {^ref, :granted} ->
        {:ok, ticket}

      {^ref, {:error, error}} ->
        {:error, error}

      {:DOWN, ^ref, :process, _pid, reason} ->
        {:error, server_down(reason)}

      {:gpu_sched_stop, ^stop} when is_reference(stop) ->
        give_up(ctx, ref, ticket)
        {:error, Error.exception(reason: :cancelled)}
    after
      remaining(deadline) ->
        give_up(ctx, ref, ticket)
        {:error, timed_out(opts.timeout)}
    end
  end

  defp give_up(ctx, ref, ticket) do
    forget(ref)
    send(ctx.server, {:gs_give_up, ticket, nil})
  end

  defp message(ctx, request, id, deadline) do
    message = Encode.message(request, id, Admission.port_deadline(ctx.counters, deadline))
    if request.lease, do: {:leased, request.lease, message, request.uploads}, else: message
  end

  defp abandon(ctx, id, ref) do
    forget(ref)
    Server.cancel(ctx, id, ref)
  end

  # No message with this reference is in the mailbox, or comes later.
  @spec forget(reference) :: :ok
  def forget(ref) do
    Process.demonitor(ref, [:flush])
    flush(ref)
  end

  # What has come with this reference.
  @spec flush(reference) :: :ok
  def flush(ref) do
    receive do
      {^ref, _} -> flush(ref)
      {^ref, _, _} -> flush(ref)
    after
      0 -> :ok
    end
  end

  # From what the server sent to what the caller gets; :raw is for who passes it on.
  @spec finish(binary | {:error, Error.t()}, :binary | :list | :nx | :raw) ::
          {:ok, map} | {:raw, binary} | {:error, Error.t()}
  def finish(payload, :raw) when is_binary(payload), do: {:raw, payload}

  def finish(payload, output) when is_binary(payload) do
    with {:ok, result} <- Protocol.result(payload), do: Tensor.outputs(result, output)
  end

  def finish({:error, error}, _output), do: {:error, error}

  @spec part(binary, :binary | :list | :nx) :: {:ok, map} | {:error, Error.t()}
  def part(payload, output) do
    with {:ok, part} <- Protocol.part(payload), do: Tensor.outputs(part, output)
  end

  @spec timed_out(timeout) :: Error.t()
  def timed_out(timeout) do
    Error.exception(
      reason: :deadline_exceeded,
      status: -102,
      message: "the request was not done within #{timeout} ms and was cancelled"
    )
  end

  @spec server_down(term) :: Error.t()
  def server_down(reason) do
    Error.exception(
      reason: :unavailable,
      message: "the scheduler ended while the request was in flight: #{inspect(reason, limit: 8)}"
    )
  end
end
