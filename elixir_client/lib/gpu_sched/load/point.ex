# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Point do
  # What came of one rate, or of one number of callers: plain terms, but for the histograms.
  @moduledoc false

  alias GpuSched.Load.Histogram

  # Windows that have to agree for a point to count as stable.
  @stable 3

  @percents [50, 90, 95, 99, 99.9]

  @type t :: %{String.t() => term}

  def percents, do: @percents

  @spec new(map, keyword, map) :: t
  def new(raw, how, opts) do
    windows = Enum.map(raw["windows"], &window(&1, opts.window / 1_000))
    latency = raw["windows"] |> Enum.map(& &1["latency"]) |> Histogram.merge()
    seconds = opts.duration / 1_000
    sent = total(raw, "sent")

    point = %{
      "mode" => if(how[:concurrency], do: "closed", else: "open"),
      "offered" => offered(how, sent, seconds),
      "seconds" => seconds,
      "sent" => sent,
      "ok" => total(raw, "ok"),
      "failed" => total(raw, "failed"),
      "errors" => raw["errors"],
      "throughput" => total(raw, "done") / seconds,
      "within_ms" => opts.within,
      "in_time" => opts.within && total(raw, "in_time"),
      "latency" => latency,
      "service" => raw["service"],
      "queue" => raw["queue"],
      "compute" => raw["compute"],
      "batch" => raw["batch"],
      "lateness" => raw["lateness"],
      "failed_after" => raw["failed"],
      "windows" => windows,
      "stable" => stable?(windows, opts.stability)
    }

    Map.put(point, "limited", limited(point, raw, opts.max_lateness))
  end

  defp total(raw, key), do: raw["windows"] |> Enum.map(& &1[key]) |> Enum.sum()

  defp offered(how, sent, seconds) do
    case how[:concurrency] || how[:rate] do
      :recorded -> sent / seconds
      offered -> offered
    end
  end

  defp window(raw, seconds) do
    [p50, p99] = raw["latency"] |> Histogram.percentiles([50, 99]) |> Enum.map(&ms/1)
    told = max(raw["told"], 1)

    %{
      "at" => raw["window"] * seconds,
      "sent_per_s" => raw["sent"] / seconds,
      "throughput" => raw["done"] / seconds,
      "failed_per_s" => raw["failed"] / seconds,
      "p50_ms" => p50,
      "p99_ms" => p99,
      "mean_ms" => raw["latency"] |> Histogram.mean() |> ms(),
      "answers" => raw["latency"].count,
      "batch" => if(raw["told"] > 0, do: raw["batch_sum"] / told),
      "queue_ms" => if(raw["told"] > 0, do: raw["queue_us_sum"] / told / 1_000),
      "compute_ms" => if(raw["told"] > 0, do: raw["compute_us_sum"] / told / 1_000)
    }
  end

  @spec ms(number | nil) :: float | nil
  def ms(nil), do: nil
  def ms(ns), do: ns / 1.0e6

  # Percentiles in ms, of what is a histogram in ns.
  @spec percentiles_ms(Histogram.t(), [number]) :: [float | nil]
  def percentiles_ms(histogram, percents \\ @percents),
    do: histogram |> Histogram.percentiles(percents) |> Enum.map(&ms/1)

  @spec percentile_ms(t, number) :: float | nil
  def percentile_ms(point, percent), do: point["latency"] |> Histogram.percentile(percent) |> ms()

  # Of all that were to be sent. One that failed is not in time.
  @spec share_in_time(t) :: float | nil
  def share_in_time(%{"in_time" => nil}), do: nil
  def share_in_time(%{"sent" => 0}), do: nil
  def share_in_time(%{"in_time" => n, "sent" => sent}), do: n / sent

  # The last windows agree on throughput and mean latency, but for what is chance with so few
  # requests in them.
  defp stable?(windows, _within) when length(windows) < @stable, do: nil

  defp stable?(windows, within) do
    last = Enum.take(windows, -@stable)

    agree?(last, "throughput", within, fn w -> w["answers"] end) and
      agree?(last, "mean_ms", within, fn w -> w["answers"] end)
  end

  defp agree?(windows, key, within, count) do
    values = Enum.map(windows, & &1[key])

    if Enum.any?(values, &is_nil/1) do
      Enum.all?(values, &is_nil/1)
    else
      mean = Enum.sum(values) / length(values)
      fewest = windows |> Enum.map(count) |> Enum.min() |> max(1)
      slack = mean * (within + 3 / :math.sqrt(fewest))
      Enum.all?(values, &(abs(&1 - mean) <= slack))
    end
  end

  # Where the generator and not what it asked set the pace.
  defp limited(point, raw, max_lateness) do
    lateness = point["lateness"] |> Histogram.percentile(99) |> ms()

    cond do
      raw["overfull"] > 0 ->
        "#{raw["overfull"]} requests were not sent, because max_in_flight were in flight"

      lateness != nil and lateness > max_lateness ->
        "the generator was late: p99 of its lateness is #{Float.round(lateness, 2)} ms, " <>
          "above #{max_lateness} ms (max_lateness)"

      true ->
        nil
    end
  end
end
