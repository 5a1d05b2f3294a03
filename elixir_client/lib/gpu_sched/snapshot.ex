# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Snapshot do
  # Everything that can be seen of a scheduler at one moment, and what went on between two of them: for
  # GpuSched.top/2 and the page of GpuSched.Web.
  @moduledoc false

  import Bitwise

  alias GpuSched.Error

  @jobs 20

  @type t :: map

  @spec take(GenServer.server()) :: {:ok, t} | {:error, Error.t()}
  def take(server) do
    with {:ok, stats} <- GpuSched.stats(server),
         {:ok, histograms} <- GpuSched.histograms(server),
         {:ok, devices} <- GpuSched.devices(server),
         {:ok, models} <- GpuSched.models(server),
         {:ok, jobs} <- GpuSched.jobs(server, ended: true),
         {:ok, clients} <- GpuSched.clients(server) do
      {:ok,
       %{
         "at_ms" => System.monotonic_time(:millisecond),
         "stats" => all_refused(stats),
         "histograms" => histograms,
         "devices" => Enum.map(devices, &Map.drop(&1, ["cpus", "pci"])),
         "models" => Enum.map(models, &model/1),
         "jobs" => jobs |> Enum.take(-@jobs) |> Enum.map(&job/1),
         "clients" => clients
       }}
    end
  end

  # With those that did not get as far as the port.
  defp all_refused(stats) do
    more = stats["refused_for_credit"] || 0
    update_in(stats["requests"]["refused"], &((&1 || 0) + more))
  end

  defp model(model),
    do: model |> Map.take(["name", "state", "engine", "text", "queued", "running"])

  defp job(job) do
    job
    |> Map.take(~w(job name program state client devices done total message why queued_us run_us))
    |> Map.put("error", error(job["error"]))
  end

  defp error(%Error{message: message, reason: reason}), do: "#{reason}: #{message}"
  defp error(_none), do: nil

  # ---- between two

  @doc false
  @spec between(t, t) :: map
  def between(before, now) do
    before = if restarted?(before, now), do: nothing(before), else: before
    seconds = max(now["at_ms"] - before["at_ms"], 1) / 1_000
    names = Map.keys(now["stats"]["models"])

    %{
      seconds: seconds,
      all: rates(before["stats"]["requests"], now["stats"]["requests"], seconds),
      models:
        Map.new(names, fn name ->
          was = before["stats"]["models"][name] || %{}
          rates = rates(was, now["stats"]["models"][name], seconds)
          {name, Map.merge(rates, latency(before["histograms"][name], now["histograms"][name]))}
        end),
      latency: latency(sum(before["histograms"]), sum(now["histograms"])),
      devices:
        Map.new(now["stats"]["devices"], fn {name, device} ->
          {name, device(before["stats"]["devices"][name] || %{}, device, seconds)}
        end)
    }
  end

  # Another sched-port counts from nothing.
  defp restarted?(before, now), do: uptime(now) < uptime(before)
  defp uptime(snapshot), do: snapshot["stats"]["uptime_us"] || 0

  # Those that were refused for want of credit are counted here, and go on.
  defp nothing(before) do
    credit = before["stats"]["refused_for_credit"] || 0
    stats = %{"requests" => %{"refused" => credit}, "models" => %{}, "devices" => %{}}
    %{before | "stats" => stats, "histograms" => %{}}
  end

  defp rates(was, is, seconds) do
    grown = fn key -> max((is[key] || 0) - (was[key] || 0), 0) end
    batches = grown.("batches")

    %{
      answered: grown.("completed") / seconds,
      failed: (grown.("failed") + grown.("expired") + grown.("cancelled")) / seconds,
      refused: grown.("refused") / seconds,
      batch: if(batches > 0, do: grown.("batched_requests") / batches)
    }
  end

  defp device(was, is, seconds) do
    grown = fn key -> max((is[key] || 0) - (was[key] || 0), 0) end
    %{busy: min(grown.("busy_us") / 1.0e6 / seconds, 1.0), batches: grown.("batches") / seconds}
  end

  defp sum(histograms) do
    histograms
    |> Map.values()
    |> Enum.map(& &1["total_us"])
    |> case do
      [] -> nil
      lists -> %{"total_us" => Enum.zip_with(lists, &Enum.sum/1)}
    end
  end

  defp latency(_was, nil), do: %{p50_ms: nil, p99_ms: nil}

  defp latency(was, is) do
    grown =
      case was do
        nil -> is["total_us"]
        was -> Enum.zip_with(was["total_us"], is["total_us"], fn a, b -> max(b - a, 0) end)
      end

    %{p50_ms: percentile_ms(grown, 50), p99_ms: percentile_ms(grown, 99)}
  end

  # From buckets that double, so between two of their limits: as far in as its rank is.
  @doc false
  @spec percentile_ms([non_neg_integer], number) :: float | nil
  def percentile_ms(buckets, percent) do
    case Enum.sum(buckets) do
      0 -> nil
      n -> within(buckets, max(n * percent / 100, 1), 0)
    end
  end

  defp within([n | rest], rank, i) when n < rank and rest != [], do: within(rest, rank - n, i + 1)

  defp within([n | _rest], rank, i) do
    low = if i == 0, do: 0, else: 1 <<< (i - 1)
    high = 1 <<< i
    (low + (high - low) * min(rank / max(n, 1), 1.0)) / 1_000
  end
end
