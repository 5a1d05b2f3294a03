# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ClusterChoiceTest do
  # Which host a request for :any goes to, of hosts that are made up.
  use ExUnit.Case, async: true

  alias GpuSched.Cluster.{Choice, Table}

  # A process stands for the scheduler, and this node for its own, so nothing is waited for.
  defp entry(changes) do
    Map.merge(
      %{
        pid: spawn(fn -> :ok end),
        node: node(),
        name: nil,
        region: nil,
        state: :up,
        in_flight: 0,
        capacity: 100,
        models: %{"m" => %{state: "ready", latency_us: 1_000, pace_us: 100}},
        devices: ["cpu:0"],
        via: nil,
        further: nil,
        heard: Table.now(),
        sent: :counters.new(1, [])
      },
      Map.new(changes)
    )
  end

  # Through a host whose way has been measured: what lies behind that is made up.
  defp far(changes, us), do: entry([node: :far@away, via: node(), further: us] ++ changes)

  defp shares(entries, draws \\ 2_000) do
    :rand.seed(:exsss, {1, 2, 3})

    for(_ <- 1..draws, {:ok, entry} <- [Choice.pick("m", [], entries)], do: entry.pid)
    |> Enum.frequencies()
  end

  test "nobody, nobody with the model, nobody left" do
    loading = %{"m" => %{state: "loading", latency_us: 1, pace_us: 1}}
    assert Choice.pick("m", [], []) == {:none, :nobody}
    assert Choice.pick("m", [], [entry(state: :closing), entry(state: :down)]) == {:none, :nobody}
    assert Choice.pick("m", [], [entry(models: %{}), entry(models: loading)]) == {:none, :model}

    one = entry([])
    assert Choice.pick("m", [], [one, entry(state: :closing)]) == {:ok, one}
    assert Choice.pick("m", [one.pid], [one]) == {:none, :tried}
  end

  test "one that has not been heard of is avoided" do
    old = Table.now() - 60_000
    assert Choice.pick("m", [], [entry(node: :far@away, heard: old)]) == {:none, :nobody}
  end

  test "of two that are alike, both" do
    [one, other] = entries = [entry([]), entry([])]
    shares = shares(entries)
    # Their expectations are the same, so it is the draw that decides: the first of the two drawn.
    assert_in_delta shares[one.pid], 1_000, 150
    assert_in_delta shares[other.pid], 1_000, 150
  end

  test "of two, the one with less before it" do
    busy = entry(in_flight: 50)
    idle = entry(in_flight: 10)
    assert shares([busy, idle]) == %{idle.pid => 2_000}

    # What this node has sent since counts as well.
    :counters.add(idle.sent, 1, 100)
    assert shares([busy, idle]) == %{busy.pid => 2_000}
  end

  test "the same load is less on one that is quicker" do
    quick = %{"m" => %{state: "ready", latency_us: 1_000, pace_us: 10}}
    quick = entry(in_flight: 50, models: quick)
    assert shares([entry(in_flight: 50), quick]) == %{quick.pid => 2_000}
  end

  test "a near one is taken before a far one, until it is as late" do
    near = entry(in_flight: 10)
    far = far([], 40_000)
    assert shares([near, far]) == %{near.pid => 2_000}

    # 500 requests of 100 µs are more than the way.
    near = entry(in_flight: 500)
    assert shares([near, far]) == %{far.pid => 2_000}
  end

  test "of many, near ones are drawn more often, and nobody gets all" do
    near = for _ <- 1..3, do: entry([])
    far = for _ <- 1..3, do: far([], 5_000)
    shares = shares(near ++ far)
    assert Enum.all?(near, &(shares[&1.pid] > 400))
    assert far |> Enum.map(&Map.get(shares, &1.pid, 0)) |> Enum.sum() < 100
  end
end
