# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Cluster.Member do
  # This node among the others: announces its schedulers, hears of theirs, measures the way to them.
  #
  #   {:gs_announce, 1, member, region, schedulers}       what a node has, from its member
  #   {:gs_relay, 1, member, node, us, region, schedulers} the same, passed on to one who is hidden
  #   {:gs_gone, 1, member, node}                          that one is gone
  #   {:gs_follow, 1, member}                              from one that :pg does not show: tell me
  #   {:gs_unfollow, 1, member}                            and no more
  #   {:gs_ping, member, time}, {:gs_pong, node, time}
  #
  # Only one that is hidden follows, and connects to whom it is told of; and it passes nothing on. A
  # laptop between two clusters would make them one otherwise.
  #
  # It sends to no node that has stopped reading: what does not fit is left out, and comes again.
  @moduledoc false
  use GenServer

  alias GpuSched.Cluster.{Gauge, Table}
  alias GpuSched.Error

  @scope GpuSched.Cluster
  @group :members
  # In announcements.
  @pings_every 2
  @connects_every 240
  @asks_every 4
  # Of one behind another nothing may have come for so many, until it is dropped.
  @forgets_after 240
  # How long those who ask are waited with for the first answers, at most.
  @look_ms 1_000
  # For how long others are followed after somebody wanted to know of them.
  @follow_ms 60_000

  def start_link(_arg), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  # Has this node hear of all others from now on, and waits until it has.
  @spec look(timeout) :: :ok | {:error, Error.t()}
  def look(timeout) do
    GenServer.call(__MODULE__, :look, timeout)
  catch
    :exit, {reason, _} when reason in [:noproc, :shutdown, :normal] ->
      {:error,
       Error.exception(
         reason: :unavailable,
         message:
           "the application :gpu_sched is not started on #{node()}, and it is what hears of other " <>
             "hosts: Application.ensure_all_started(:gpu_sched), or call it on a host by :erpc"
       )}

    :exit, {:timeout, _} ->
      {:error, Error.exception(reason: :deadline_exceeded)}
  end

  # For tests: whether nothing is sent, because nobody listens.
  @doc false
  def quiet?, do: GenServer.call(__MODULE__, :quiet?)

  # `heard` are the members that are watched, with the monitor of each, `followers` those that asked
  # to be told, `asked` the nodes that this one has asked, and `met` those it tried to connect to, with the
  # tick; `lost` are members that say nothing over a connection that carries nothing; `unheard` are nodes
  # behind another, with what was heard of them last and for how many ticks that has been the same;
  # `lookers` wait for those `awaited`.
  defstruct [
    :gauge,
    gauging: false,
    follows: false,
    ticks: 0,
    own: [],
    announced: false,
    heard: %{},
    followers: %{},
    asked: %{},
    met: %{},
    lost: MapSet.new(),
    unheard: %{},
    lookers: [],
    awaited: MapSet.new()
  ]

  @impl true
  def init(_arg) do
    Table.create()
    :ok = :pg.join(@scope, @group, self())
    :ok = :net_kernel.monitor_nodes(true, node_type: :all)
    tick_later()
    {:ok, %__MODULE__{gauge: Gauge.start_link(self())}}
  end

  @impl true
  def handle_call(:look, from, state) do
    Table.wanted()
    state = state |> follows() |> gauge()
    timer = Process.send_after(self(), {:looked, from}, @look_ms)
    {:noreply, settle(%{state | lookers: [{from, timer} | state.lookers]})}
  end

  def handle_call(:quiet?, _from, state),
    do: {:reply, audience(state) == [] and not state.follows, state}

  @impl true
  def handle_info(:tick, state) do
    tick_later()
    state = %{state | ticks: state.ticks + 1}
    state = state |> follows() |> traffic() |> unheard() |> say()

    if rem(state.ticks, @pings_every) == 0 and (state.follows or audience(state) != []),
      do: for({member, _} <- state.heard, do: tell(member, {:gs_ping, self(), micros()}))

    {:noreply, state}
  end

  def handle_info({:gauged, schedulers}, state) do
    Table.put(
      node(),
      nil,
      for(s <- schedulers, do: Map.merge(s, %{region: region(), further: nil})),
      Table.now()
    )

    state = announce(%{state | gauging: false, own: schedulers}, audience(state))
    {:noreply, settle(state)}
  end

  def handle_info({:gs_announce, 1, member, region, schedulers}, state)
      when is_pid(member) and is_list(schedulers) do
    if node(member) == node() do
      {:noreply, state}
    else
      state = hear(state, member)
      entries = for s <- schedulers, do: Map.merge(s, %{region: region, further: nil})
      Table.put(node(member), nil, entries, Table.now())
      relay(state, node(member), region, schedulers)
      decline(state, member)
      {:noreply, settle(%{state | awaited: MapSet.delete(state.awaited, node(member))})}
    end
  end

  # What came from itself by a detour is known better here.
  def handle_info({:gs_relay, 1, member, node, us, region, schedulers}, state)
      when node != node() and is_list(schedulers) do
    if state.follows do
      state = hear(state, member)
      entries = for s <- schedulers, do: Map.merge(s, %{region: region, further: us})
      Table.put(node, node(member), entries, Table.now())
      {:noreply, meet(state, node)}
    else
      decline(state, member)
      {:noreply, state}
    end
  end

  def handle_info({:gs_gone, 1, member, node}, state) do
    Table.drop_via(node, node(member))
    {:noreply, state}
  end

  # A hidden node's. It is told at once what is known.
  def handle_info({:gs_follow, 1, member}, state) when is_pid(member) do
    state =
      if is_map_key(state.followers, member),
        do: state,
        else: put_in(state.followers[member], Process.monitor(member))

    for {node, entries} <- Enum.group_by(Table.all(), & &1.node),
        not hidden?(),
        node not in [node(), node(member)] do
      relay_to([member], node, hd(entries).region, Enum.map(entries, &bare/1))
    end

    # What this node has is gauged first, should nobody have asked before.
    {:noreply, gauge(state)}
  end

  def handle_info({:gs_unfollow, 1, member}, state), do: {:noreply, unfollow(state, member)}

  def handle_info({:gs_ping, member, time}, state) do
    tell(member, {:gs_pong, node(), time})
    {:noreply, state}
  end

  def handle_info({:gs_pong, node, time}, state) do
    if Enum.any?(state.heard, fn {member, _} -> node(member) == node end),
      do: Table.measured(node, max(micros() - time, 0))

    {:noreply, state}
  end

  def handle_info({:DOWN, monitor, :process, member, _reason}, state) do
    cond do
      state.heard[member] == monitor ->
        {:noreply, forget(state, member)}

      state.followers[member] == monitor ->
        {:noreply, unfollow(state, member)}

      true ->
        {:noreply, state}
    end
  end

  # A node that came is asked when there is reason to.
  def handle_info({:nodeup, _node, _info}, state), do: {:noreply, follows(state)}

  def handle_info({:nodedown, node, _info}, state),
    do:
      {:noreply,
       settle(%{
         state
         | asked: Map.delete(state.asked, node),
           awaited: MapSet.delete(state.awaited, node)
       })}

  def handle_info({:looked, from}, state) do
    {now, later} = Enum.split_with(state.lookers, fn {other, _} -> other == from end)
    for {from, _timer} <- now, do: GenServer.reply(from, :ok)
    # Who has not said anything by now is not waited for by the next one either.
    {:noreply, %{state | lookers: later, awaited: MapSet.new()}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # ---- announcing

  # Everybody on other nodes who wants to hear what this node has.
  defp audience(state) do
    seen = for pid <- :pg.get_members(@scope, @group), node(pid) != node(), do: pid
    Enum.uniq(seen ++ Map.keys(state.followers))
  end

  # What is read takes its time where a sched-port is slow: then what was read last is said, because
  # who says nothing is avoided.
  defp say(state) do
    case audience(state) do
      [] -> if state.follows, do: gauge(state), else: state
      audience when state.gauging -> announce(state, audience)
      _audience -> gauge(state)
    end
  end

  defp gauge(%{gauging: true} = state), do: state

  defp gauge(state) do
    Gauge.read(state.gauge)
    %{state | gauging: true}
  end

  # Once it has had schedulers it says also that it has none any more.
  defp announce(state, audience) do
    if state.own != [] or state.announced or map_size(state.followers) > 0 do
      for member <- audience, do: tell(member, {:gs_announce, 1, self(), region(), state.own})
      %{state | announced: true}
    else
      state
    end
  end

  defp relay(%{followers: followers}, _node, _region, _s) when map_size(followers) == 0, do: :ok

  defp relay(state, node, region, schedulers) do
    members = for {member, _} <- state.followers, node(member) != node, do: member
    unless hidden?(), do: relay_to(members, node, region, schedulers)
    :ok
  end

  defp relay_to(members, node, region, schedulers) do
    us = Table.round_trip_to(node)
    message = {:gs_relay, 1, self(), node, us, region, schedulers}
    for member <- members, do: tell(member, message)
    :ok
  end

  # Whether anything at all comes from those that are heard of. A large message holds up everything
  # behind it, announcements among them, and is no reason to think that a node is lost.
  defp traffic(state) do
    ways = Map.new(:erlang.system_info(:dist_ctrl))

    lost =
      for {member, _} <- state.heard,
          node = node(member),
          way = ways[node],
          into: MapSet.new() do
        Table.traffic(node, received(way))
        if Table.mute?(node), do: member
      end
      |> MapSet.delete(nil)

    # Who hears of it through this node cannot know.
    for member <- MapSet.difference(lost, state.lost),
        {follower, _} <- state.followers,
        do: tell(follower, {:gs_gone, 1, self(), node(member)})

    %{state | lost: lost}
  end

  # That one behind another is gone is told once, and may have been lost on the way. Counted is how often
  # nothing had come, and not for how long: who was asleep has missed nothing yet.
  defp unheard(%{follows: false} = state), do: %{state | unheard: %{}}

  defp unheard(state) do
    unheard =
      for %{via: via, node: node, heard: heard} when via != nil <- Table.all(),
          into: %{},
          do: {{node, via}, {heard, unheard(state.unheard[{node, via}], heard)}}

    old = for {way, {_heard, ticks}} <- unheard, ticks > @forgets_after, do: way
    for {node, via} <- old, do: Table.drop_via(node, via)
    %{state | unheard: Map.drop(unheard, old)}
  end

  defp unheard({heard, ticks}, heard), do: ticks + 1
  defp unheard(_other, _heard), do: 0

  # What is not a socket, TLS for one, does not say: then it is thought to carry something.
  defp received(way) when is_port(way) do
    case :inet.getstat(way, [:recv_oct]) do
      {:ok, [recv_oct: bytes]} -> bytes
      {:error, _} -> nil
    end
  end

  defp received(_way), do: nil

  defp bare(entry),
    do: Map.drop(entry, [:node, :via, :heard, :sent, :region, :further])

  defp tell(member, message) do
    :erlang.send(member, message, [:nosuspend, :noconnect])
    :ok
  end

  # ---- hearing

  defp hear(state, member) do
    if is_map_key(state.heard, member) do
      state
    else
      tell(member, {:gs_ping, self(), micros()})
      put_in(state.heard[member], Process.monitor(member))
    end
  end

  defp forget(state, member) do
    Table.drop(node(member))
    for {follower, _} <- state.followers, do: tell(follower, {:gs_gone, 1, self(), node(member)})
    %{state | heard: Map.delete(state.heard, member)}
  end

  # All connections of a hidden node are hidden ones. (A visible one that has none but those is alone,
  # and has nothing to pass on.)
  defp hidden?, do: Node.list(:visible) == []

  # Whether others are followed: by a hidden node, while somebody here wants to know of them.
  defp follows(state) do
    cond do
      hidden?() and Table.now() - Table.last_wanted() < @follow_ms ->
        follow(%{state | follows: true})

      state.follows ->
        # Those who have answered are asked anew the next time.
        shown = shown()
        heard = for {member, _} <- state.heard, node(member) not in shown, do: member
        for member <- heard, do: tell(member, {:gs_unfollow, 1, self()})
        asked = Map.drop(state.asked, Enum.map(heard, &node/1))
        settle(%{state | follows: false, asked: asked, awaited: MapSet.new()})

      true ->
        state
    end
  end

  # What was told to stop may not have heard of it.
  defp decline(%{follows: true}, _member), do: :ok

  defp decline(_state, member),
    do: unless(node(member) in shown(), do: tell(member, {:gs_unfollow, 1, self()}))

  defp unfollow(state, member) do
    {monitor, followers} = Map.pop(state.followers, member)
    if monitor, do: Process.demonitor(monitor, [:flush])
    %{state | followers: followers}
  end

  defp shown, do: for(pid <- :pg.get_members(@scope, @group), do: node(pid))

  # Asks the nodes that :pg does not show. One without a member does not answer; it is asked again,
  # because it may have been started since, and not waited for again.
  defp follow(state) do
    out =
      shown() ++
        for {member, _} <- state.heard, is_map_key(state.asked, node(member)), do: node(member)

    for node <- Node.list(:connected),
        node not in out,
        ask?(state.asked[node], state.ticks),
        reduce: state do
      state ->
        :erlang.send({__MODULE__, node}, {:gs_follow, 1, self()}, [:nosuspend, :noconnect])
        first? = not is_map_key(state.asked, node)
        awaited = if first?, do: MapSet.put(state.awaited, node), else: state.awaited
        %{state | asked: Map.put(state.asked, node, state.ticks), awaited: awaited}
    end
  end

  defp ask?(nil, _now), do: true
  defp ask?(last, now), do: now - last > @asks_every

  # One that was told of is better spoken to directly. It is tried now and then, by a process of its
  # own, because it may take long to fail.
  defp meet(state, node) do
    known? = node in Node.list(:connected)
    last = state.met[node]

    if known? or (last != nil and state.ticks - last < @connects_every) do
      state
    else
      spawn(fn -> :net_kernel.connect_node(node) end)
      put_in(state.met[node], state.ticks)
    end
  end

  # Those who look are answered when everybody who was asked has said something.
  defp settle(%{lookers: []} = state), do: state

  defp settle(state) do
    if state.gauging or MapSet.size(state.awaited) > 0 do
      state
    else
      for {from, timer} <- state.lookers do
        Process.cancel_timer(timer)
        GenServer.reply(from, :ok)
      end

      %{state | lookers: []}
    end
  end

  # From a command line it is a charlist.
  defp region do
    region = Application.get_env(:gpu_sched, :region) || System.get_env("FLY_REGION")
    if region, do: to_string(region)
  end

  defp micros, do: :erlang.monotonic_time(:microsecond)
  defp tick_later, do: Process.send_after(self(), :tick, Table.interval())
end
