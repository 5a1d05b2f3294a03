# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Point do
  # What came of one rate, or of one number of callers: plain terms, but for the histograms.
  @moduledoc false

  alias GpuSched.Load.{Histogram, Stability}

  @percents [50, 90, 95, 99, 99.9]

  @type t :: %{String.t() => term}

  def percents, do: @percents

  @spec new(map, keyword, map) :: t
  def new(raw, how, opts) do
    windows = Enum.map(raw["windows"], &window(&1, opts))
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
      "why" => raw["why"],
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
      "stable" => Stability.stable?(windows, opts.stability),
      "trace_ended" => opts.ended && opts.ended / 1_000,
      "growing" => Stability.growing?(windows, opts.stability),
      "skew_ms" => ms(raw["skew"]),
      "generator_busy" => if(how[:concurrency], do: nil, else: raw["busy"])
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

  defp window(raw, opts) do
    # The last may be shorter.
    at = raw["window"] * opts.window
    seconds = min(opts.window, opts.duration - at) / 1_000
    [p50, p99] = for p <- [50, 99], do: number(percentile(raw["latency"], raw["failed"], p))
    told = max(raw["told"], 1)

    %{
      "at" => at / 1_000,
      "sent_per_s" => raw["sent"] / seconds,
      "sent" => raw["sent"],
      "ended" => raw["ended"],
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

  # Of all that were due, in ms. One that failed was never answered, however soon it failed, so it
  # lies above all that were: a percentile among those is :infinity.
  @spec percentile_ms(t, number) :: float | :infinity | nil
  def percentile_ms(point, percent), do: percentile(point["latency"], point["failed"], percent)

  @spec percentiles_ms(t) :: [float | :infinity | nil]
  def percentiles_ms(point), do: Enum.map(@percents, &percentile_ms(point, &1))

  @spec percentile(Histogram.t(), non_neg_integer, number) :: float | :infinity | nil
  def percentile(%{count: 0}, 0, _percent), do: nil

  def percentile(%{count: answered} = latency, failed, percent) do
    due = answered + failed
    rank = (percent * due / 100) |> Float.ceil() |> trunc() |> max(1) |> min(due)

    if rank > answered,
      do: :infinity,
      else: latency |> Histogram.at_rank(rank) |> ms()
  end

  # For what takes numbers only.
  @spec number(float | :infinity | nil) :: float | nil
  def number(:infinity), do: nil
  def number(ms), do: ms

  # What a percentile that is infinite is known to be above: whatever was answered, and the age at
  # which the first failed.
  @spec known_ms(t) :: float | nil
  def known_ms(point),
    do: max(point["latency"].max || 0, point["failed_after"].min || 0) |> ms()

  # Of all that were to be sent. One that failed is not in time.
  @spec share_in_time(t) :: float | nil
  def share_in_time(%{"in_time" => nil}), do: nil
  def share_in_time(%{"sent" => 0}), do: nil
  def share_in_time(%{"in_time" => n, "sent" => sent}), do: n / sent

  # What else a lane has to do makes answers look later than they came: little, as long as it mostly
  # waits.
  @most_busy 0.9

  # Where the generator and not what it asked set the pace.
  defp limited(point, raw, max_lateness) do
    lateness = point["lateness"] |> Histogram.percentile(99) |> ms()

    cond do
      raw["behind"] > 0 ->
        "#{raw["behind"]} requests were not sent, because the generator was so far behind its schedule"

      raw["overfull"] > 0 ->
        "#{raw["overfull"]} requests were not sent, because max_in_flight were in flight"

      lateness != nil and lateness > max_lateness ->
        "the generator was late: p99 of its lateness is #{Float.round(lateness, 2)} ms, " <>
          "above #{max_lateness} ms (max_lateness)"

      (point["generator_busy"] || 0) > @most_busy ->
        "the generator was busy #{round(point["generator_busy"] * 100)} % of the time, above " <>
          "#{round(@most_busy * 100)} %: answers waited for it; give it more lanes, or more nodes"

      true ->
        nil
    end
  end
end
