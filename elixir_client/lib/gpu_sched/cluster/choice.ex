# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Cluster.Choice do
  # Which scheduler a request for `:any` goes to.
  @moduledoc false

  alias GpuSched.Cluster.Table

  # What the way to a host counts at the least, in µs, when two are drawn: differences below do not
  # matter.
  @floor_us 500
  # A way that has not been measured yet.
  @unmeasured_us 20_000

  # Answers an entry of the table that is not among `tried`; or why there is none: :nobody, when no
  # scheduler is known at all, :model, when none that is known has the model, :tried.
  @spec pick(term, [pid], [Table.entry()]) ::
          {:ok, Table.entry()} | {:none, :nobody | :model | :tried}
  def pick(model, tried, entries \\ Table.all()) do
    Table.wanted()
    heard = Enum.filter(entries, &(&1.state == :up and not Table.silent?(&1)))
    able = Enum.filter(heard, &ready?(&1, model))

    case Enum.reject(able, &(&1.pid in tried)) do
      [] when heard == [] -> {:none, :nobody}
      [] when able == [] -> {:none, :model}
      [] -> {:none, :tried}
      [one] -> {:ok, one}
      several -> {:ok, several |> two() |> Enum.min_by(&expected_us(&1, model))}
    end
  end

  defp ready?(%{models: models}, model) do
    case models do
      %{^model => %{state: "ready"}} -> true
      _ -> false
    end
  end

  # Two, each with a weight that falls with its distance.
  defp two(entries) do
    first = draw(entries)
    [first, draw(List.delete(entries, first))]
  end

  defp draw(entries) do
    weighted = Enum.map(entries, &{1 / (@floor_us + distance_us(&1)), &1})
    total = weighted |> Enum.map(&elem(&1, 0)) |> Enum.sum()
    find(weighted, :rand.uniform() * total)
  end

  defp find([{_weight, entry}], _at), do: entry
  defp find([{weight, entry} | _rest], at) when at < weight, do: entry
  defp find([{weight, _entry} | rest], at), do: find(rest, at - weight)

  # When its answer is expected to be here: the way, its own batch, and what is before it.
  @spec expected_us(Table.entry(), term) :: number
  def expected_us(entry, model) do
    %{latency_us: latency, pace_us: pace} = Map.fetch!(entry.models, model)
    before = entry.in_flight + :counters.get(entry.sent, 1)
    distance_us(entry) + latency + before * pace
  end

  defp distance_us(entry), do: Table.round_trip(entry) || @unmeasured_us
end
