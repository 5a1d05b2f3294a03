# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Frames do
  # Frames to the port, gathered over a turn, and from it, taken apart and dispatched.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1, entry: 2]

  require Logger

  alias GpuSched.{Admission, Error, Events, Msgpack, Protocol, Relay, Telemetry}
  alias GpuSched.Server.{Credit, Flight, JobLink, Lifecycle, State, Transport, Watch}

  # A payload below this is copied out of the frame it shares with others.
  @copy_below 64 * 1024

  @spec write(State.t(), iodata) :: State.t()
  def write(%{status: status} = state, message) when status in [:up, :closing] do
    size = IO.iodata_length(message)

    if state.out_bytes + size > state.hello.gather and state.out != [] do
      state = flush_frame(state)
      %{state | out: [message], out_bytes: size}
    else
      %{state | out: [message | state.out], out_bytes: state.out_bytes + size}
    end
  end

  def write(state, _message), do: state

  @spec flush_frame(State.t()) :: State.t()
  def flush_frame(%{out: []} = state), do: state

  def flush_frame(%{out: out, port: port} = state) do
    try do
      Transport.send(port, :lists.reverse(out))
    rescue
      # It closed a moment ago; its exit is in the mailbox, and what is in flight is sent again.
      ArgumentError -> :ok
    end

    %{state | out: [], out_bytes: 0, frame: state.frame + 1}
  end

  @spec receive_frame(State.t(), binary) :: State.t()
  def receive_frame(%{status: :dying} = state, _frame), do: state

  def receive_frame(state, frame) do
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
        Lifecycle.give_port_up(state, "it sent #{what}")
    end
  end

  # A small payload must not keep the frame alive that it shares with others.
  defp own(payload, frame)
       when byte_size(payload) + 64 < frame and byte_size(payload) < @copy_below,
       do: :binary.copy(payload)

  defp own(payload, _frame), do: payload

  # Nor must a string of an event.
  defp own(text) when is_binary(text), do: :binary.copy(text)
  defp own(other), do: other

  defp response(%{pending: pending} = state, id, payload) do
    case pending do
      %{^id => entry(kind: :infer) = e} ->
        state |> Flight.deliver(e, payload) |> Flight.forget(id, e)

      %{^id => entry(kind: {:submit, link?}) = e} ->
        {state, payload} = JobLink.submitted(state, e, link?, payload)
        state |> Flight.deliver(e, payload) |> Flight.forget(id, e)

      %{^id => e} ->
        state |> called(e, payload) |> Flight.deliver(e, payload) |> Flight.forget(id, e)

      _ ->
        state
    end
  end

  # What the answer to a call changes here.
  defp called(state, entry(kind: kind) = e, payload) do
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
          do: Credit.release_reservation(state, ticket),
          else: Credit.keep_reservation(state, ticket)

      _ ->
        state
    end
  end

  defp report_reload(state, name, payload) do
    with {:error, error} <- Protocol.result(payload),
         do:
           Logger.error(
             "#{State.name(state)}: the model #{name} was not loaded: #{error.message}"
           )

    state
  end

  defp part(state, id, payload) do
    case state.pending do
      %{^id => entry(to: to) = e} when is_reference(to) ->
        send(to, {to, :part, payload})
        parted(state, id, e)

      %{^id => entry(to: {:relay, ref, pid, to, output, _deadline}) = e} ->
        state = Watch.ensure_relay(state, node(pid), :always)
        relay = Map.fetch!(state.relays, node(pid))

        if Flight.relay_full?(state, relay, payload) do
          state
          |> Flight.deliver_error(e, Flight.node_too_slow(state, node(pid)))
          |> Flight.cancel_entry(id, e)
        else
          Relay.deliver(relay, {ref, to, output}, {:part, payload}, byte_size(payload))
          parted(state, id, e)
        end

      _ ->
        state
    end
  end

  defp parted(state, _id, entry(state: :parted)), do: state
  defp parted(state, id, e), do: Flight.put(state, id, entry(e, state: :parted))

  defp notification(%{status: :starting} = state, "hello", params) do
    case Protocol.hello(params, Admission.now()) do
      {:ok, hello} -> Lifecycle.came_up(state, hello)
      {:error, what} -> Lifecycle.give_port_up(state, what)
    end
  end

  defp notification(state, "bad_frame", params) do
    case Msgpack.decode(params) do
      {:ok, [n, reason], _rest} when is_integer(n) and is_binary(reason) ->
        bad_frame(state, n, reason)

      _ ->
        Lifecycle.give_port_up(state, "it sent a bad_frame that cannot be read")
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
    Logger.error("#{State.name(state)}: sched-port refused a frame: #{reason}")

    error =
      Error.exception(
        reason: :protocol_error,
        message: "sched-port refused the frame that held the request: #{reason}"
      )

    for {id, entry(frame: ^n) = e} <- state.pending, reduce: state do
      state -> Flight.fail(state, id, e, error)
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

    plain = %{"name" => own(model), "state" => own(value), "error" => error}
    Events.tell(state.ctx.events, {:model, plain})

    if value == "failed" and error,
      do: Logger.error("#{State.name(state)}: the model #{model} failed: #{error.message}")

    state
  end

  defp event(state, %{"event" => "device", "name" => device, "state" => value} = event) do
    Telemetry.execute([:gpu_sched, :device, :state], %{count: 1}, %{
      server: self(),
      device: device,
      state: value,
      reason: event["reason"]
    })

    plain = %{"name" => own(device), "state" => own(value), "reason" => own(event["reason"])}
    Events.tell(state.ctx.events, {:device, plain})

    if value == "down",
      do: Logger.warning("#{State.name(state)}: the device #{device} is down: #{event["reason"]}")

    state
  end

  defp event(state, %{"event" => "overload", "state" => value} = event) do
    plain = %{"state" => own(value), "refused" => event["refused"], "at" => "port"}
    Events.overload(state.ctx.events, self(), plain)
    state
  end

  defp event(state, %{"event" => "job"} = event), do: JobLink.event(state, event)
  defp event(state, _other), do: state
end
