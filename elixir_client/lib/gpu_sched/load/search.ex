# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Search do
  # The highest rate at which so many percent of all requests are answered in time, and do not pile up:
  # the rate is doubled until that fails, and then what is between is halved, on a scale of factors.
  @moduledoc false

  alias GpuSched.Load.Point

  @type outcome :: %{String.t() => term}

  # `measure` answers the point of a rate.
  @spec run(map, number, (number -> {:ok, Point.t()} | {:error, term})) ::
          {:ok, [Point.t()], outcome}
          | {:broke, [Point.t()], outcome, map}
          | {:error, term}
  def run(search, percentile, measure) do
    state = %{
      search: search,
      needed: percentile / 100,
      measure: measure,
      points: [],
      good: nil,
      bad: nil,
      limited: nil
    }

    case step(state, search.from) do
      {:ok, state} ->
        {points, outcome} = outcome(state)
        {:ok, points, outcome}

      {:broke, state, broke} ->
        {points, outcome} = outcome(state)
        {:broke, points, outcome, broke}

      error ->
        error
    end
  end

  # That it ended at a load which could not be measured.
  @spec broke(number | :recorded, Exception.t()) :: map
  def broke(load, error) do
    load = if is_number(load), do: load
    %{"offered" => load, "error" => Exception.message(error)}
  end

  defp step(state, rate) do
    case state.measure.(rate) do
      {:ok, point} -> judge(state, rate, point)
      {:error, error} when state.points == [] -> {:error, error}
      {:error, error} -> {:broke, state, broke(rate, error)}
    end
  end

  defp judge(state, rate, point) do
    state = %{state | points: [point | state.points]}

    # Being late is part of a latency: what holds although the generator was, holds. Where it does
    # not hold, it may have been for that.
    state =
      if holds?(point, state.needed),
        do: %{state | good: rate},
        else: %{state | bad: rate, limited: point["limited"]}

    go_on(state, length(state.points))
  end

  # Where requests pile up it holds only until they have waited that long: for as long as it was tried.
  defp holds?(point, needed),
    do: (Point.share_in_time(point) || 0) >= needed and point["growing"] != true

  defp go_on(%{search: search} = state, n) do
    %{good: good, bad: bad} = state

    cond do
      n >= search.most -> {:ok, state}
      bad == nil and search.to != nil and good >= search.to -> {:ok, state}
      bad == nil -> step(state, min(good * 2, search.to || good * 2))
      # Not even the first; something that holds is looked for below.
      good == nil and bad <= search.from / 64 -> {:ok, state}
      good == nil -> step(state, bad / 2)
      bad / good <= 1 + search.precision -> {:ok, state}
      true -> step(state, round_rate(:math.sqrt(good * bad)))
    end
  end

  # Rates that people can read.
  defp round_rate(rate) when rate >= 100, do: round(rate)
  defp round_rate(rate), do: Float.round(rate, 2)

  defp outcome(state) do
    points = Enum.sort_by(state.points, & &1["offered"])

    outcome = %{
      "rate" => state.good,
      "fails_at" => state.bad,
      "percentile" => state.needed * 100,
      "limited" => state.limited
    }

    {points, outcome}
  end
end
