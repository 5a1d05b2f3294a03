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

  import GpuSched.Server.State, only: [entry: 1, entry: 2]

  require Logger

  alias GpuSched.{
    Admission,
    Context,
    Directory,
    Encode,
    Error,
    Events,
    Executable,
    Jobs,
    Local,
    OsProcess,
    Protocol,
    Relay
  }

  alias GpuSched.Server.{Credit, Flight, Frames, Lifecycle, Overload, Reupload, State, Watch}

  # Messages that are taken into one frame.
  @batch 256

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
  #   {:submit, link?}   a job, which ends with its owner, or does not; answered with its id
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

  # `ticket` is that of the lease's request.
  @spec lease_write(Context.t(), reference | nil, iodata) :: :ok
  def lease_write(ctx, ticket, message), do: tell(ctx, {:gs_lease_write, ticket, message})

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
    label = Jobs.Id.label(opts.name, self())

    state = %State{
      opts: opts,
      ctx: ctx,
      counters: counters,
      restart_ms: min,
      models: opts.models
    }

    with {:ok, path} <- Executable.find(opts.port_path),
         {:ok, counter} <- Directory.counter(label),
         ctx = %{ctx | events: Events.start_link(label)},
         jobs = Jobs.Table.start_link(self(), label, counter, ctx.events, opts),
         ctx = %{ctx | jobs: jobs},
         {:ok, state} <- Lifecycle.open(%{state | ctx: ctx}, path),
         {:ok, state, frame} <-
           Lifecycle.await_hello(state, path, State.now_ms() + opts.start_timeout),
         state = state |> Frames.receive_frame(frame) |> flush(),
         :ok <- Directory.register(ctx) do
      tick_later(state)
      {:ok, state}
    else
      # What was opened closes with this process.
      {:error, error} ->
        {:stop, error}
    end
  end

  # Refuse, drain, close, see the exit.
  @impl true
  def terminate(reason, state) do
    Admission.set_state(state.counters, :closing)
    if state.restart_timer, do: Process.cancel_timer(state.restart_timer)
    begun = State.now_ms()
    shutdown = state.opts.shutdown

    state =
      if state.status == :up and orderly?(reason),
        do: drain(state, drain_until(shutdown, begun)),
        else: state

    Enum.each(state.pending, fn {_id, e} -> Flight.answer_closing(state, e) end)
    Enum.each(state.relays, fn {_node, relay} -> Relay.stop(relay) end)
    Jobs.Table.close(state.ctx.jobs, "the scheduler was stopped")
    Events.close(state.ctx.events, "the scheduler was stopped")
    Lifecycle.close_port(state)

    # Where our supervisor loses its patience before that, the directory sees to it.
    unless OsProcess.await_exit(state.process, exit_until(shutdown, begun)),
      do: OsProcess.kill(state.process)

    :ok
  end

  defp orderly?(reason), do: reason in [:normal, :shutdown] or match?({:shutdown, _}, reason)

  # Until when requests in flight are waited for, and until when for the end of sched-port. What is
  # left is for killing it.
  defp drain_until(:infinity, _begun), do: :infinity
  defp drain_until(ms, begun), do: begun + ms - rest_of(ms)

  defp exit_until(:infinity, _begun), do: State.now_ms() + 5_000
  defp exit_until(ms, begun), do: begun + ms - div(rest_of(ms), 4)

  defp rest_of(ms), do: min(2_000, div(ms, 2))

  defp drain(state, deadline) do
    state = %{state | status: :closing}

    state =
      Enum.reduce(state.waiting, state, fn {ticket, w}, s ->
        Credit.refuse_waiting(s, ticket, w)
      end)

    state = state |> Lifecycle.own_call("drain", 0, [], :drain) |> flush()
    drain_loop(state, deadline)
  end

  # Until nothing is in flight, or the time is over.
  defp drain_loop(%{pending: pending} = state, _deadline) when map_size(pending) == 0, do: state

  defp drain_loop(%{port: port} = state, deadline) do
    receive do
      {^port, {:data, frame}} ->
        state |> Frames.receive_frame(frame) |> flush() |> drain_loop(deadline)

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
  defp drain_ms(deadline), do: max(deadline - State.now_ms(), 0)

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
      {^port, {:data, frame}} -> state |> Frames.receive_frame(frame) |> more(n - 1)
      {:gs_call, _, _, _, _, _} = m -> m |> handle(state) |> more(n - 1)
      {:gs_lease_write, _, _} = m -> m |> handle(state) |> more(n - 1)
      {:gs_grant, _, _, _} = m -> m |> handle(state) |> more(n - 1)
      {:DOWN, _, :process, _, _} = m -> m |> handle(state) |> more(n - 1)
      {:gs_owner_down, _} = m -> m |> handle(state) |> more(n - 1)
      {:gs_cancel, _, _} = m -> m |> handle(state) |> more(n - 1)
    after
      0 -> state
    end
  end

  # Requests of callers.
  defp handle({:gs_send, id, to, owner, bytes, message, ticket}, state) do
    state = Credit.settle(state, ticket, bytes)
    e = entry(to: to, owner: owner, kind: :infer, bytes: bytes)

    case message do
      {:leased, lease, segments, uploads} ->
        leased = {lease, segments, uploads}
        e = entry(e, message: Encode.lease(segments, lease), leased: leased)
        Flight.accept(state, id, e, Credit.lease_valid?(state, ticket))

      message ->
        Flight.accept(state, id, entry(e, message: message), true)
    end
    |> Credit.forget_reservation(ticket)
  end

  defp handle({:gs_call, id, to, owner, message, kind}, state) do
    state = Credit.reserve_for_lease(state, kind, owner)
    e = entry(to: to, owner: owner, kind: kind, message: message)

    cond do
      state.status == :up ->
        Flight.accept(state, id, e, true)

      state.status == :closing ->
        Flight.refuse(state, e, Error.exception(reason: :closing))

      kind == :patient ->
        Flight.accept(state, id, e, true)

      true ->
        Flight.refuse(state, e, Admission.unavailable(state.status, Lifecycle.restart_in(state)))
    end
  end

  defp handle({:gs_wait, to, ticket, owner, bytes}, state) do
    cond do
      state.status == :closing ->
        State.reply(to, {:error, Error.exception(reason: :closing)})
        state

      map_size(state.waiting) >= state.opts.max_waiting ->
        Admission.count_refused(state.counters)
        why = "#{map_size(state.waiting)} callers are waiting already (max_waiting)"
        State.reply(to, {:error, Admission.overloaded(state.counters, why)})
        state

      true ->
        Admission.add_waiting(state.counters, 1)
        state = Watch.track(state, owner)

        Credit.grant_waiting(%{
          state
          | waiting: Map.put(state.waiting, ticket, {to, owner, bytes}),
            queue: :queue.in(ticket, state.queue)
        })
    end
  end

  # The caller does not want to wait, or to go on after it waited or wrote, any more.
  defp handle({:gs_give_up, ticket, lease}, state) do
    state =
      if lease && Credit.lease_valid?(state, ticket),
        do: Frames.write(state, Protocol.lease_release(lease)),
        else: state

    state |> Credit.forget_waiting(ticket) |> Credit.release_reservation(ticket)
  end

  # A lease of a port that is gone must not be written: its number may be somebody else's by now.
  defp handle({:gs_lease_write, ticket, message}, state) do
    if ticket == nil or Credit.lease_valid?(state, ticket),
      do: Frames.write(state, message),
      else: state
  end

  defp handle({:gs_cancel, id, ref}, state) do
    case Flight.find(state, id, ref) do
      {:ok, id, e} -> Flight.cancel_entry(state, id, e)
      :error -> state
    end
  end

  defp handle({:gs_grant, id, ref, n}, state) do
    case Flight.find(state, id, ref) do
      {:ok, id, entry(frame: frame)} when frame >= 0 -> Frames.write(state, Protocol.grant(id, n))
      _ -> state
    end
  end

  # Its receiver has been told already.
  defp handle({:gs_drop_stream, ref}, state) do
    with {:ok, id} <- Map.fetch(state.streams, ref),
         {:ok, e} <- Map.fetch(state.pending, id) do
      Flight.cancel_entry(state, id, e)
    else
      :error -> state
    end
  end

  defp handle({:gs_cancel_stream, ref}, state) do
    with {:ok, id} <- Map.fetch(state.streams, ref),
         {:ok, e} <- Map.fetch(state.pending, id) do
      state
      |> Flight.deliver_error(e, Error.exception(reason: :cancelled))
      |> Flight.cancel_entry(id, e)
    else
      :error -> state
    end
  end

  defp handle({:gs_grant_stream, ref, n}, state) do
    case Map.fetch(state.streams, ref) do
      {:ok, id} -> Frames.write(state, Protocol.grant(id, n))
      :error -> state
    end
  end

  # The port.
  defp handle({port, {:data, frame}}, %{port: port} = state),
    do: Frames.receive_frame(state, frame)

  defp handle({port, {:exit_status, status}}, %{port: port} = state),
    do: Lifecycle.port_down(state, Executable.describe(status))

  defp handle({:EXIT, port, reason}, %{port: port} = state),
    do: Lifecycle.port_down(state, "its port closed: #{inspect(reason, limit: 8)}")

  defp handle(:restart, state), do: Lifecycle.restart(%{state | restart_timer: nil})

  defp handle({:start_timeout, port}, %{port: port, status: :starting} = state),
    do: Lifecycle.give_port_up(state, "it said nothing within start_timeout")

  defp handle({:kill_timeout, port}, %{port: port, status: :dying} = state) do
    Lifecycle.close_port(state)
    Lifecycle.port_down(state, "it did not end when it was killed")
  end

  # Owners.
  defp handle({:DOWN, _monitor, :process, pid, _reason}, state), do: Watch.owner_down(state, pid)
  defp handle({:gs_owner_down, pid}, state), do: Watch.owner_down(state, pid)

  # Processes of ours.
  defp handle({:EXIT, pid, reason}, state) when is_pid(pid),
    do: Watch.child_down(state, pid, reason)

  defp handle({:gs_uploaded, id, pid, result}, state),
    do: Reupload.uploaded(state, id, pid, result)

  defp handle(:tick, state), do: tick(state)

  defp handle({:DOWN, _monitor, _type, _object, _reason}, state), do: state
  defp handle({:EXIT, port, _reason}, state) when is_port(port), do: state
  defp handle({port, _data}, state) when is_port(port), do: state
  defp handle({kind, _port}, state) when kind in [:start_timeout, :kill_timeout], do: state

  defp handle(other, state) do
    Logger.warning(
      "#{State.name(state)} was sent something it does not know: #{inspect(other, limit: 5)}"
    )

    state
  end

  @impl true
  def handle_call(:clients, _from, state), do: {:reply, Watch.clients(state), state}

  def handle_call(request, _from, state) do
    Logger.warning("#{State.name(state)} was called with #{inspect(request, limit: 5)}")
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

  # The end of a turn: what was gathered leaves, and what became free is given back.
  defp flush(state) do
    state = state |> Watch.abandon() |> Frames.flush_frame()

    if state.free_requests > 0 or state.free_bytes > 0 do
      Admission.give(state.counters, state.free_requests, state.free_bytes)
      state = %{state | free_requests: 0, free_bytes: 0}

      if map_size(state.waiting) > 0,
        do: state |> Credit.grant_waiting() |> Frames.flush_frame(),
        else: state
    else
      state
    end
  end

  # ---------------------------------------------------------------------------------- now and then

  defp tick_later(state), do: Process.send_after(self(), :tick, State.tick_ms(state))

  defp tick(state) do
    tick_later(state)
    # What was large has been dealt with, but this process may be idle and keep referring to it.
    if state.large > 0, do: :erlang.garbage_collect()

    %{state | large: 0}
    |> Credit.estimate_retry()
    |> Credit.find_leak()
    |> Overload.look()
    |> Credit.expire_reservations()
    # Callers that take what is not there hide for a moment what is.
    |> Credit.grant_waiting()
    |> Flight.expire_streams()
    |> Watch.sweep_owners()
    |> Watch.sweep_relays()
    |> Lifecycle.watch_port()
  end
end
