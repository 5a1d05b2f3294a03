# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Progress do
  # The line that is drawn while a run goes on, where the caller's group leader is. What is no
  # terminal gets a line for each point.
  @moduledoc false

  alias GpuSched.Load.{Histogram, Point}

  @spec start(map) :: pid | nil
  def start(%{progress: false}), do: nil

  def start(opts) do
    leader = Process.group_leader()
    caller = self()

    spawn_link(fn ->
      Process.group_leader(self(), leader)
      Process.monitor(caller)
      columns = if match?({:ok, _}, :io.columns()), do: elem(:io.columns(), 1)

      loop(%{
        how: [],
        of: opts,
        seen: %{},
        columns: columns,
        shown: false,
        nodes: length(opts.nodes)
      })
    end)
  end

  @spec point(pid | nil, keyword, map) :: :ok
  def point(nil, _how, _opts), do: :ok
  def point(pid, how, opts), do: tell(pid, {:point, how, Map.take(opts, [:window, :duration])})

  @spec stop(pid | nil) :: :ok
  def stop(nil), do: :ok

  def stop(pid) do
    ref = Process.monitor(pid)
    send(pid, :stop)

    receive do
      {:DOWN, ^ref, :process, _pid, _reason} -> :ok
    end
  end

  defp tell(pid, message) do
    send(pid, message)
    :ok
  end

  defp loop(state) do
    receive do
      {:point, how, times} ->
        over(state)
        state = %{state | of: Map.merge(state.of, times)}
        loop(draw(%{state | how: how, seen: %{}, shown: false}, nil))

      {:window, node, window} ->
        n = window["window"]
        windows = Map.put(Map.get(state.seen, n, %{}), node, window)
        state = %{state | seen: Map.put(state.seen, n, windows)}
        if map_size(windows) == state.nodes, do: loop(draw(state, n)), else: loop(state)

      :stop ->
        over(state)

      {:DOWN, _monitor, :process, _caller, _reason} ->
        :ok
    end
  end

  defp over(%{columns: nil, how: []}), do: :ok
  defp over(%{columns: nil} = state), do: IO.puts(line(state, last(state)))
  defp over(%{shown: true}), do: IO.write("\n")
  defp over(_state), do: :ok

  defp last(%{seen: seen}) when map_size(seen) == 0, do: nil
  defp last(%{seen: seen}), do: seen |> Map.keys() |> Enum.max()

  defp draw(%{columns: nil} = state, _n), do: state

  defp draw(state, n) do
    text = state |> line(n) |> String.slice(0, state.columns - 1)
    IO.write("\r" <> String.pad_trailing(text, state.columns - 1))
    %{state | shown: true}
  end

  defp line(state, nil), do: load(state.how) <> " · warming up"

  defp line(%{of: opts} = state, n) do
    windows = Map.values(state.seen[n])
    seconds = min(opts.window, opts.duration - n * opts.window) / 1_000
    passed = min((n + 1) * opts.window, opts.duration) / 1_000
    sum = fn key -> windows |> Enum.map(& &1[key]) |> Enum.sum() end
    latency = windows |> Enum.map(& &1["latency"]) |> Histogram.merge()
    [p50, p99] = for p <- [50, 99], do: Point.percentile(latency, sum.("failed"), p)

    "#{load(state.how)} · #{Float.round(passed, 1)} of #{opts.duration / 1_000} s · " <>
      "#{round(sum.("done") / seconds)}/s answered · p50 #{ms(p50)} p99 #{ms(p99)} ms" <>
      failed(sum.("failed"))
  end

  defp load(rate: :recorded), do: "as recorded"
  defp load(rate: rate), do: "#{rate}/s offered"
  defp load(concurrency: n), do: "#{n} callers"
  defp load(_none), do: ""

  defp ms(nil), do: "–"
  defp ms(:infinity), do: "∞"
  defp ms(ms) when ms < 10, do: :erlang.float_to_binary(ms, decimals: 2)
  defp ms(ms), do: :erlang.float_to_binary(ms, decimals: 1)

  defp failed(0), do: ""
  defp failed(n), do: " · #{n} failed"
end
