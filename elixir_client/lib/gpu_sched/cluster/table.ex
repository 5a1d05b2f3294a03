# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Cluster.Table do
  # What is known of all schedulers, where those who ask read it themselves. The member of this node
  # writes it; callers only count, in `sent`, what they sent since the last announcement.
  @moduledoc false

  @table __MODULE__
  # Announcements that may be missed.
  @patience 8

  @type entry :: %{
          pid: pid,
          node: node,
          name: atom | nil,
          region: String.t() | nil,
          state: atom,
          in_flight: non_neg_integer,
          capacity: non_neg_integer,
          models: %{String.t() => %{state: String.t(), latency_us: number, pace_us: number}},
          devices: [String.t()],
          via: node | nil,
          heard: integer,
          sent: :counters.counters_ref()
        }

  def create do
    :persistent_term.put({@table, :wanted}, :atomics.new(1, signed: true))
    :ets.new(@table, [:named_table, :public, read_concurrency: true])
  end

  # Somebody asks for what is in it. Written seldom, because many processes do.
  @spec wanted :: :ok
  def wanted do
    case :persistent_term.get({@table, :wanted}, nil) do
      nil -> :ok
      at -> if now() - last(at) > 1_000, do: :atomics.put(at, 1, now()), else: :ok
    end
  end

  @never -0x1000000000000

  @spec last_wanted :: integer
  def last_wanted, do: last(:persistent_term.get({@table, :wanted}))

  defp last(at) do
    case :atomics.get(at, 1) do
      0 -> @never
      ms -> ms
    end
  end

  @spec all :: [entry]
  def all do
    for({{:scheduler, _pid}, entry} <- :ets.tab2list(@table), do: entry)
    |> Enum.sort_by(&{&1.node, &1.name, &1.pid})
  rescue
    # The application is not started.
    ArgumentError -> []
  end

  @spec fetch(pid) :: {:ok, entry} | :error
  def fetch(pid) do
    case :ets.lookup(@table, {:scheduler, pid}) do
      [{_key, entry}] -> {:ok, entry}
      [] -> :error
    end
  rescue
    ArgumentError -> :error
  end

  # What a node has said, in place of what it said before. What came straight from it is not replaced
  # by what somebody else tells of it, unless it is old.
  @spec put(node, node | nil, [map], integer) :: :ok
  def put(node, via, schedulers, now) do
    known = of_node(node)

    unless via != nil and Enum.any?(known, &(&1.via == nil and not silent?(&1))) do
      for s <- schedulers do
        entry = Map.merge(s, %{node: node, via: via, heard: now, sent: :counters.new(1, [])})
        :ets.insert(@table, {{:scheduler, s.pid}, entry})
      end

      pids = Enum.map(schedulers, & &1.pid)
      for entry <- known, entry.pid not in pids, do: :ets.delete(@table, {:scheduler, entry.pid})
    end

    :ok
  end

  # A node is gone; with it what it told of others.
  @spec drop(node) :: :ok
  def drop(node) do
    for entry <- all(),
        entry.node == node or entry.via == node,
        do: :ets.delete(@table, {:scheduler, entry.pid})

    :ets.delete(@table, {:round_trip, node})
    :ets.delete(@table, {:traffic, node})
    :ok
  end

  # Somebody tells that another one is gone; it may be known better here.
  @spec drop_via(node, node) :: :ok
  def drop_via(node, via) do
    for %{via: ^via} = entry <- of_node(node), do: :ets.delete(@table, {:scheduler, entry.pid})
    :ok
  end

  defp of_node(node), do: Enum.filter(all(), &(&1.node == node))

  @spec silent?(entry) :: boolean
  def silent?(%{node: node}) when node == node(), do: false
  def silent?(entry), do: now() - entry.heard > @patience * interval()

  # What the connection to a node has brought so far; nil where that is not known, and then it is
  # thought to have brought something. Counted is how often it was the same, and not for how long: a
  # laptop that was asleep has lost nothing yet.
  @spec traffic(node, non_neg_integer | nil) :: :ok
  def traffic(node, bytes) do
    case :ets.lookup(@table, {:traffic, node}) do
      [{key, ^bytes, times}] when bytes != nil -> :ets.insert(@table, {key, bytes, times + 1})
      _ -> :ets.insert(@table, {{:traffic, node}, bytes, 0})
    end

    :ok
  end

  # Whether nothing at all has come from a node for so long that it must have stopped. Unlike
  # silent?/1, which large messages on the connection can bring about.
  @spec mute?(node) :: boolean
  def mute?(node) do
    case :ets.lookup(@table, {:traffic, node}) do
      [{_key, _bytes, times}] -> times > @patience
      [] -> false
    end
  rescue
    ArgumentError -> false
  end

  # Smoothed. `further` is what lies behind the node that told of it.
  @spec measured(node, non_neg_integer) :: :ok
  def measured(node, us) do
    smooth =
      case :ets.lookup(@table, {:round_trip, node}) do
        [{_, old}] -> div(7 * old + us, 8)
        [] -> us
      end

    :ets.insert(@table, {{:round_trip, node}, smooth})
    :ok
  end

  # In µs; nil where it has not been measured yet.
  @spec round_trip(entry) :: non_neg_integer | nil
  def round_trip(%{node: node}) when node == node(), do: 0
  def round_trip(%{node: node, via: nil}), do: round_trip_to(node)

  def round_trip(%{via: via, further: further}) do
    with near when is_integer(near) <- round_trip_to(via), do: near + (further || 0)
  end

  @spec round_trip_to(node) :: non_neg_integer | nil
  def round_trip_to(node) when node == node(), do: 0

  def round_trip_to(node) do
    case :ets.lookup(@table, {:round_trip, node}) do
      [{_, us}] -> us
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end

  @spec now :: integer
  def now, do: :erlang.monotonic_time(:millisecond)

  @spec interval :: pos_integer
  def interval,
    do: :gpu_sched |> Application.get_env(:cluster, []) |> Keyword.get(:interval, 250)
end
