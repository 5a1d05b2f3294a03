# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ClusterScript do
  # What the tests of clusters run on other nodes.
  @moduledoc false

  # So many processes, each with so many requests for :any one after the other. Tells `to`'s file how
  # far it is by the number of requests that have ended; answers how often each result came.
  def load(model, callers, each, options, inputs \\ %{}) do
    done = :counters.new(1, [])
    :persistent_term.put({__MODULE__, :done}, done)

    1..callers
    |> Enum.map(fn _ -> Task.async(fn -> repeat(model, each, inputs, options, done) end) end)
    |> Task.await_many(:infinity)
    |> Enum.concat()
    |> Enum.frequencies()
  end

  def done do
    case :persistent_term.get({__MODULE__, :done}, nil) do
      nil -> 0
      counter -> :counters.get(counter, 1)
    end
  end

  defp repeat(model, each, inputs, options, done) do
    for _ <- 1..each do
      result = GpuSched.infer(:any, model, inputs, options)
      :counters.add(done, 1, 1)

      case result do
        {:ok, _} -> :ok
        {:error, error} -> {error.reason, error.message}
      end
    end
  end

  # So many times: asks, once a node that has not answered is due to be asked again, who is there;
  # answers whom the member waits for then, where it waits for anybody.
  def looks_awaiting(times) do
    for _ <- 1..times, awaited = look(ticks()), awaited != [], do: awaited
  end

  defp ticks, do: :sys.get_state(GpuSched.Cluster.Member).ticks

  defp look(since) do
    wait_ticks(since + 5)
    task = Task.async(fn -> GpuSched.cluster() end)
    awaited = seen_awaited(task, [])
    {:ok, _} = Task.await(task)
    awaited
  end

  defp seen_awaited(task, seen) do
    now = MapSet.to_list(:sys.get_state(GpuSched.Cluster.Member).awaited)
    if Process.alive?(task.pid), do: seen_awaited(task, now ++ seen), else: Enum.uniq(now ++ seen)
  end

  # Waits until the member here has announced itself so many times.
  def ticks(count), do: wait_ticks(ticks() + count)

  defp wait_ticks(until) do
    if ticks() < until do
      receive do
      after
        5 -> wait_ticks(until)
      end
    end
  end

  # Has something on the connection to a node all the time, until it is killed.
  def chatter(node) do
    spawn(fn -> chat(node) end)
  end

  defp chat(node) do
    send({__MODULE__, node}, :nothing)

    receive do
    after
      20 -> chat(node)
    end
  end

  # How long ago a node was last heard of, at the most, while the member here ticks so many times.
  def oldest(node, count) do
    Enum.max(
      for _ <- 1..count do
        ticks(1)
        now = GpuSched.Cluster.Table.now()
        Enum.max(for %{node: ^node} = e <- GpuSched.Cluster.Table.all(), do: now - e.heard)
      end
    )
  end

  # As if nobody had asked for a long time.
  def forget_wanted do
    {GpuSched.Cluster.Table, :wanted} |> :persistent_term.get() |> :atomics.put(1, 0)
  end

  # In a process that can be killed.
  def begin(model, options) do
    spawn(fn -> GpuSched.infer(:any, model, %{}, options) end)
  end

  def hold(server),
    do: spawn(fn -> GpuSched.infer(server, "hold", %{}, timeout: :infinity) end)

  # How many results were good.
  def many(model, inputs) do
    {:ok, _} = GpuSched.await(GpuSched.async(:any, model, hd(inputs)))

    :any
    |> GpuSched.infer_many(model, inputs, max_concurrency: 8)
    |> Enum.count(&match?({:ok, _}, &1))
  end

  # As a laptop that has no code of ours.
  def begin_through(host, args) do
    spawn(fn -> :erpc.call(host, GpuSched, :infer, args) end)
  end
end
