# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Link do
  # The way to the schedulers of another node that has this library too: a process here and one over
  # there for all callers, which gather what is asked and answered while they were busy. A request by
  # :erpc takes a process over there, and two messages that travel alone.
  #
  # The caller encodes, and decodes the answer: over there nothing is done but what a local caller's
  # message would be. What is larger than a megabyte goes in pieces, from process to process, so that
  # the next small one need not wait for all of it (see GpuSched.Link.Bulk).
  #
  # Where there is no such process, because the application is not started on both nodes or the other
  # one is older, :erpc is what is left.
  @moduledoc false

  alias GpuSched.{Admission, Context, Encode, Error, Local, Options, Remote, Telemetry, Way}
  alias GpuSched.Link.{Body, Bulk, Near}

  # What is larger goes in pieces.
  @bulk_above 1_048_576

  # How often a connection that takes nothing is tried again.
  @retry_ms 5

  # Who is refused may come again after so many ms.
  @retry_after_ms 100

  # `held` sends what could not be sent yet, because too much waits on the link. `sent`: when it was sent,
  # if the time until the answer says how long the way is: with what is large it says how large that is,
  # and who waits for credit waits over there.
  @enforce_keys [:link, :ref, :deadline, :opts, :node]
  defstruct [:link, :ref, :deadline, :opts, :node, :up, :down, :held, :sent]

  @type t :: %__MODULE__{}

  # What a caller may be interrupted by while it waits.
  @type interrupts :: %{
          optional(:stop) => reference,
          optional(:monitors) => [reference],
          optional(:every) => {ms :: pos_integer, (() -> :go_on | {:error, Error.t()})}
        }

  # Begins a request, whose owner is the calling process; :none where there is no link. `inputs` may
  # hold Nx tensors. The deadline is the caller's, which `opts.timeout` was made into: opening a link
  # takes its time from that.
  @spec begin(node, GenServer.server(), term, term, Options.t(), Local.deadline()) ::
          {:ok, t} | :none | {:error, Error.t()}
  def begin(node, name, model, inputs, opts, deadline) do
    with {:ok, link} <- fetch(node, opts, deadline),
         {:ok, request} <- encode(model, inputs, opts) do
      handle = new(node, link, opts, deadline)

      if request.bytes <= @bulk_above,
        do: ask(handle, name, request, opts),
        else:
          ask_bulk(handle, :infer, Remote.infer_args(name, model, inputs, opts), request.bytes)
    end
  end

  # Begins a stream whose inputs are large, and waits until it has begun; :none where they are not, too.
  # Its parts go to `to`, or where that is nil to `pid`, whose stream it is.
  @spec begin_stream(node, GenServer.server(), term, term, {pid, reference | nil}, Options.t()) ::
          {:ok, reference} | :none | {:error, Error.t()}
  def begin_stream(node, name, model, inputs, {pid, to}, opts) do
    deadline = Local.deadline(opts.timeout)

    # What is small needs no link, and none is opened for it.
    with {:ok, request} <- encode(model, inputs, opts),
         true <- request.bytes > @bulk_above || :none,
         {:ok, link} <- fetch(node, opts, deadline),
         args = Remote.stream_args(name, model, inputs, opts),
         handle = new(node, link, opts, deadline),
         {:ok, handle} <- ask_bulk(handle, {:stream, pid, to}, args, request.bytes),
         do: await(handle)
  end

  defp fetch(node, opts, deadline) do
    with :late <- Near.fetch(node, Local.remaining(deadline)),
         do: {:error, Local.timed_out(opts.timeout)}
  end

  defp encode(model, inputs, opts),
    do: Encode.request(context(), model, inputs, opts, nil, false)

  defp new(node, link, opts, deadline) do
    ref = :erlang.monitor(:process, link.pid, alias: :explicit_unalias)
    %__MODULE__{link: link, ref: ref, deadline: deadline, opts: opts, node: node}
  end

  defp ask(handle, name, request, opts) do
    wait = {opts.overload == :wait, opts.unavailable == :wait}
    own_share? = opts.client != nil
    %{ref: ref, deadline: deadline} = handle
    owner = self()

    way = Near.way(handle.link)
    sent = if wait == {false, false}, do: Admission.now()

    post(%{handle | sent: sent}, request.bytes, fn ->
      {:ask, ref, owner, name, request.entries, own_share?, request.bytes, request.body,
       way |> Way.due(deadline) |> Local.left(), wait}
    end)
  end

  # The other side is told how long a request it will be, and answers at once where that cannot be taken.
  # The beginning follows without waiting for that, where the last one was taken: on a long way to be told
  # takes longer than to send it. Both go straight to the process over there, in that order; a connection
  # that takes nothing is tried again later.
  defp ask_bulk(handle, what, args, bytes) do
    case args do
      {:ok, [name | _] = args} ->
        {binaries, head} = Body.pack(args)
        up = Bulk.new(binaries, handle.link.pace)
        size = {head, Bulk.size(up)}
        %{ref: ref, deadline: deadline, opts: opts} = handle
        owner = self()
        wait = {opts.overload == :wait, opts.unavailable == :wait}

        item = fn -> {:bulk, what, ref, owner, name, bytes, size, Local.left(deadline), wait} end
        offer(%{handle | up: up}, item)

      {:error, error} ->
        close(handle)
        {:error, error}
    end
  end

  # `item` makes what is sent, with the time that is left by then.
  defp offer(%{link: link, ref: ref} = handle, item) do
    if Bulk.busy?(link.far, {:gs_items, [item.()]}),
      do: {:ok, %{handle | held: &offer(&1, item)}},
      else: {:ok, %{handle | held: nil, up: Bulk.start_early(handle.up, link.far, ref)}}
  end

  defp post(handle, bytes, item) do
    case Near.post(handle.link, bytes, item.()) do
      :ok ->
        {:ok, %{handle | held: nil}}

      {:full, _waiting} when handle.opts.overload == :wait ->
        {:ok, %{handle | held: &post(&1, bytes, item)}}

      {:full, waiting} ->
        close(handle)
        {:error, Telemetry.refused(full(handle.node, bytes, waiting))}
    end
  end

  defp full(node, bytes, waiting) do
    Error.exception(
      reason: :overloaded,
      message:
        "#{waiting} bytes wait on #{node()} to be sent to #{node}, of #{Near.most_waiting()} that may, " <>
          "and there is no room for #{bytes} more: #{node} does not read, or the connection is " <>
          "slower than what is asked of it; come back later, ask for less at a time, or wait with " <>
          "overload: :wait",
      retry_after_ms: @retry_after_ms
    )
  end

  # Limits are the other side's, and checked there.
  defp context do
    case :persistent_term.get({__MODULE__, :context}, nil) do
      nil ->
        ctx = %Context{counters: GpuSched.Admission.unlimited()}
        :persistent_term.put({__MODULE__, :context}, ctx)
        ctx

      ctx ->
        ctx
    end
  end

  # Waits for what comes of it: the answer, or that the stream has begun. `exit(:normal)` on an interrupt,
  # as in GpuSched.Async: that this process ends cancels the request.
  @spec await(t, interrupts) :: {:ok, map | reference} | {:error, Error.t()}
  def await(handle, interrupts \\ %{}) do
    stop = Map.get(interrupts, :stop, :none)
    %{ref: ref} = handle

    receive do
      {^ref, message} ->
        handle |> take(message) |> go_on(interrupts)

      {:DOWN, ^ref, :process, _pid, _reason} ->
        close(handle)
        {:error, Remote.from_erpc({:erpc, :noconnection}, handle.node, handle.opts.timeout)}

      {:gpu_sched_stop, ^stop} ->
        exit(:normal)

      {:DOWN, monitor, :process, _pid, _reason} when is_map_key(interrupts, :monitors) ->
        if monitor in interrupts.monitors, do: exit(:normal), else: await(handle, interrupts)
    after
      patience(handle, interrupts) -> late(handle, interrupts)
    end
  end

  defp patience(handle, interrupts) do
    remaining = Local.remaining(handle.deadline)

    every =
      with %{every: {ms, _fun}} <- interrupts, do: min(ms, remaining), else: (_ -> remaining)

    held = if handle.held == nil, do: :infinity, else: @retry_ms
    every |> min(held) |> min(Bulk.pause(handle.up)) |> min(Bulk.pause(handle.down))
  end

  defp late(handle, interrupts) do
    handle = retry(%{handle | up: Bulk.retry(handle.up), down: Bulk.retry(handle.down)})

    case {Local.remaining(handle.deadline), interrupts} do
      {0, _} ->
        if handle.sent != nil, do: Way.learn_late(Near.way(handle.link))
        give_up(handle, Local.timed_out(handle.opts.timeout))

      {_, %{every: {_ms, fun}}} ->
        case fun.() do
          :go_on -> await(handle, interrupts)
          {:error, error} -> give_up(handle, error)
        end

      _ ->
        await(handle, interrupts)
    end
  end

  defp retry(%{held: nil} = handle), do: handle

  defp retry(%{held: again} = handle) do
    {:ok, handle} = again.(handle)
    handle
  end

  defp give_up(handle, error) do
    if handle.held == nil, do: Near.drop(handle.link, handle.ref)
    close(handle)
    {:error, error}
  end

  defp go_on({:done, handle, answer}, _interrupts) do
    close(handle)
    answer
  end

  defp go_on(handle, interrupts), do: await(handle, interrupts)

  # What comes of a request: pieces of it are wanted, pieces of the answer, the answer; a stream has begun.
  defp take(handle, payload) when is_binary(payload),
    do: {:done, handle, payload |> Local.finish(handle.opts.output) |> learn_way(handle)}

  defp take(handle, {:error, error}) do
    if handle.up != nil, do: Bulk.refused(handle.up)
    {:done, handle, {:error, error}}
  end

  defp take(handle, {:gs_begun, ref}), do: {:done, handle, {:ok, ref}}
  defp take(handle, {:gs_ready, what}), do: %{handle | up: Bulk.ready(handle.up, what)}
  defp take(handle, {:gs_ack, bytes}), do: %{handle | up: Bulk.acked(handle.up, bytes)}

  defp take(handle, {:gs_bulk, pid, size}),
    do: %{handle | down: Bulk.receiver(pid, handle.ref, size)}

  defp take(handle, {:gs_piece, piece}) do
    case Bulk.take(handle.down, piece) do
      {:more, down} -> %{handle | down: down}
      {:done, pieces} -> take(handle, IO.iodata_to_binary(pieces))
    end
  end

  defp learn_way(answer, %{sent: sent, down: nil} = handle) when sent != nil,
    do: Way.learn_from(answer, Near.way(handle.link), sent)

  defp learn_way(answer, _handle), do: answer

  # No message of it is in the mailbox, or comes later.
  defp close(%{ref: ref}) do
    :erlang.unalias(ref)
    Local.forget(ref)
  end
end
