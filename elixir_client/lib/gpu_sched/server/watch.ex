# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Watch do
  # The owners of what is in flight, and the relays to the nodes that some of them are on.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1, entry: 2]

  require Logger

  alias GpuSched.{Error, Owners, Relay}
  alias GpuSched.Server.{Credit, Flight, JobLink, Reupload, State}

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

  # What it had under way is ended by abandon/1, at the end of the turn.
  @spec owner_down(State.t(), pid) :: State.t()
  def owner_down(state, pid) do
    case Owners.drop(state.owners, pid) do
      {0, owners} -> %{state | owners: owners}
      {_count, owners} -> %{state | owners: owners, dead: [pid | state.dead]}
    end
  end

  # Cancels everything that dead owners had under way: in one pass for all of them, because with a
  # node thousands die at once. A process that :erpc or async/4 started for one still waits: it is
  # told, so that it ends too.
  @spec abandon(State.t()) :: State.t()
  def abandon(%{dead: []} = state), do: state

  def abandon(%{dead: dead} = state) do
    dead = Map.new(dead, &{&1, true})
    error = Error.exception(reason: :cancelled, message: "its owner died")

    state =
      for {ticket, {to, owner, _bytes}} <- state.waiting,
          is_map_key(dead, owner),
          reduce: state do
        state ->
          State.reply(to, {:error, error})
          Credit.forget_waiting(state, ticket)
      end

    state =
      for {ticket, {owner, _bytes, _generation, _since}} <- state.reservations,
          is_map_key(dead, owner),
          reduce: state do
        state -> Credit.release_reservation(state, ticket)
      end

    state =
      for {id, entry(owner: owner) = e} when is_map_key(dead, owner) <- state.pending,
          reduce: %{state | dead: []} do
        state ->
          state |> Flight.deliver_error(e, error) |> Flight.cancel_entry(id, entry(e, owner: nil))
      end

    JobLink.owners_down(state, dead)
  end

  @spec child_down(State.t(), pid, term) :: State.t()
  def child_down(state, pid, reason) do
    case Enum.find(state.relays, fn {_node, {relay, _queued}} -> relay == pid end) do
      {node, _relay} ->
        Logger.error(
          "#{State.name(state)}: the relay to #{node} failed: #{inspect(reason, limit: 8)}"
        )

        watch_anew(%{state | relays: Map.delete(state.relays, node)}, node)

      nil when pid == state.ctx.jobs.pid ->
        # Who waits for a job is told that by its end; this process has nothing to tell them with.
        exit({:jobs_failed, reason})

      nil when pid == state.ctx.events.pid ->
        exit({:events_failed, reason})

      nil ->
        Reupload.upload_failed(state, pid, reason)
    end
  end

  # What lay in it is lost, so the streams to that node cannot go on.
  defp watch_anew(state, node) do
    state = ensure_relay(state, node, :always)
    relay = state.relays[node]
    for owner <- Owners.on(state.owners, node), do: Relay.watch(relay, owner)
    error = Error.exception(reason: :unknown, message: "the relay to #{node} failed")

    for {ref, id} <- state.streams,
        entry(to: {:relay, _ref, pid, to, _output, _deadline}) = e <- [state.pending[id]],
        node(pid) == node,
        reduce: state do
      state ->
        Relay.open(relay, ref, pid, to)
        state |> Flight.deliver_error(e, error) |> Flight.cancel_entry(id, e)
    end
  end

  # Who has how much under way, node by node.
  @spec clients(State.t()) :: [map]
  def clients(state) do
    for {node, counts} <- Owners.counts(state.owners) do
      %{
        "node" => Atom.to_string(node),
        "in_flight" => Enum.sum(counts),
        "processes" => length(counts)
      }
    end
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
