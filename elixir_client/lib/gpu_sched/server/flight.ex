# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Flight do
  # What is in flight: from the moment a request is accepted until it is answered.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1, entry: 2]

  alias GpuSched.{Admission, Error, Owners, Protocol, Relay}
  alias GpuSched.Server.{Credit, Frames, Reupload, State, Watch}

  @spec accept(State.t(), State.id(), State.entry(), boolean) :: State.t()
  def accept(state, id, e, sendable?) do
    case state do
      %{status: :closing} ->
        refuse(state, e, Error.exception(reason: :closing))

      %{pending: pending} when is_map_key(pending, id) ->
        # After 2^32 others, one that is still in flight.
        id = Admission.next_id(state.counters)
        state = %{state | renamed: Map.put(state.renamed, entry(e, :to), id)}
        accept(state, id, entry(e, message: Protocol.put_id(entry(e, :message), id)), sendable?)

      _ ->
        state = state |> Watch.track(entry(e, :owner)) |> remember_stream(id, e)

        cond do
          not sendable? -> Reupload.upload_again(put(state, id, e), id, e)
          state.status == :up -> send_entry(state, id, e)
          true -> put(state, id, e)
        end
    end
  end

  @spec put(State.t(), State.id(), State.entry()) :: State.t()
  def put(state, id, e), do: %{state | pending: Map.put(state.pending, id, e)}

  # Into the frame that is being gathered, whose number it notes.
  @spec send_entry(State.t(), State.id(), State.entry()) :: State.t()
  def send_entry(state, id, entry(message: message) = e) do
    state = Frames.write(state, message)
    put(state, id, entry(e, frame: state.frame))
  end

  defp remember_stream(state, id, entry(to: {:relay, ref, pid, to, _output, _deadline})) do
    state = Watch.ensure_relay(state, node(pid), :always)
    Relay.open(Map.fetch!(state.relays, node(pid)), ref, pid, to)
    %{state | streams: Map.put(state.streams, ref, id)}
  end

  defp remember_stream(state, _id, _e), do: state

  # Its end: the credit is free, and its owner has one less. What is freed is counted up, and given
  # back at the end of the turn.
  @spec forget(State.t(), State.id(), State.entry()) :: State.t()
  def forget(state, id, entry(owner: owner, bytes: bytes) = e) do
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
  @spec find(State.t(), State.id(), reference) :: {:ok, State.id(), State.entry()} | :error
  def find(state, id, ref) do
    id = Map.get(state.renamed, ref, id)

    case state.pending do
      %{^id => entry(to: ^ref) = e} -> {:ok, id, e}
      _ -> :error
    end
  end

  # Nobody waits for it any more. One that was sent is kept until it is answered, because until
  # then its memory is in use over there.
  @spec cancel_entry(State.t(), State.id(), State.entry()) :: State.t()
  def cancel_entry(state, id, entry(frame: frame, kind: kind) = e) do
    cond do
      frame < 0 ->
        state |> Reupload.stop_uploader(id) |> forget(id, e)

      kind in [:infer, :patient] ->
        state
        |> forget_stream(e)
        |> put(id, entry(e, to: nil))
        |> Frames.write(Protocol.cancel(id))

      true ->
        put(state, id, entry(e, to: nil))
    end
  end

  # Answers what was not accepted, and gives its credit back.
  @spec refuse(State.t(), State.entry(), Error.t()) :: State.t()
  def refuse(state, entry(bytes: bytes, kind: kind) = e, error) do
    state = deliver_error(state, e, error)
    if bytes, do: Admission.give(state.counters, 1, bytes)

    case kind do
      {:lease, {ticket, _bytes}} -> Credit.release_reservation(state, ticket)
      _ -> state
    end
  end

  @spec fail(State.t(), State.id(), State.entry(), Error.t()) :: State.t()
  def fail(state, id, e, error) do
    state |> deliver_error(e, error) |> forget(id, e)
  end

  @spec deliver(State.t(), State.entry(), binary) :: State.t()
  def deliver(state, entry(to: to), payload) when is_reference(to) do
    State.reply(to, payload)
    state
  end

  def deliver(state, entry(to: {:relay, ref, pid, to, output, _deadline}) = e, payload) do
    state = Watch.ensure_relay(state, node(pid), :always)
    relay = Map.fetch!(state.relays, node(pid))

    if relay_full?(state, relay, payload) do
      deliver_error(state, e, node_too_slow(state, node(pid)))
    else
      Relay.deliver(relay, {ref, to, output}, {:done, payload}, byte_size(payload))
      state
    end
  end

  def deliver(state, _e, _payload), do: state

  @spec deliver_error(State.t(), State.entry(), Error.t()) :: State.t()
  def deliver_error(state, entry(to: to), error) when is_reference(to) do
    State.reply(to, {:error, error})
    state
  end

  def deliver_error(state, entry(to: {:relay, ref, pid, to, output, _deadline}), error) do
    state = Watch.ensure_relay(state, node(pid), :always)
    Relay.deliver(Map.fetch!(state.relays, node(pid)), {ref, to, output}, {:error, error}, 256)
    state
  end

  def deliver_error(state, _e, _error), do: state

  # A payload beyond the limit goes through where nothing waits before it.
  @spec relay_full?(State.t(), Relay.t(), binary) :: boolean
  def relay_full?(state, relay, payload) do
    queued = Relay.queued(relay)
    queued > 0 and queued + byte_size(payload) > state.opts.relay_bytes
  end

  @spec node_too_slow(State.t(), node) :: Error.t()
  def node_too_slow(state, node) do
    Error.exception(
      reason: :overloaded,
      message:
        "#{node} does not take its results: #{state.opts.relay_bytes} bytes wait for it " <>
          "(relay_bytes)"
    )
  end

  @spec answer_closing(State.t(), State.entry()) :: State.t()
  def answer_closing(state, e),
    do: deliver_error(state, e, Error.exception(reason: :closing))

  # While there is no port to say so.
  @spec expire_streams(State.t()) :: State.t()
  def expire_streams(%{status: :up} = state), do: state

  def expire_streams(state) do
    now = Admission.now()

    for {_ref, id} <- state.streams,
        entry(to: {:relay, _, _, _, _, deadline}) = e <- [state.pending[id]],
        deadline != :infinity and deadline < now,
        reduce: state do
      state ->
        fail(
          Reupload.stop_uploader(state, id),
          id,
          e,
          Error.exception(reason: :deadline_exceeded)
        )
    end
  end
end
