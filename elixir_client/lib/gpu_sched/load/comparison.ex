# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Comparison do
  # Two runs held against each other, where both have a point of the same load.
  @moduledoc false

  alias GpuSched.Load.{Histogram, Point, Table}
  alias GpuSched.Printable

  defstruct [:before, :now, rows: [], unmatched: []]

  @type row :: %{
          offered: number,
          metric: String.t(),
          before: number | nil,
          now: number | nil,
          verdict: :better | :worse | :same | nil
        }

  @type t :: %__MODULE__{rows: [row]}

  # Of fewer windows, how far they scatter says nothing.
  @windows 5
  # Loads that differ by less are the same.
  @same 0.02
  # What is in each metric: its name, how it is read from a point, how from a window (for how far
  # it scatters), and which way is better.
  defp metrics do
    [
      {"answered/s", & &1["throughput"], & &1["throughput"], :more},
      {"p50 ms", &Point.percentile_ms(&1, 50), & &1["p50_ms"], :less},
      {"p99 ms", &Point.percentile_ms(&1, 99), & &1["p99_ms"], :less},
      {"p99.9 ms", &Point.percentile_ms(&1, 99.9), nil, :less},
      {"batch", &Histogram.mean(&1["batch"]), & &1["batch"], nil},
      {"queue ms", &(&1["queue"] |> Histogram.mean() |> Point.ms()), & &1["queue_ms"], :less},
      {"compute ms", &(&1["compute"] |> Histogram.mean() |> Point.ms()), & &1["compute_ms"],
       :less},
      {"failed %", &failed_percent/1, :share, :less}
    ]
  end

  @spec new(GpuSched.Load.t(), GpuSched.Load.t()) :: t
  def new(before, now) do
    pairs = for point <- now.points, do: {match(before.points, point), point}

    %__MODULE__{
      before: before,
      now: now,
      rows: for({a, b} <- pairs, a != nil, metric <- metrics(), do: row(metric, a, b)),
      unmatched: for({nil, b} <- pairs, do: b["offered"])
    }
  end

  defp match(points, %{"mode" => mode, "offered" => offered}) do
    Enum.find(points, fn point ->
      point["mode"] == mode and abs(point["offered"] - offered) <= offered * @same
    end)
  end

  defp failed_percent(point), do: point["failed"] / max(point["sent"], 1) * 100

  defp row({name, of_point, :share, better}, a, b) do
    {before, now} = {of_point.(a), of_point.(b)}
    noise = share_noise(a, b)
    verdict = verdict(before, now, noise, better, :share)
    %{offered: b["offered"], metric: name, before: before, now: now, verdict: verdict}
  end

  defp row({name, of_point, of_window, better}, a, b) do
    {before, now} = {of_point.(a), of_point.(b)}
    noise = sum(noise(a, of_window), noise(b, of_window))
    # What was answered by one that refuses more is not the same as what the other answered.
    better = if better == :less and failures_differ?(a, b), do: nil, else: better

    %{
      offered: b["offered"],
      metric: name,
      before: before,
      now: now,
      verdict: verdict(before, now, noise, better, of_window)
    }
  end

  defp sum(nil, _noise), do: nil
  defp sum(_noise, nil), do: nil
  defp sum(a, b), do: a + b

  defp failures_differ?(a, b),
    do: abs(failed_percent(a) - failed_percent(b)) > share_noise(a, b)

  # Three standard errors of the difference of two shares, in percent.
  defp share_noise(a, b) do
    {n, m} = {max(a["sent"], 1), max(b["sent"], 1)}
    p = (a["failed"] + b["failed"]) / (n + m)
    300 * :math.sqrt(p * (1 - min(p, 1)) * (1 / n + 1 / m))
  end

  # Twice the standard error of the mean of the windows, or nil.
  defp noise(_point, nil), do: nil

  defp noise(point, of_window) do
    values = for window <- point["windows"], value = of_window.(window), do: value
    n = length(values)

    if n >= @windows do
      mean = Enum.sum(values) / n
      variance = (values |> Enum.map(&((&1 - mean) * (&1 - mean))) |> Enum.sum()) / (n - 1)
      2 * :math.sqrt(variance / n)
    end
  end

  # Where nothing is known of how it scatters, nothing is said.
  defp verdict(nil, _now, _noise, _better, _window), do: nil
  defp verdict(_before, nil, _noise, _better, _window), do: nil
  # It falls among what failed; of that, its own row tells.
  defp verdict(before, now, _, _, _) when before == :infinity or now == :infinity, do: nil
  defp verdict(_before, _now, _noise, nil, _window), do: nil
  defp verdict(_before, _now, nil, _better, _window), do: nil

  defp verdict(before, now, noise, better, _window) do
    cond do
      abs(now - before) <= noise -> :same
      now > before == (better == :more) -> :better
      true -> :worse
    end
  end

  @spec format(t) :: iodata
  def format(%{rows: rows} = comparison) do
    [
      ["before: ", comparison.before.title, ", ", comparison.before.started_at, "\n"],
      ["now:    ", comparison.now.title, ", ", comparison.now.started_at, "\n\n"],
      grid(rows),
      unmatched(comparison.unmatched)
    ]
    |> Printable.text()
  end

  defp grid([]), do: "There is no load that both have.\n"

  defp grid(rows) do
    Table.grid([
      ["load", "metric", "before", "now", "change", ""]
      | for row <- rows do
          [
            Table.number(row.offered),
            row.metric,
            Table.number(row.before),
            Table.number(row.now),
            change(row),
            verdict_text(row.verdict)
          ]
        end
    ])
  end

  @spec change(row) :: String.t()
  def change(%{before: before, now: now})
      when before in [nil, 0, 0.0, :infinity] or now in [nil, :infinity],
      do: "–"

  def change(%{before: before, now: now}) do
    percent = (now - before) / before * 100
    sign = if percent >= 0, do: "+", else: "−"
    "#{sign}#{:erlang.float_to_binary(abs(percent), decimals: 1)} %"
  end

  @spec verdict_text(atom) :: String.t()
  def verdict_text(nil), do: ""
  def verdict_text(:same), do: "within what it scatters"
  def verdict_text(other), do: Atom.to_string(other)

  defp unmatched([]), do: []

  defp unmatched(loads),
    do: ["\nonly in the second: ", loads |> Enum.map(&Table.number/1) |> Enum.join(", "), "\n"]
end
