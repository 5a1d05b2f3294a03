# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server do
  # The owner of the port. It writes frames, reads frames and dispatches, and does nothing else:
  #
  #   * it never decodes what a message carries, and never sends to another node (GpuSched.Relay
  #     does);
  #   * it takes what its mailbox holds, up to a limit, and writes it as one frame; it never waits
  #     for more, so a lone request leaves at once;
  #   * it keeps what is in flight until that is answered, so that it can be sent again to a new
  #     sched-port, and gives the credit of it back, whoever is still there to hear of it;
  #   * it watches the owners of requests, with one monitor each.
  #
  # Every caller's side of this conversation is in GpuSched.Local, GpuSched.Upload and the
  # functions at the top of this module.
  @moduledoc false
  use GenServer

  require Logger
  require Record

  alias GpuSched.{
    Admission,
    Context,
    Directory,
    Encode,
    Error,
    Executable,
    Local,
    Msgpack,
    OsProcess,
    Owners,
    Protocol,
    Relay,
    Telemetry,
    Upload
  }

  # Messages that are taken into one frame.
  @batch 256
  # A payload below this is copied out of the frame it shares with others.
  @copy_below 64 * 1024
  # How long a killed sched-port may take to be gone.
  @kill_ms 5_000
  # A sched-port that lived so long has its next restart begin with the shortest pause again.
  @stable_ms 10_000
  # For how many ticks credit has to be nobody's before it is given back.
  @leak_ticks 5

  # A request in flight.
  #   to      whom it is answered: an alias; {:relay, ref, pid, to, output, deadline}; nil: nobody
  #   kind    :infer or a kind of call, see call/7
  #   bytes   of credit; nil for what takes none
  #   frame   the number of the frame it was sent in; -1: not sent yet
  #   message as it is sent
  #   leased  {lease, segments, uploads}: what makes the message once the lease is known
  #   state   :fresh, :again (sent a second time), :parted (parts of it were delivered)
  Record.defrecordp(:entry, [
    :to,
    :owner,
    :kind,
    :bytes,
    :message,
    :leased,
    frame: -1,
    state: :fresh
  ])

  defstruct [
    :opts,
    :ctx,
    :counters,
    :port,
    :process,
    :hello,
    :restart_timer,
    :restart_ms,
    :up_since,
    status: :starting,
    frame: 0,
    out: [],
    out_bytes: 0,
    pending: %{},
    renamed: %{},
    streams: %{},
    owners: %{},
    relays: %{},
    waiting: %{},
    queue: :queue.new(),
    reservations: %{},
    uploaders: %{},
    models: [],
    free_requests: 0,
    free_bytes: 0,
    done: 0,
    large: 0,
    heard: true,
    silent: 0,
    leak: nil
  ]

  # ---------------------------------------------------------------------------------- for callers

  @spec start_link(map) :: GenServer.on_start()
  def start_link(%{name: nil} = opts),
    do: GenServer.start_link(__MODULE__, opts, timeout: :infinity)

  def start_link(%{name: name} = opts),
    do: GenServer.start_link(__MODULE__, opts, name: name, timeout: :infinity)

  # A request to sched-port that is no infer. Kinds:
  #   :plain                      answered with :unavailable when the port dies
  #   :patient                    waits for the next port, and is sent again
  #   {:lease, nil | {ticket, bytes}}   the credit of a request is kept under `ticket`
  #   {:load, name, params}, {:unload, name}     the models to load again change with its success
  @spec call(Context.t(), String.t(), non_neg_integer, iodata, term, pid, Local.deadline()) ::
          {:ok, term} | {:error, Error.t()}
  def call(ctx, method, n, params, kind, owner, deadline) do
    id = Admission.next_id(ctx.counters)
    message = IO.iodata_to_binary(Protocol.request(id, method, n, params))
    ref = :erlang.monitor(:process, ctx.server, alias: :reply_demonitor)
    send(ctx.server, {:gs_call, id, ref, owner, message, kind})

    receive do
      {^ref, payload} when is_binary(payload) ->
        Protocol.result(payload)

      {^ref, {:error, error}} ->
        {:error, error}

      {:DOWN, ^ref, :process, _pid, reason} ->
        {:error, Local.server_down(reason)}
    after
      Local.remaining(deadline) ->
        Local.forget(ref)
        cancel(ctx, id, ref)

        {:error,
         Error.exception(
           reason: :deadline_exceeded,
           message: "sched-port did not answer #{method} in time"
         )}
    end
  end

  @spec notify(Context.t(), iodata) :: :ok
  def notify(ctx, message), do: tell(ctx, {:gs_notify, message})

  @spec cancel(Context.t(), non_neg_integer, reference) :: :ok
  def cancel(ctx, id, ref), do: tell(ctx, {:gs_cancel, id, ref})

  @spec grant(Context.t(), non_neg_integer, reference, pos_integer) :: :ok
  def grant(ctx, id, ref, n), do: tell(ctx, {:gs_grant, id, ref, n})

  @spec cancel_stream(Context.t(), reference) :: :ok
  def cancel_stream(ctx, ref), do: tell(ctx, {:gs_cancel_stream, ref})

  @spec grant_stream(Context.t(), reference, pos_integer) :: :ok
  def grant_stream(ctx, ref, n), do: tell(ctx, {:gs_grant_stream, ref, n})

  defp tell(ctx, message) do
    send(ctx.server, message)
    :ok
  end

  # -------------------------------------------------------------------------------- start and end

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)
    Process.flag(:message_queue_data, :off_heap)
    Code.ensure_loaded(:telemetry)

    counters = Admission.new()
    ctx = %Context{server: self(), counters: counters, client: opts.client}
    {min, _max} = opts.restart_backoff

    state = %__MODULE__{
      opts: opts,
      ctx: ctx,
      counters: counters,
      restart_ms: min,
      models: opts.models
    }

    with {:ok, path} <- Executable.find(opts.port_path),
         state = open(state, path),
         {:ok, state, frame} <- await_hello(state, path, now_ms() + opts.start_timeout),
         :ok <- Directory.register(ctx) do
      state = state |> receive_frame(frame) |> flush()
      tick_later(state)
      {:ok, state}
    else
      {:error, error} ->
        close_port(state)
        {:stop, error}
    end
  end

  # The first message of the first frame is the hello; the frame is handled once that is known to be
  # acceptable.
  defp await_hello(%{port: port} = state, path, deadline) do
    receive do
      {^port, {:data, frame}} ->
        case Protocol.next(frame) do
          {:notification, "hello", params, _rest} ->
            case Protocol.hello(params, Admission.now()) do
              {:ok, _hello} -> {:ok, state, frame}
              {:error, what} -> refuse_hello(state, path, what)
            end

          _ ->
            refuse_hello(state, path, "the first thing it said was no hello")
        end

      {^port, {:exit_status, status}} ->
        {:error, Executable.start_failure(path, Executable.args(state.opts.port_options), status)}

      {:EXIT, ^port, reason} ->
        {:error, Executable.start_failure(path, [], "its port closed: #{inspect(reason)}")}

      {:EXIT, _parent, reason} ->
        close_port(state)
        exit(reason)
    after
      max(deadline - now_ms(), 0) ->
        refuse_hello(
          state,
          path,
          "it said nothing within start_timeout (#{state.opts.start_timeout} ms)"
        )
    end
  end

  defp refuse_hello(state, path, what) do
    OsProcess.kill(state.process)

    {:error,
     Error.exception(
       reason: :start_failed,
       message: "#{path} cannot be used as sched-port: #{what}"
     )}
  end

  defp open(state, path) do
    port =
      Port.open({:spawn_executable, path}, [
        :binary,
        :nouse_stdio,
        :exit_status,
        :hide,
        packet: 4,
        args: Executable.args(state.opts.port_options),
        env: for({k, v} <- state.opts.port_env, do: {to_charlist(k), to_charlist(v)}),
        # What may be in flight is bounded by the credit; this process must not be suspended.
        busy_limits_port: :disabled,
        busy_limits_msgq: :disabled
      ])

    %{state | port: port, process: OsProcess.of_port(port), status: :starting, frame: 0}
  end

  defp close_port(%{port: nil}), do: :ok

  defp close_port(%{port: port}) do
    Port.close(port)
    :ok
  rescue
    ArgumentError -> :ok
  end

  # Refuse, drain, close, see the exit.
  @impl true
  def terminate(reason, state) do
    Admission.set_state(state.counters, :closing)
    if state.restart_timer, do: Process.cancel_timer(state.restart_timer)
    deadline = shutdown_deadline(state.opts.shutdown)

    state =
      if state.status == :up and orderly?(reason),
        do: drain(state, deadline),
        else: state

    Enum.each(state.pending, fn {_id, e} -> answer_closing(state, e) end)
    close_port(state)

    unless OsProcess.await_exit(state.process, 1_000), do: OsProcess.kill(state.process)
    Enum.each(state.relays, fn {_node, relay} -> Relay.stop(relay) end)
    :ok
  end

  defp orderly?(reason), do: reason in [:normal, :shutdown] or match?({:shutdown, _}, reason)

  defp shutdown_deadline(:infinity), do: :infinity
  defp shutdown_deadline(ms), do: now_ms() + max(ms - 1_000, div(ms, 2))

  defp drain(state, deadline) do
    state = %{state | status: :closing}

    state =
      Enum.reduce(state.waiting, state, fn {ticket, w}, s -> refuse_waiting(s, ticket, w) end)

    state = state |> own_call("drain", 0, [], :drain) |> flush()
    drain_loop(state, deadline)
  end

  # Until nothing is in flight, or the time is over.
  defp drain_loop(%{pending: pending} = state, _deadline) when map_size(pending) == 0, do: state

  defp drain_loop(%{port: port} = state, deadline) do
    receive do
      {^port, {:data, frame}} ->
        state |> receive_frame(frame) |> flush() |> drain_loop(deadline)

      {^port, {:exit_status, _status}} ->
        state

      {:EXIT, ^port, _reason} ->
        state

      message when is_tuple(message) ->
        message |> handle(state) |> flush() |> drain_loop(deadline)
    after
      drain_ms(deadline) -> state
    end
  end

  defp drain_ms(:infinity), do: :infinity
  defp drain_ms(deadline), do: max(deadline - now_ms(), 0)

  # -------------------------------------------------------------------------------------- the loop

  @impl true
  def handle_info(message, state),
    do: {:noreply, message |> handle(state) |> more(@batch) |> flush()}

  # Takes what is there already. Everything that comes often is taken in the order in which it
  # came; the rest waits for its turn.
  defp more(state, 0), do: state

  defp more(%{port: port} = state, n) do
    receive do
      {:gs_send, _, _, _, _, _, _} = m -> m |> handle(state) |> more(n - 1)
      {^port, {:data, frame}} -> state |> receive_frame(frame) |> more(n - 1)
      {:gs_call, _, _, _, _, _} = m -> m |> handle(state) |> more(n - 1)
      {:gs_grant, _, _, _} = m -> m |> handle(state) |> more(n - 1)
      {:DOWN, _, :process, _, _} = m -> m |> handle(state) |> more(n - 1)
      {:gs_cancel, _, _} = m -> m |> handle(state) |> more(n - 1)
    after
      0 -> state
    end
  end

  # Requests of callers.
  defp handle({:gs_send, id, to, owner, bytes, message, ticket}, state) do
    state = settle(state, ticket, bytes)
    e = entry(to: to, owner: owner, kind: :infer, bytes: bytes)

    case message do
      {:leased, lease, segments, uploads} ->
        leased = {lease, segments, uploads}
        e = entry(e, message: Encode.lease(segments, lease), leased: leased)
        accept(state, id, e, lease_valid?(state, ticket))

      message ->
        accept(state, id, entry(e, message: message), true)
    end
    |> forget_reservation(ticket)
  end

  defp handle({:gs_call, id, to, owner, message, kind}, state) do
    state = reserve_for_lease(state, kind, owner)
    e = entry(to: to, owner: owner, kind: kind, message: message)

    cond do
      state.status == :up -> accept(state, id, e, true)
      state.status == :closing -> refuse(state, e, Error.exception(reason: :closing))
      kind == :patient -> accept(state, id, e, true)
      true -> refuse(state, e, Admission.unavailable(state.status, restart_in(state)))
    end
  end

  defp handle({:gs_wait, to, ticket, owner, bytes}, state) do
    cond do
      state.status == :closing ->
        reply(to, {:error, Error.exception(reason: :closing)})
        state

      map_size(state.waiting) >= state.opts.max_waiting ->
        why = "#{map_size(state.waiting)} callers are waiting already (max_waiting)"
        reply(to, {:error, Admission.overloaded(state.counters, why)})
        state

      true ->
        Admission.add_waiting(state.counters, 1)
        state = track(state, owner)

        grant_waiting(%{
          state
          | waiting: Map.put(state.waiting, ticket, {to, owner, bytes}),
            queue: :queue.in(ticket, state.queue)
        })
    end
  end

  # The caller does not want to wait, or to go on after it waited or wrote, any more.
  defp handle({:gs_give_up, ticket, lease}, state) do
    state = if lease, do: write(state, Protocol.lease_release(lease)), else: state
    state |> forget_waiting(ticket) |> release_reservation(ticket)
  end

  defp handle({:gs_notify, message}, %{status: :up} = state), do: write(state, message)
  defp handle({:gs_notify, _message}, state), do: state

  defp handle({:gs_cancel, id, ref}, state) do
    case find(state, id, ref) do
      {:ok, id, e} -> cancel_entry(state, id, e)
      :error -> state
    end
  end

  defp handle({:gs_grant, id, ref, n}, state) do
    case find(state, id, ref) do
      {:ok, id, entry(frame: frame)} when frame >= 0 -> write(state, Protocol.grant(id, n))
      _ -> state
    end
  end

  defp handle({:gs_cancel_stream, ref}, state) do
    with {:ok, id} <- Map.fetch(state.streams, ref),
         {:ok, e} <- Map.fetch(state.pending, id) do
      state
      |> deliver_error(e, Error.exception(reason: :cancelled))
      |> cancel_entry(id, e)
    else
      :error -> state
    end
  end

  defp handle({:gs_grant_stream, ref, n}, state) do
    case Map.fetch(state.streams, ref) do
      {:ok, id} -> write(state, Protocol.grant(id, n))
      :error -> state
    end
  end

  # The port.
  defp handle({port, {:data, frame}}, %{port: port} = state), do: receive_frame(state, frame)

  defp handle({port, {:exit_status, status}}, %{port: port} = state),
    do: port_down(state, Executable.describe(status))

  defp handle({:EXIT, port, reason}, %{port: port} = state),
    do: port_down(state, "its port closed: #{inspect(reason, limit: 8)}")

  defp handle(:restart, state), do: restart(%{state | restart_timer: nil})

  defp handle({:start_timeout, port}, %{port: port, status: :starting} = state),
    do: give_port_up(state, "it said nothing within start_timeout")

  defp handle({:kill_timeout, port}, %{port: port, status: :dying} = state) do
    close_port(state)
    port_down(state, "it did not end when it was killed")
  end

  # Owners.
  defp handle({:DOWN, _monitor, :process, pid, _reason}, state), do: owner_down(state, pid)
  defp handle({:gs_owner_down, pid}, state), do: owner_down(state, pid)

  # Processes of ours.
  defp handle({:EXIT, pid, reason}, state) when is_pid(pid), do: child_down(state, pid, reason)

  defp handle({:gs_uploaded, id, pid, result}, state), do: uploaded(state, id, pid, result)
  defp handle(:tick, state), do: tick(state)

  defp handle({:DOWN, _monitor, _type, _object, _reason}, state), do: state
  defp handle({:EXIT, port, _reason}, state) when is_port(port), do: state
  defp handle({port, _data}, state) when is_port(port), do: state
  defp handle({kind, _port}, state) when kind in [:start_timeout, :kill_timeout], do: state

  defp handle(other, state) do
    Logger.warning(
      "#{name(state)} was sent something it does not know: #{inspect(other, limit: 5)}"
    )

    state
  end

  @impl true
  def handle_call(request, _from, state) do
    Logger.warning("#{name(state)} was called with #{inspect(request, limit: 5)}")
    {:reply, {:error, Error.exception(reason: :not_supported)}, state}
  end

  @impl true
  def handle_cast(message, state), do: handle_info(message, state)

  # What is in flight is the users' data, and much: it is not for a log. (Elixir knows this callback
  # of OTP from 1.17 on.)
  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)

  def format_status(status) do
    status
    |> Map.replace(:message, :hidden)
    |> Map.replace(:log, [])
    |> Map.update(:state, nil, &%{status: &1.status, in_flight: map_size(&1.pending)})
  end

  # ------------------------------------------------------------------------------- what is in flight

  defp accept(state, id, e, sendable?) do
    case state do
      %{status: :closing} ->
        refuse(state, e, Error.exception(reason: :closing))

      %{pending: pending} when is_map_key(pending, id) ->
        # After 2^32 others, one that is still in flight.
        id = Admission.next_id(state.counters)
        state = %{state | renamed: Map.put(state.renamed, entry(e, :to), id)}
        accept(state, id, entry(e, message: Protocol.put_id(entry(e, :message), id)), sendable?)

      _ ->
        state = state |> track(entry(e, :owner)) |> remember_stream(id, e)

        cond do
          not sendable? -> upload_again(put(state, id, e), id, e)
          state.status == :up -> send_entry(state, id, e)
          true -> put(state, id, e)
        end
    end
  end

  defp put(state, id, e), do: %{state | pending: Map.put(state.pending, id, e)}

  # Into the frame that is being gathered, whose number it notes.
  defp send_entry(state, id, entry(message: message) = e) do
    state = write(state, message)
    put(state, id, entry(e, frame: state.frame))
  end

  defp track(state, owner) do
    state = ensure_relay(state, owner)
    %{state | owners: Owners.track(state.owners, owner, &watcher(state, &1))}
  end

  defp remember_stream(state, id, entry(to: {:relay, ref, pid, _to, _output, _deadline})),
    do: %{ensure_relay(state, node(pid), :always) | streams: Map.put(state.streams, ref, id)}

  defp remember_stream(state, _id, _e), do: state

  # Its end: the credit is free, and its owner has one less. What is freed is counted up, and given
  # back at the end of the turn.
  defp forget(state, id, entry(owner: owner, bytes: bytes) = e) do
    state = %{
      state
      | pending: Map.delete(state.pending, id),
        owners: Owners.untrack(state.owners, owner),
        done: state.done + 1
    }

    state = state |> forget_stream(e) |> forget_name(e)

    if bytes,
      do: %{
        state
        | free_requests: state.free_requests + 1,
          free_bytes: state.free_bytes + bytes
      },
      else: state
  end

  defp forget_name(%{renamed: renamed} = state, _e) when map_size(renamed) == 0, do: state
  defp forget_name(state, entry(to: to)), do: %{state | renamed: Map.delete(state.renamed, to)}

  defp forget_stream(state, entry(to: {:relay, ref, _, _, _, _})),
    do: %{state | streams: Map.delete(state.streams, ref)}

  defp forget_stream(state, _e), do: state

  # Its reference must be the same: the id may have been changed, or be somebody else's by now.
  defp find(state, id, ref) do
    id = Map.get(state.renamed, ref, id)

    case state.pending do
      %{^id => entry(to: ^ref) = e} -> {:ok, id, e}
      _ -> :error
    end
  end

  # Nobody waits for it any more. One that was sent is kept until it is answered, because until
  # then its memory is in use over there.
  defp cancel_entry(state, id, entry(frame: frame, kind: kind) = e) do
    cond do
      frame < 0 ->
        state |> stop_uploader(id) |> forget(id, e)

      kind == :infer ->
        state |> forget_stream(e) |> put(id, entry(e, to: nil)) |> write(Protocol.cancel(id))

      true ->
        put(state, id, entry(e, to: nil))
    end
  end

  # Answers what was not accepted, and gives its credit back.
  defp refuse(state, entry(bytes: bytes, kind: kind) = e, error) do
    state = deliver_error(state, e, error)
    if bytes, do: Admission.give(state.counters, 1, bytes)

    case kind do
      {:lease, {ticket, _bytes}} -> release_reservation(state, ticket)
      _ -> state
    end
  end

  defp fail(state, id, e, error) do
    state |> deliver_error(e, error) |> forget(id, e)
  end

  # ---- answers

  defp deliver(state, entry(to: to), payload) when is_reference(to) do
    reply(to, payload)
    state
  end

  defp deliver(state, entry(to: {:relay, ref, pid, to, output, _deadline}), payload) do
    state = ensure_relay(state, node(pid), :always)
    relay = Map.fetch!(state.relays, node(pid))
    Relay.deliver(relay, {ref, to, output}, {:done, payload}, byte_size(payload))
    state
  end

  defp deliver(state, _e, _payload), do: state

  defp deliver_error(state, entry(to: to), error) when is_reference(to) do
    reply(to, {:error, error})
    state
  end

  defp deliver_error(state, entry(to: {:relay, ref, pid, to, output, _deadline}), error) do
    state = ensure_relay(state, node(pid), :always)
    Relay.deliver(Map.fetch!(state.relays, node(pid)), {ref, to, output}, {:error, error}, 256)
    state
  end

  defp deliver_error(state, _e, _error), do: state

  defp reply(to, what) do
    send(to, {to, what})
    :ok
  end

  defp answer_closing(state, e),
    do: deliver_error(state, e, Error.exception(reason: :closing))

  # ------------------------------------------------------------------------------------ frames out

  defp write(%{status: status} = state, message) when status in [:up, :closing] do
    size = IO.iodata_length(message)

    if state.out_bytes + size > state.hello.max_frame and state.out != [] do
      state = flush_frame(state)
      %{state | out: [message], out_bytes: size}
    else
      %{state | out: [message | state.out], out_bytes: state.out_bytes + size}
    end
  end

  defp write(state, _message), do: state

  # The end of a turn: what was gathered leaves, and what became free is given back.
  defp flush(state) do
    state = flush_frame(state)

    if state.free_requests > 0 or state.free_bytes > 0 do
      Admission.give(state.counters, state.free_requests, state.free_bytes)
      state = %{state | free_requests: 0, free_bytes: 0}
      if map_size(state.waiting) > 0, do: state |> grant_waiting() |> flush_frame(), else: state
    else
      state
    end
  end

  defp flush_frame(%{out: []} = state), do: state

  defp flush_frame(%{out: out, port: port} = state) do
    try do
      Port.command(port, :lists.reverse(out))
    rescue
      # It closed a moment ago; its exit is in the mailbox, and what is in flight is sent again.
      ArgumentError -> :ok
    end

    %{state | out: [], out_bytes: 0, frame: state.frame + 1}
  end

  # ------------------------------------------------------------------------------------- frames in

  defp receive_frame(%{status: :dying} = state, _frame), do: state

  defp receive_frame(state, frame) do
    state =
      if byte_size(frame) > @copy_below,
        do: %{state | heard: true, large: state.large + byte_size(frame)},
        else: %{state | heard: true}

    receive_messages(state, frame, byte_size(frame))
  end

  defp receive_messages(state, binary, size) do
    case Protocol.next(binary) do
      {:response, id, payload, rest} ->
        state |> response(id, own(payload, size)) |> receive_messages(rest, size)

      {:part, id, payload, rest} ->
        state |> part(id, own(payload, size)) |> receive_messages(rest, size)

      {:notification, method, params, rest} ->
        state |> notification(method, params) |> receive_messages(rest, size)

      :end ->
        state

      {:error, what} ->
        give_port_up(state, "it sent #{what}")
    end
  end

  # A small payload must not keep the frame alive that it shares with others.
  defp own(payload, frame)
       when byte_size(payload) + 64 < frame and byte_size(payload) < @copy_below,
       do: :binary.copy(payload)

  defp own(payload, _frame), do: payload

  defp response(%{pending: pending} = state, id, payload) do
    case pending do
      %{^id => entry(kind: :infer) = e} -> state |> deliver(e, payload) |> forget(id, e)
      %{^id => e} -> state |> called(e, payload) |> deliver(e, payload) |> forget(id, e)
      _ -> state
    end
  end

  # What the answer to a call changes here.
  defp called(state, entry(kind: kind, owner: owner) = e, payload) do
    case kind do
      {:load, name, params} ->
        if Protocol.success?(payload),
          do: %{state | models: List.keystore(state.models, name, 0, {name, params})},
          else: state

      {:unload, name} ->
        if Protocol.success?(payload),
          do: %{state | models: List.keydelete(state.models, name, 0)},
          else: state

      {:reload, name} ->
        report_reload(state, name, payload)

      {:lease, {ticket, _bytes}} ->
        if Protocol.success?(payload) and is_nil(entry(e, :to)),
          do: release_reservation(state, ticket),
          else: keep_reservation(state, ticket, owner)

      _ ->
        state
    end
  end

  defp report_reload(state, name, payload) do
    with {:error, error} <- Protocol.result(payload),
         do: Logger.error("#{name(state)}: the model #{name} was not loaded: #{error.message}")

    state
  end

  defp part(state, id, payload) do
    case state.pending do
      %{^id => entry(to: to) = e} when is_reference(to) ->
        send(to, {to, :part, payload})
        parted(state, id, e)

      %{^id => entry(to: {:relay, ref, pid, to, output, _deadline}) = e} ->
        state = ensure_relay(state, node(pid), :always)
        relay = Map.fetch!(state.relays, node(pid))

        if Relay.queued(relay) + byte_size(payload) > state.opts.relay_bytes do
          state |> deliver_error(e, node_too_slow(node(pid), state)) |> cancel_entry(id, e)
        else
          Relay.deliver(relay, {ref, to, output}, {:part, payload}, byte_size(payload))
          parted(state, id, e)
        end

      _ ->
        state
    end
  end

  defp parted(state, _id, entry(state: :parted)), do: state
  defp parted(state, id, e), do: put(state, id, entry(e, state: :parted))

  defp node_too_slow(node, state) do
    Error.exception(
      reason: :overloaded,
      message:
        "#{node} does not take its results: #{state.opts.relay_bytes} bytes wait for it " <>
          "(relay_bytes)"
    )
  end

  defp notification(%{status: :starting} = state, "hello", params) do
    case Protocol.hello(params, Admission.now()) do
      {:ok, hello} -> came_up(state, hello)
      {:error, what} -> give_port_up(state, what)
    end
  end

  defp notification(state, "bad_frame", params) do
    case Msgpack.decode(params) do
      {:ok, [n, reason], _rest} when is_integer(n) and is_binary(reason) ->
        bad_frame(state, n, reason)

      _ ->
        give_port_up(state, "it sent a bad_frame that cannot be read")
    end
  end

  defp notification(state, "event", params) do
    case Msgpack.decode(params) do
      {:ok, [%{} = event], _rest} -> event(state, event)
      _ -> state
    end
  end

  # One of a later version.
  defp notification(state, _method, _params), do: state

  # The port carried out nothing of that frame.
  defp bad_frame(state, n, reason) do
    Logger.error("#{name(state)}: sched-port refused a frame: #{reason}")

    error =
      Error.exception(
        reason: :protocol_error,
        message: "sched-port refused the frame that held the request: #{reason}"
      )

    for {id, entry(frame: ^n) = e} <- state.pending, reduce: state do
      state -> fail(state, id, e, error)
    end
  end

  defp event(state, %{"event" => "model", "name" => model, "state" => value} = event) do
    error = event["error"] && Error.from_wire(event["error"])

    Telemetry.execute([:gpu_sched, :model, :state], %{count: 1}, %{
      server: self(),
      model: model,
      state: value,
      error: error
    })

    if value == "failed" and error,
      do: Logger.error("#{name(state)}: the model #{model} failed: #{error.message}")

    state
  end

  defp event(state, %{"event" => "device", "name" => device, "state" => value} = event) do
    Telemetry.execute([:gpu_sched, :device, :state], %{count: 1}, %{
      server: self(),
      device: device,
      state: value,
      reason: event["reason"]
    })

    if value == "down",
      do: Logger.warning("#{name(state)}: the device #{device} is down: #{event["reason"]}")

    state
  end

  defp event(state, _other), do: state

  # --------------------------------------------------------------------- the port comes and goes

  defp came_up(state, hello) do
    Admission.set_limits(state.counters, hello)

    Telemetry.execute([:gpu_sched, :port, :up], %{count: 1}, %{
      server: self(),
      version: hello.version,
      os_pid: hello.pid
    })

    state = %{state | hello: hello, status: :up, up_since: now_ms(), silent: 0}

    # Models first, so that what comes after them finds them; then what was in flight, oldest first.
    state =
      for {name, params} <- state.models, reduce: state do
        state -> own_call(state, "load", 1, params, {:reload, name})
      end

    state =
      for {id, entry(frame: -1) = e} <- Enum.sort(state.pending), reduce: state do
        state -> send_again(state, id, e)
      end

    Admission.set_state(state.counters, :up)
    grant_waiting(state)
  end

  defp send_again(state, id, entry(leased: nil) = e), do: send_entry(state, id, e)
  defp send_again(state, id, e), do: upload_again(state, id, e)

  # A request of this process itself.
  defp own_call(state, method, n, params, kind) do
    id = Admission.next_id(state.counters)
    message = IO.iodata_to_binary(Protocol.request(id, method, n, params))
    send_entry(state, id, entry(kind: kind, message: message))
  end

  # It cannot be understood, or does not answer.
  defp give_port_up(%{status: :dying} = state, _why), do: state

  defp give_port_up(state, why) do
    Logger.error("#{name(state)}: sched-port is ended: #{why}")
    Admission.set_state(state.counters, :down)
    %{process: process, port: port} = state
    spawn(fn -> OsProcess.kill(process) end)
    Process.send_after(self(), {:kill_timeout, port}, @kill_ms)
    %{state | status: :dying, out: [], out_bytes: 0}
  end

  defp port_down(state, why) do
    Admission.set_state(state.counters, :down)
    {min, max} = state.opts.restart_backoff

    stable? = state.up_since != nil and now_ms() - state.up_since > @stable_ms
    wait = if stable?, do: min, else: state.restart_ms
    Admission.set_retry_after(state.counters, wait)

    Logger.error(
      "#{name(state)}: sched-port ended: #{why}; #{map_size(state.pending)} requests were in " <>
        "flight; it is restarted in #{wait} ms"
    )

    Telemetry.execute(
      [:gpu_sched, :port, :down],
      %{count: 1, in_flight: map_size(state.pending)},
      %{server: self(), reason: why, restart_ms: wait}
    )

    close_port(state)

    state = %{
      state
      | status: :down,
        port: nil,
        process: nil,
        up_since: nil,
        out: [],
        out_bytes: 0,
        restart_ms: min(wait * 2, max),
        restart_timer: Process.send_after(self(), :restart, wait)
    }

    for {id, e} <- state.pending, reduce: state do
      state -> survive(state, id, e)
    end
  end

  # What becomes of a request when the port dies under it.
  defp survive(state, id, entry(to: nil) = e), do: state |> stop_uploader(id) |> forget(id, e)

  defp survive(state, id, entry(kind: :infer, frame: frame, state: s) = e) do
    state = stop_uploader(state, id)

    case s do
      _ when frame < 0 -> state
      :fresh -> put(state, id, entry(e, frame: -1, state: :again))
      :again -> fail(state, id, e, died_twice())
      :parted -> fail(state, id, e, died_parted())
    end
  end

  defp survive(state, id, entry(kind: :patient) = e), do: put(state, id, entry(e, frame: -1))

  defp survive(state, id, e),
    do: fail(state, id, e, Admission.unavailable(:down, restart_in(state)))

  defp died_twice do
    Error.exception(
      reason: :unavailable,
      message:
        "sched-port ended while the request was in flight, and again when it had been sent a " <>
          "second time; it is not sent a third time"
    )
  end

  defp died_parted do
    Error.exception(
      reason: :unavailable,
      message:
        "sched-port ended when parts of the result had been delivered already; sent again, they " <>
          "would come a second time"
    )
  end

  defp restart(state) do
    case Executable.find(state.opts.port_path) do
      {:ok, path} ->
        state = open(state, path)
        Process.send_after(self(), {:start_timeout, state.port}, state.opts.start_timeout)
        state

      {:error, error} ->
        port_down(state, error.message)
    end
  rescue
    # The system refuses a new process.
    error in ErlangError -> port_down(state, "it was not started: #{Exception.message(error)}")
  end

  defp restart_in(%{restart_timer: nil}), do: 100
  defp restart_in(%{restart_timer: timer}), do: Process.read_timer(timer) || 100

  # ------------------------------------------------------------------------- waiting for the credit

  defp grant_waiting(%{waiting: waiting} = state) when map_size(waiting) == 0, do: state
  defp grant_waiting(%{status: status} = state) when status != :up, do: state

  # In the order in which they came; those that gave up have left their ticket in the queue.
  defp grant_waiting(state) do
    case :queue.out(state.queue) do
      {:empty, _queue} ->
        state

      {{:value, ticket}, queue} ->
        case state.waiting do
          %{^ticket => {to, owner, bytes}} -> grant_one(state, queue, ticket, to, owner, bytes)
          _ -> grant_waiting(%{state | queue: queue})
        end
    end
  end

  defp grant_one(state, queue, ticket, to, owner, bytes) do
    case Admission.take_credit(state.counters, bytes) do
      :ok ->
        reply(to, :granted)
        Admission.add_waiting(state.counters, -1)

        # The owner is tracked already: the reservation inherits it.
        grant_waiting(%{
          state
          | queue: queue,
            waiting: Map.delete(state.waiting, ticket),
            reservations: Map.put(state.reservations, ticket, reservation(state, owner, bytes))
        })

      {:error, %{reason: :too_large} = error} ->
        reply(to, {:error, error})
        grant_waiting(forget_waiting(%{state | queue: queue}, ticket))

      {:error, _not_yet} ->
        state
    end
  end

  defp refuse_waiting(state, ticket, {to, _owner, _bytes}) do
    reply(to, {:error, Error.exception(reason: :closing)})
    forget_waiting(state, ticket)
  end

  defp forget_waiting(state, ticket) do
    case Map.pop(state.waiting, ticket) do
      {nil, _waiting} ->
        state

      {{_to, owner, _bytes}, waiting} ->
        Admission.add_waiting(state.counters, -1)
        %{state | waiting: waiting, owners: Owners.untrack(state.owners, owner)}
    end
  end

  # ---- credit that was taken for a request which has not come yet: its caller was told to go on, or
  # writes its tensors. It is given back when the owner dies, and when it has been forgotten.

  defp reservation(state, owner, bytes),
    do: {owner, bytes, Admission.generation(state.counters), now_ms()}

  defp reserve_for_lease(state, {:lease, {ticket, bytes}}, owner) do
    if is_map_key(state.reservations, ticket) do
      state
    else
      state = track(state, owner)

      %{
        state
        | reservations: Map.put(state.reservations, ticket, reservation(state, owner, bytes))
      }
    end
  end

  defp reserve_for_lease(state, _kind, _owner), do: state

  # From here it has as long as the lease itself.
  defp keep_reservation(state, ticket, _owner) do
    case state.reservations do
      %{^ticket => {owner, bytes, _generation, _since}} ->
        put_in(state.reservations[ticket], reservation(state, owner, bytes))

      _ ->
        state
    end
  end

  # Its request has come, which takes the credit over.
  defp settle(state, nil, _bytes), do: state

  defp settle(state, ticket, bytes) do
    case state.reservations do
      %{^ticket => {_owner, ^bytes, _generation, _since}} ->
        state

      %{^ticket => {_owner, reserved, _generation, _since}} ->
        :ok = Admission.take_anyway(state.counters, bytes)
        Admission.give(state.counters, 1, reserved)
        state

      _ ->
        Admission.take_anyway(state.counters, bytes)
        state
    end
  end

  defp lease_valid?(state, ticket) do
    case state.reservations do
      %{^ticket => {_owner, _bytes, generation, _since}} ->
        state.status == :up and generation == Admission.generation(state.counters)

      _ ->
        false
    end
  end

  defp forget_reservation(state, nil), do: state

  defp forget_reservation(state, ticket) do
    case Map.pop(state.reservations, ticket) do
      {nil, _reservations} ->
        state

      {{owner, _bytes, _generation, _since}, reservations} ->
        %{state | reservations: reservations, owners: Owners.untrack(state.owners, owner)}
    end
  end

  defp release_reservation(state, ticket) do
    case state.reservations do
      %{^ticket => {_owner, bytes, _generation, _since}} ->
        state = forget_reservation(state, ticket)
        %{state | free_requests: state.free_requests + 1, free_bytes: state.free_bytes + bytes}

      _ ->
        state
    end
  end

  defp expire_reservations(state) do
    before = now_ms() - 60_000

    for {ticket, {_owner, _bytes, _generation, since}} <- state.reservations,
        since < before,
        reduce: state do
      state -> release_reservation(state, ticket)
    end
  end

  # ------------------------------------------------------------------------- leases written again

  # The memory a request referred to has gone with the port that leased it: its data, which we still
  # refer to, is written again, by a process of its own.
  defp upload_again(%{status: :up} = state, id, entry(leased: {_lease, _segments, uploads})) do
    %{ctx: ctx} = state
    server = self()

    pid =
      spawn_link(fn ->
        Process.flag(:trap_exit, false)
        send(server, {:gs_uploaded, id, self(), upload(ctx, uploads)})
      end)

    %{state | uploaders: Map.put(state.uploaders, id, pid)}
  end

  defp upload_again(state, _id, _e), do: state

  defp upload(ctx, uploads) do
    deadline = Local.deadline(60_000)
    size = uploads |> Enum.map(fn {offset, data} -> offset + byte_size(data) end) |> Enum.max()

    with {:ok, lease} <- Upload.lease(ctx, size, nil, self(), deadline),
         :ok <- Upload.write(ctx, lease, uploads, self(), deadline),
         do: {:ok, lease["lease"]}
  end

  defp uploaded(state, id, pid, result) do
    case state do
      %{uploaders: %{^id => ^pid}, pending: %{^id => e}} ->
        state = %{state | uploaders: Map.delete(state.uploaders, id)}
        entry(leased: {_lease, segments, uploads}) = e

        case result do
          {:ok, lease} when state.status in [:up, :closing] ->
            message = Protocol.put_id(Encode.lease(segments, lease), id)
            leased = {lease, segments, uploads}
            send_entry(state, id, entry(e, message: message, leased: leased))

          {:error, error} when state.status in [:up, :closing] ->
            fail(state, id, e, error)

          _ ->
            state
        end

      _ ->
        state
    end
  end

  defp stop_uploader(state, id) do
    case Map.pop(state.uploaders, id) do
      {nil, _uploaders} ->
        state

      {pid, uploaders} ->
        Process.unlink(pid)
        Process.exit(pid, :kill)
        %{state | uploaders: uploaders}
    end
  end

  # ------------------------------------------------------------------------------- owners and relays

  # How an owner is watched: on this node by a monitor, elsewhere by the relay.
  defp watcher(_state, owner) when node(owner) == node(), do: Process.monitor(owner)

  defp watcher(state, owner) do
    Relay.watch(Map.fetch!(state.relays, node(owner)), owner)
    :relay
  end

  defp ensure_relay(state, nil), do: state
  defp ensure_relay(state, owner) when node(owner) == node(), do: state
  defp ensure_relay(state, owner), do: ensure_relay(state, node(owner), :always)

  defp ensure_relay(%{relays: relays} = state, node, :always) do
    if is_map_key(relays, node),
      do: state,
      else: %{state | relays: Map.put(relays, node, Relay.start_link(self()))}
  end

  defp owner_down(state, pid) do
    case Owners.drop(state.owners, pid) do
      {0, owners} -> %{state | owners: owners}
      {_count, owners} -> abandon(%{state | owners: owners}, pid)
    end
  end

  # Cancels everything that a dead owner had under way.
  defp abandon(state, pid) do
    state =
      for {ticket, {_to, ^pid, _bytes}} <- state.waiting, reduce: state do
        state -> forget_waiting(state, ticket)
      end

    state =
      for {ticket, {^pid, _bytes, _generation, _since}} <- state.reservations, reduce: state do
        state -> release_reservation(state, ticket)
      end

    for {id, entry(owner: ^pid) = e} <- state.pending, reduce: state do
      state -> abandon_entry(state, id, e)
    end
  end

  # A process that :erpc started for a dead owner still waits: it is told, so that it ends too.
  defp abandon_entry(state, id, e) do
    state =
      deliver_error(state, e, Error.exception(reason: :cancelled, message: "its owner died"))

    cancel_entry(state, id, entry(e, owner: nil))
  end

  defp child_down(state, pid, reason) do
    case Enum.find(state.relays, fn {_node, {relay, _queued}} -> relay == pid end) do
      {node, _relay} ->
        Logger.error("#{name(state)}: the relay to #{node} failed: #{inspect(reason, limit: 8)}")
        watch_anew(%{state | relays: Map.delete(state.relays, node)}, node)

      nil ->
        upload_failed(state, pid, reason)
    end
  end

  defp watch_anew(state, node) do
    state = ensure_relay(state, node, :always)
    for owner <- Owners.on(state.owners, node), do: Relay.watch(state.relays[node], owner)
    state
  end

  defp upload_failed(state, pid, reason) do
    case Enum.find(state.uploaders, fn {_id, uploader} -> uploader == pid end) do
      {id, _pid} when reason != :normal ->
        state = %{state | uploaders: Map.delete(state.uploaders, id)}

        error =
          Error.exception(reason: :unavailable, message: "its tensors could not be sent again")

        case state.pending do
          %{^id => e} -> fail(state, id, e, error)
          _ -> state
        end

      _ ->
        state
    end
  end

  # ---------------------------------------------------------------------------------- now and then

  defp tick_later(state), do: Process.send_after(self(), :tick, tick_ms(state))

  defp tick_ms(%{opts: %{watchdog: :infinity}}), do: 1_000
  defp tick_ms(%{opts: %{watchdog: ms}}), do: ms |> div(4) |> max(20) |> min(1_000)

  defp tick(state) do
    tick_later(state)
    # What was large has been dealt with, but this process may be idle and keep referring to it.
    if state.large > 0, do: :erlang.garbage_collect()

    %{state | large: 0}
    |> estimate_retry()
    |> find_leak()
    |> expire_reservations()
    |> expire_streams()
    |> sweep_owners()
    |> sweep_relays()
    |> watch_port()
  end

  # How long until a good part of what is in flight is done, at the rate of the last tick.
  defp estimate_retry(%{status: :up} = state) do
    {requests, _bytes} = Admission.taken(state.counters)
    ms = div(requests * tick_ms(state), 4 * max(state.done, 1))
    Admission.set_retry_after(state.counters, ms |> max(1) |> min(1_000))
    %{state | done: 0}
  end

  defp estimate_retry(state), do: state

  # A caller that was killed between taking its credit and sending its request took it along. What is
  # taken and not ours, at the least over a few ticks, belongs to nobody. Where that was wrong, the
  # caller having been asleep for so long, there is less taken than is ours as soon as it sends.
  defp find_leak(state) do
    {requests, bytes} = Admission.taken(state.counters)
    {our_requests, our_bytes} = credit_in_flight(state)
    over = {requests - our_requests, bytes - our_bytes}

    case {over, state.leak} do
      {{0, 0}, _} ->
        %{state | leak: nil}

      {{r, b}, _} when r < 0 or b < 0 ->
        Admission.give(state.counters, min(r, 0), min(b, 0))
        %{state | leak: nil}

      {over, nil} ->
        %{state | leak: {1, over}}

      {{r, b}, {n, {r0, b0}}} when n < @leak_ticks ->
        %{state | leak: {n + 1, {min(r, r0), min(b, b0)}}}

      {{r, b}, {_n, {r0, b0}}} ->
        Admission.give(state.counters, min(r, r0), min(b, b0))
        %{state | leak: nil}
    end
  end

  defp credit_in_flight(state) do
    sum = fn b, {n, sum} -> {n + 1, sum + b} end

    acc =
      for {_id, entry(bytes: b)} when is_integer(b) <- state.pending,
          reduce: {0, 0},
          do: (acc -> sum.(b, acc))

    for {_t, {_o, b, _g, _s}} <- state.reservations, reduce: acc, do: (acc -> sum.(b, acc))
  end

  # While there is no port to say so.
  defp expire_streams(%{status: :up} = state), do: state

  defp expire_streams(state) do
    now = Admission.now()

    for {_ref, id} <- state.streams,
        entry(to: {:relay, _, _, _, _, deadline}) = e <- [state.pending[id]],
        deadline != :infinity and deadline < now,
        reduce: state do
      state ->
        fail(stop_uploader(state, id), id, e, Error.exception(reason: :deadline_exceeded))
    end
  end

  defp sweep_owners(state) do
    {gone, owners} = Owners.sweep(state.owners)

    for {pid, :relay} <- gone, relay = state.relays[node(pid)], do: Relay.unwatch(relay, pid)
    %{state | owners: owners}
  end

  # A relay that has nobody to watch and nothing to send is not needed.
  defp sweep_relays(%{relays: relays} = state) when map_size(relays) == 0, do: state

  defp sweep_relays(state) do
    used =
      MapSet.new(
        for({_ref, id} <- state.streams, e = state.pending[id], do: stream_node(e)) ++
          Owners.nodes(state.owners)
      )

    idle =
      for {node, relay} <- state.relays,
          not MapSet.member?(used, node) and Relay.queued(relay) <= 0,
          do: node

    for node <- idle, do: Relay.stop(state.relays[node])
    %{state | relays: Map.drop(state.relays, idle)}
  end

  defp stream_node(entry(to: {:relay, _ref, pid, _to, _output, _deadline})), do: node(pid)
  defp stream_node(_e), do: nil

  # A port that says nothing is asked; one that does not answer is ended.
  defp watch_port(%{opts: %{watchdog: :infinity}} = state), do: state
  defp watch_port(%{status: status} = state) when status != :up, do: state
  defp watch_port(%{heard: true} = state), do: %{state | heard: false, silent: 0}

  defp watch_port(state) do
    silent = state.silent + tick_ms(state)
    limit = state.opts.watchdog
    state = %{state | silent: silent}

    cond do
      silent >= limit ->
        give_port_up(state, "it has not answered for #{silent} ms (watchdog)")

      silent >= div(limit, 2) and silent - tick_ms(state) < div(limit, 2) ->
        own_call(state, "ping", 1, Msgpack.int(0), :ping)

      true ->
        state
    end
  end

  defp name(%{opts: %{name: nil}}), do: "GpuSched #{inspect(self())}"
  defp name(%{opts: %{name: name}}), do: inspect(name)

  defp now_ms, do: :erlang.monotonic_time(:millisecond)
end
