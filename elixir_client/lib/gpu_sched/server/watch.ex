# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Watch do
  # The owners of what is in flight, and the relays to the nodes that some of them are on.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1, entry: 2]

  require Logger

  alias GpuSched.{Error, Owners, Relay}
  alias GpuSched.Server.{Credit, Flight, Reupload, State}

  @spec track(State.t(), pid | nil) :: State.t()
  def track(state, owner) do
    state = ensure_relay(state, owner)
    %{state | owners: Owners.track(state.owners, owner, &watcher(state, &1))}
  end

  # How an owner is watched: on this node by a monitor, elsewhere by the relay.
  defp watcher(_state, owner) when node(owner) == node(), do: Process.monitor(owner)

  defp watcher(state, owner) do
    Relay.watch(Map.fetch!(state.relays, node(owner)), owner)
    :relay
  end

  @spec ensure_relay(State.t(), pid | nil) :: State.t()
  def ensure_relay(state, nil), do: state
  def ensure_relay(state, owner) when node(owner) == node(), do: state
  def ensure_relay(state, owner), do: ensure_relay(state, node(owner), :always)

  def ensure_relay(%{relays: relays} = state, node, :always) do
    if is_map_key(relays, node),
      do: state,
      else: %{state | relays: Map.put(relays, node, Relay.start_link(self()))}
  end

  @spec owner_down(State.t(), pid) :: State.t()
  def owner_down(state, pid) do
    case Owners.drop(state.owners, pid) do
      {0, owners} -> %{state | owners: owners}
      {_count, owners} -> abandon(%{state | owners: owners}, pid)
    end
  end

  # Cancels everything that a dead owner had under way.
  defp abandon(state, pid) do
    state =
      for {ticket, {_to, ^pid, _bytes}} <- state.waiting, reduce: state do
        state -> Credit.forget_waiting(state, ticket)
      end

    state =
      for {ticket, {^pid, _bytes, _generation, _since}} <- state.reservations, reduce: state do
        state -> Credit.release_reservation(state, ticket)
      end

    for {id, entry(owner: ^pid) = e} <- state.pending, reduce: state do
      state -> abandon_entry(state, id, e)
    end
  end

  # A process that :erpc started for a dead owner still waits: it is told, so that it ends too.
  defp abandon_entry(state, id, e) do
    state =
      Flight.deliver_error(
        state,
        e,
        Error.exception(reason: :cancelled, message: "its owner died")
      )

    Flight.cancel_entry(state, id, entry(e, owner: nil))
  end

  @spec child_down(State.t(), pid, term) :: State.t()
  def child_down(state, pid, reason) do
    case Enum.find(state.relays, fn {_node, {relay, _queued}} -> relay == pid end) do
      {node, _relay} ->
        Logger.error(
          "#{State.name(state)}: the relay to #{node} failed: #{inspect(reason, limit: 8)}"
        )

        watch_anew(%{state | relays: Map.delete(state.relays, node)}, node)

      nil ->
        Reupload.upload_failed(state, pid, reason)
    end
  end

  defp watch_anew(state, node) do
    state = ensure_relay(state, node, :always)
    for owner <- Owners.on(state.owners, node), do: Relay.watch(state.relays[node], owner)
    state
  end

  @spec sweep_owners(State.t()) :: State.t()
  def sweep_owners(state) do
    {gone, owners} = Owners.sweep(state.owners)

    for {pid, :relay} <- gone, relay = state.relays[node(pid)], do: Relay.unwatch(relay, pid)
    %{state | owners: owners}
  end

  # A relay that has nobody to watch and nothing to send is not needed.
  @spec sweep_relays(State.t()) :: State.t()
  def sweep_relays(%{relays: relays} = state) when map_size(relays) == 0, do: state

  def sweep_relays(state) do
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
end
