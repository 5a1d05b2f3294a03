# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Link.Far do
  # The other side of a link, on the node that has the scheduler: what comes is handed to the owner of
  # the port as a local caller would, and answered in the order in which it is done.
  #
  # What comes in pieces is looked at before the first of them: what never fits, or does not fit now and
  # would not wait, is refused. Of those who wait no more bytes are here, for one node, than the scheduler
  # takes altogether; of the others nothing is kept. What was sent before it was known that it has to wait,
  # or is refused, is dropped.
  #
  # It is the only process here that sends to that node for its small requests; should that stop
  # reading, it is suspended, and nobody else.
  @moduledoc false

  alias GpuSched.{Admission, Encode, Error, Local, Msgpack, Options, Protocol, Resolve, Server}
  alias GpuSched.Link.{Body, Bulk, Pace}

  @version 4
  # What is gathered into one message.
  @answers 256
  @bytes 256 * 1024
  # An answer that is larger goes in pieces.
  @bulk_above 1_048_576

  # Called by the near side through :erpc.
  @spec start(pos_integer, pid) :: {:ok, pid} | {:error, :version}
  def start(@version, near) when is_pid(near) do
    pid =
      spawn(fn ->
        Process.flag(:message_queue_data, :off_heap)
        Process.monitor(near)
        share = Encode.share(node(near))

        loop(%{
          near: near,
          share: share,
          pace: Pace.new(),
          servers: %{},
          asked: %{},
          refs: %{},
          helpers: %{},
          uploads: %{},
          waiting: [],
          out: [],
          bytes: 0,
          n: 0
        })
      end)

    {:ok, pid}
  end

  def start(_version, _near), do: {:error, :version}

  # `pace`: that of what is large and goes back.
  # `servers`: name → {ctx, the entry of the client}, and the pid → its monitor and names.
  # `asked`: alias → {ref, owner, ctx, id, ticket or nil, request to post when granted}.
  # `refs`: ref of the caller → alias, or the pid of a process that deals with a large one; `helpers`
  # has those pids. `uploads`: those of them that have a request → {scheduler, bytes, :coming or :there};
  # `waiting`: requests that are to be gathered, the first one first.
  defp loop(state) do
    state =
      receive do
        message -> state |> handle(message) |> more(@answers)
      end

    loop(flush(state))
  end

  defp more(state, 0), do: state

  defp more(state, n) do
    receive do
      message -> state |> handle(message) |> more(n - 1)
    after
      0 -> state
    end
  end

  defp flush(%{out: []} = state), do: state

  defp flush(state) do
    send(state.near, {:gs_answers, :lists.reverse(state.out)})
    %{state | out: [], bytes: 0, n: 0}
  end

  # ---- from the near side

  defp handle(state, {:gs_items, items}), do: Enum.reduce(items, state, &item/2)

  defp handle(state, {:there, pid}) when is_map_key(state.uploads, pid) do
    {server, bytes, :coming} = state.uploads[pid]
    put_in(state.uploads[pid], {server, bytes, :there})
  end

  defp handle(state, {:over, pid}), do: over(state, pid)

  # To the process that takes a request apart. One that had to wait begins again.
  defp handle(state, {ref, {kind, _piece}} = message) when kind in [:gs_piece, :gs_early] do
    case state.refs do
      %{^ref => pid} when is_pid(pid) -> send(pid, message)
      _ -> :ok
    end

    state
  end

  # ---- from the owner of the port

  defp handle(state, {to, what}) when is_reference(to) and is_map_key(state.asked, to) do
    {{ref, owner, ctx, _id, ticket, waiting}, asked} = Map.pop!(state.asked, to)
    state = %{state | asked: asked}

    case {what, waiting} do
      {:granted, request} when request != nil -> post(state, ctx, request, ticket)
      {answer, _} -> answer(%{state | refs: Map.delete(state.refs, ref)}, ref, owner, answer)
    end
  end

  defp handle(%{near: near}, {:DOWN, _monitor, :process, near, _reason}), do: exit(:normal)

  defp handle(state, {:DOWN, _monitor, :process, pid, reason}) do
    cond do
      # A scheduler.
      Enum.any?(state.servers, fn {_name, {ctx, _entry}} -> ctx.server == pid end) ->
        error = {:error, Local.server_down(reason)}
        servers = Map.reject(state.servers, fn {_name, {ctx, _entry}} -> ctx.server == pid end)

        {dead, waiting} = Enum.split_with(state.waiting, &(&1.ctx.server == pid))
        state = %{state | servers: servers, waiting: waiting}

        state =
          for %{ref: ref, owner: owner} <- dead, reduce: state do
            state -> answer(%{state | refs: Map.delete(state.refs, ref)}, ref, owner, error)
          end

        for {to, {ref, owner, %{server: ^pid}, _id, _ticket, _waiting}} <- state.asked,
            reduce: state do
          state ->
            state = %{
              state
              | asked: Map.delete(state.asked, to),
                refs: Map.delete(state.refs, ref)
            }

            answer(state, ref, owner, error)
        end

      true ->
        {ref, helpers} = Map.pop(state.helpers, pid)
        %{state | helpers: helpers} |> broke(ref, reason) |> over(pid)
    end
  end

  defp handle(state, _other), do: state

  # A process that dealt with a large one has ended; whoever dropped the request is not there any more.
  defp broke(state, ref, reason) do
    {pid, refs} = Map.pop(state.refs, ref)
    state = %{state | refs: refs}

    if pid == nil or reason in [:normal, :killed] do
      state
    else
      message = "the request could not be dealt with on #{node()}: #{inspect(reason, limit: 8)}"
      answer(state, ref, nil, {:error, Error.exception(reason: :unknown, message: message)})
    end
  end

  # ---- what is asked

  defp item({:ask, ref, owner, name, entries, own_share?, bytes, body, left, wait}, state) do
    case server(state, name) do
      {{:ok, ctx, entry}, state} ->
        {entries, body, more} =
          if own_share?,
            do: {entries, body, 0},
            else: {entries + 1, [entry | body], byte_size(entry)}

        request = {ref, owner, entries, body, bytes + more, Local.from_left(left)}
        begin(state, ctx, request, wait)

      {{:error, error}, state} ->
        answer(state, ref, owner, {:error, error})
    end
  end

  defp item({:bulk, what, ref, owner, name, bytes, size, left, wait}, state) do
    case server(state, name) do
      {{:ok, ctx, _entry}, state} ->
        upload = %{
          what: what,
          ref: ref,
          owner: owner,
          ctx: ctx,
          bytes: bytes,
          size: size,
          deadline: Local.from_left(left)
        }

        case foresee(state, ctx, bytes) do
          :ok -> gather(state, upload, :now)
          {:error, error} -> gather_later(state, upload, error, wait)
        end

      {{:error, error}, state} ->
        answer(state, ref, owner, {:error, error})
    end
  end

  defp item({:drop, ref}, state) do
    case Map.pop(state.refs, ref) do
      {nil, _refs} ->
        state

      {pid, refs} when is_pid(pid) ->
        Process.exit(pid, :kill)
        %{state | refs: refs}

      {:waiting, refs} ->
        # Who is behind it may fit.
        gather_waiting(%{
          state
          | refs: refs,
            waiting: Enum.reject(state.waiting, &(&1.ref == ref))
        })

      {to, refs} ->
        {{_ref, _owner, ctx, id, ticket, waiting}, asked} = Map.pop!(state.asked, to)
        :erlang.unalias(to)

        if waiting,
          do: send(ctx.server, {:gs_give_up, ticket, nil}),
          else: Server.cancel(ctx, id, to)

        %{state | asked: asked, refs: refs}
    end
  end

  defp server(state, name) do
    case state.servers do
      %{^name => {ctx, entry}} ->
        {{:ok, ctx, entry}, state}

      _ ->
        case Resolve.server(name) do
          {:local, ctx} ->
            Process.monitor(ctx.server)

            entry =
              IO.iodata_to_binary([Msgpack.str("client"), Msgpack.str(ctx.client || state.share)])

            {{:ok, ctx, entry}, put_in(state.servers[name], {ctx, entry})}

          {:error, error} ->
            {{:error, error}, state}

          {:remote, node, _name} ->
            message = "#{inspect(name, limit: 5)} is on #{node}, and not on #{node()}"
            {{:error, Error.exception(reason: :unavailable, message: message)}, state}
        end
    end
  end

  # More than the head of a message takes, as in GpuSched.Encode.
  @head 64

  defp begin(state, ctx, {ref, owner, _entries, _body, bytes, _deadline} = request, wait) do
    limit = min(Admission.max_frame(ctx.counters), Admission.max_values(ctx.counters))

    with true <- bytes + @head <= limit || :too_large,
         :ok <- Admission.take(ctx.counters, bytes) do
      post(state, ctx, request, nil)
    else
      :too_large ->
        answer(state, ref, owner, {:error, too_large(bytes, limit)})

      {:error, error} ->
        if patient?(error, wait),
          do: queue(state, ctx, request),
          else: answer(state, ref, owner, {:error, Local.refused(ctx, error)})
    end
  end

  defp patient?(%{reason: :overloaded}, {overload, _unavailable}), do: overload
  defp patient?(%{reason: :unavailable}, {_overload, unavailable}), do: unavailable
  defp patient?(_error, _wait), do: false

  defp post(state, ctx, {ref, owner, entries, body, bytes, deadline}, ticket) do
    id = Admission.next_id(ctx.counters)
    head = Protocol.infer_head(id, entries, port_time(ctx, deadline))
    message = if bytes < 16_384, do: IO.iodata_to_binary([head | body]), else: [head | body]
    to = :erlang.alias([:reply])
    send(ctx.server, {:gs_send, id, to, owner, bytes, message, ticket})
    remember(state, to, {ref, owner, ctx, id, nil, nil})
  end

  defp port_time(_ctx, :infinity), do: nil
  defp port_time(ctx, deadline), do: Admission.port_time(ctx.counters, deadline)

  # The server takes the credit when there is some, and says so.
  defp queue(state, ctx, {ref, owner, _entries, _body, bytes, _deadline} = request) do
    ticket = make_ref()
    to = :erlang.alias([:reply])
    send(ctx.server, {:gs_wait, to, ticket, owner, bytes})
    remember(state, to, {ref, owner, ctx, nil, ticket, request})
  end

  defp remember(state, to, {ref, _, _, _, _, _} = what),
    do: %{state | asked: Map.put(state.asked, to, what), refs: Map.put(state.refs, ref, to)}

  # ---- what comes in pieces

  # Without leases all of it is a frame.
  defp foresee(state, ctx, bytes) do
    limit = Admission.max_frame(ctx.counters)

    if Admission.lease_min(ctx.counters) == 0 and limit > 0 and bytes + @head > limit,
      do: {:error, too_large(bytes, limit)},
      else: Admission.foresee(ctx.counters, bytes, coming(state, ctx))
  end

  defp too_large(bytes, limit) do
    message = "the request is #{bytes} bytes long, and a frame takes #{limit}"
    Error.exception(reason: :too_large, message: message)
  end

  # For that scheduler, in bytes; what is there has its credit, or is refused soon.
  defp coming(state, ctx) do
    Enum.sum(for {_pid, {server, n, :coming}} <- state.uploads, server == ctx.server, do: n)
  end

  # It is in the way of nobody else: a process of its own takes it apart, and waits.
  defp gather(state, upload, since) do
    %{pace: pace} = state
    far = self()
    {pid, state} = help(state, upload.ref, fn -> serve_bulk(upload, since, pace, far) end)
    put_in(state.uploads[pid], {upload.ctx.server, upload.bytes, :coming})
  end

  defp gather_later(state, upload, error, wait) do
    if patient?(error, wait) do
      state = put_in(state.refs[upload.ref], :waiting)
      gather_waiting(%{state | waiting: state.waiting ++ [upload]})
    else
      answer(state, upload.ref, upload.owner, {:error, Local.refused(upload.ctx, error)})
    end
  end

  # One that is here waits for its credit with all that it brought. So the next is let in when that is
  # over; one alone always is. Nobody is let in before one for the same scheduler that came earlier.
  defp gather_waiting(state) do
    {later, state, _full} =
      Enum.reduce(state.waiting, {[], state, []}, fn upload, {later, state, full} ->
        %{ctx: %{server: server, counters: counters}} = upload
        here = Enum.sum(for {_pid, {^server, n, _where}} <- state.uploads, do: n)
        room? = here == 0 or here + upload.bytes <= Admission.max_bytes(counters)

        if room? and server not in full,
          do: {later, gather(state, upload, :later), full},
          else: {[upload | later], state, [server | full]}
      end)

    %{state | waiting: :lists.reverse(later)}
  end

  defp over(state, pid) do
    case Map.pop(state.uploads, pid) do
      {nil, _uploads} -> state
      {_upload, uploads} -> gather_waiting(%{state | uploads: uploads})
    end
  end

  # ---- what is answered

  defp answer(state, ref, owner, payload)
       when is_binary(payload) and byte_size(payload) > @bulk_above do
    %{pace: pace} = state
    {_pid, state} = help(state, ref, fn -> send_bulk(ref, owner, payload, pace) end)
    state
  end

  defp answer(state, ref, _owner, answer) do
    bytes = if is_binary(answer), do: byte_size(answer), else: 256

    state = %{
      state
      | out: [{ref, answer} | state.out],
        bytes: state.bytes + bytes,
        n: state.n + 1
    }

    if state.bytes > @bytes or state.n >= @answers, do: flush(state), else: state
  end

  # ---- large ones, each in a process of its own

  defp help(state, ref, fun) do
    {pid, _monitor} = spawn_monitor(fun)

    {pid,
     %{state | refs: Map.put(state.refs, ref, pid), helpers: Map.put(state.helpers, pid, ref)}}
  end

  # It is the owner here; when the caller dies, or drops the request, so does this. It may have to be sent
  # again from its beginning; what comes of an earlier try is not taken.
  defp serve_bulk(upload, since, pace, far) do
    %{ref: ref, owner: owner, ctx: ctx} = upload
    monitor = Process.monitor(owner)
    send(ref, {ref, {:gs_ready, since}})

    {head, size} = upload.size
    pieces = receive_bulk(Bulk.receiver(ref, ref, size), since, monitor)
    [_name, model, inputs, opts] = Body.unpack(pieces, head)

    send(far, {:there, self()})
    watcher = watch(owner)
    opts = Keyword.put(opts, :timeout, Local.remaining(upload.deadline))
    answer = run(upload.what, ctx, model, inputs, opts)
    send(far, {:over, self()})

    case answer do
      {:raw, payload} when byte_size(payload) > @bulk_above ->
        send_bulk(ref, owner, payload, pace)

      {:raw, payload} ->
        send(ref, {ref, payload})

      {:ok, stream} ->
        send(ref, {ref, {:gs_begun, stream}})

      {:error, error} ->
        send(ref, {ref, {:error, error}})
    end

    send(watcher, :done)
  end

  # The caller decodes it.
  defp run(:infer, ctx, model, inputs, opts),
    do: Local.run(ctx, model, inputs, %{Options.infer!(opts) | output: :raw}, self(), nil)

  defp run({:stream, pid, to}, ctx, model, inputs, opts),
    do: Local.stream_to(ctx, model, inputs, pid, Options.stream_to!(opts), to)

  # Ends this process with its caller while it waits for the result.
  defp watch(owner) do
    helper = self()

    spawn(fn ->
      caller = Process.monitor(owner)
      done = Process.monitor(helper)

      receive do
        :done -> :ok
        {:DOWN, ^caller, _, _, _} -> Process.exit(helper, :kill)
        {:DOWN, ^done, _, _, _} -> :ok
      end
    end)
  end

  defp receive_bulk(%{tag: ref} = receiver, since, monitor) do
    receive do
      {^ref, {:gs_early, _piece}} when since == :later ->
        receive_bulk(receiver, since, monitor)

      {^ref, {kind, piece}} when kind in [:gs_piece, :gs_early] ->
        case Bulk.take(receiver, piece) do
          {:done, term} -> term
          {:more, receiver} -> receive_bulk(receiver, since, monitor)
        end

      {:DOWN, ^monitor, :process, _pid, _reason} ->
        exit(:normal)
    after
      Bulk.pause(receiver) -> receive_bulk(Bulk.retry(receiver), since, monitor)
    end
  end

  defp send_bulk(ref, watched, payload, pace) do
    monitor = Process.monitor(watched)
    bulk = Bulk.new([payload], pace)
    send(ref, {ref, {:gs_bulk, self(), Bulk.size(bulk)}})
    push(Bulk.start(bulk, ref, ref), ref, monitor)
  end

  defp push(bulk, ref, monitor) do
    unless Bulk.done?(bulk) do
      receive do
        {^ref, {:gs_ack, bytes}} -> bulk |> Bulk.acked(bytes) |> push(ref, monitor)
        {:DOWN, ^monitor, :process, _pid, _reason} -> exit(:normal)
      after
        Bulk.pause(bulk) -> bulk |> Bulk.retry() |> push(ref, monitor)
      end
    end
  end
end
