# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Table do
  # Runs as text for a terminal.
  @moduledoc false

  alias GpuSched.Load.{Histogram, Point}
  alias GpuSched.Printable

  @spec format(GpuSched.Load.t()) :: iodata
  def format(run) do
    rows = [heads(run) | Enum.map(run.points, &row(&1, run))]

    [Printable.line(run.title), "\n", about(run), "\n\n", grid(rows), notes(run)]
    |> Printable.text()
  end

  defp about(run) do
    "#{run.arrivals}, #{run.options["duration_ms"] / 1_000} s after #{run.options["warmup_ms"] / 1_000} s " <>
      "of warm-up, from #{Enum.join(run.machine["generators"], ", ")} (OTP #{run.machine["otp"]}, " <>
      "#{run.machine["schedulers"]} schedulers), #{run.started_at}"
  end

  defp heads(run) do
    load = if closed?(run), do: "callers", else: "offered/s"

    [load, "answered/s", "p50 ms", "p90", "p95", "p99", "p99.9", "max", "batch", "queue ms"] ++
      ["compute ms", "failed"] ++ in_time_head(run) ++ [""]
  end

  defp closed?(run), do: Enum.any?(run.points, &(&1["mode"] == "closed"))

  defp in_time_head(run) do
    case run.options["within_ms"] do
      nil -> []
      within -> ["in #{number(within)} ms"]
    end
  end

  defp row(point, run) do
    [number(point["offered"]), number(point["throughput"])] ++
      percentiles(point) ++
      [
        number(Point.ms(point["latency"].max)),
        number(Histogram.mean(point["batch"])),
        number(Point.ms(Histogram.mean(point["queue"]))),
        number(Point.ms(Histogram.mean(point["compute"]))),
        Integer.to_string(point["failed"])
      ] ++ in_time(point, run) ++ [marks(point)]
  end

  defp in_time(point, run) do
    case run.options["within_ms"] && Point.share_in_time(point) do
      nil -> if run.options["within_ms"], do: ["–"], else: []
      share -> [percent(share)]
    end
  end

  defp percent(share), do: :erlang.float_to_binary(share * 100, decimals: 2) <> " %"

  defp marks(point) do
    [
      if(point["limited"], do: "GENERATOR"),
      stability(point)
    ]
    |> Enum.reject(&is_nil/1)
    |> Enum.join(" ")
  end

  # What a point that is not stable is called.
  @spec stability(map) :: String.t() | nil
  def stability(%{"growing" => true}), do: "growing"
  def stability(%{"stable" => false}), do: "unstable"
  def stability(_point), do: nil

  # Of all that were due: what falls among the failures is known to be above something.
  @spec percentiles(map) :: [String.t()]
  def percentiles(point), do: Enum.map(Point.percentiles_ms(point), &latency(&1, point))

  @spec latency(float | :infinity | nil, map) :: String.t()
  def latency(:infinity, point), do: ">" <> number(Point.known_ms(point))
  def latency(ms, _point), do: number(ms)

  defp notes(run) do
    [
      for(point <- run.points, point["failed"] > 0, do: errors(point)),
      growing(for(point <- run.points, point["growing"], do: point)),
      limited(for(point <- run.points, point["limited"], do: point)),
      for(point <- run.points, point["trace_ended"], do: ended(point)),
      for(point <- run.points, apart?(point, run), do: apart(point)),
      broke(run.broke),
      if(run.knee, do: ["\nThe knee is at ", number(run.knee), unit(run), ".\n"], else: []),
      searched(run.search)
    ]
  end

  defp unit(run), do: if(closed?(run), do: " callers", else: "/s")

  defp errors(point) do
    list = for {reason, n} <- Enum.sort(point["errors"]), do: "#{n} #{reason}"
    ["\nat ", number(point["offered"]), " failed: ", Enum.join(list, ", "), "\n", why(point)]
  end

  # In the words of one of them each.
  defp why(point) do
    for {reason, message} <- Enum.sort(point["why"] || %{}),
        do: ["  ", reason, ": ", short(message), "\n"]
  end

  @longest 300

  @spec short(String.t()) :: String.t()
  def short(text) do
    line = Printable.line(text)
    if String.length(line) > @longest, do: String.slice(line, 0, @longest) <> " …", else: line
  end

  defp growing([]), do: []

  defp growing(points) do
    more = "more was sent than answered all the time: latencies are those of so short a run\n"
    ["\nat ", loads(points), " ", more]
  end

  defp loads(points), do: Enum.map_join(points, ", ", &number(&1["offered"]))

  defp ended(point) do
    seconds = number(point["trace_ended"])
    ["\nat ", number(point["offered"]), " the trace ended after ", seconds, " s\n"]
  end

  # So windows of one node have requests of another window of the next in them.
  defp apart?(point, run), do: (point["skew_ms"] || 0) > (run.options["window_ms"] || :infinity)

  defp apart(point) do
    ms = number(point["skew_ms"])

    told =
      " the nodes began up to #{ms} ms apart, more than a window: its series over time is blurred\n"

    ["\nat ", number(point["offered"]), told]
  end

  @spec broke(map | nil) :: iodata
  def broke(nil), do: []
  def broke(broke), do: ["\nIt ended at ", number(broke["offered"]), ": ", broke["error"], "\n"]

  defp limited([]), do: []

  defp limited(points) do
    [
      "\nat #{loads(points)} the generator decided",
      if(length(points) > 1, do: ", at the last of them because", else: ":"),
      [" ", List.last(points)["limited"], "\n"]
    ]
  end

  defp searched(nil), do: []

  defp searched(search) do
    held = "#{number(search["percentile"])} % within #{number(search["within_ms"])} ms"

    case search do
      %{"rate" => nil} -> "\nNo rate that was tried holds #{held}.\n"
      %{"rate" => rate} -> ["\n", number(rate), "/s hold #{held}", fails(search), ".\n"]
    end
  end

  defp fails(%{"limited" => text}) when text != nil,
    do: "; above that the generator was late itself"

  defp fails(%{"fails_at" => nil}), do: "; nothing higher was tried"
  defp fails(%{"fails_at" => rate}), do: ["; ", number(rate), "/s do not"]

  # Columns as wide as they have to be, to the right but for the last, which has words.
  @spec grid([[String.t()]]) :: iodata
  def grid(rows) do
    rows = for row <- rows, do: Enum.map(row, &Printable.line/1)

    widths =
      rows
      |> Enum.zip_with(& &1)
      |> Enum.map(fn column -> column |> Enum.map(&String.length/1) |> Enum.max() end)

    for row <- rows do
      {numbers, [words]} = row |> Enum.zip(widths) |> Enum.split(-1)
      cells = for {cell, width} <- numbers, do: String.pad_leading(cell, width)
      [(cells ++ [elem(words, 0)]) |> Enum.join("  ") |> String.trim_trailing(), "\n"]
    end
  end

  # As many digits as say something.
  @spec number(number | :infinity | nil) :: String.t()
  def number(nil), do: "–"
  def number(:infinity), do: "∞"
  def number(n) when is_integer(n), do: Integer.to_string(n)
  def number(x) when abs(x) >= 1_000, do: Integer.to_string(round(x))
  def number(x) when abs(x) >= 100, do: decimals(x, 1)
  def number(x) when abs(x) >= 1, do: decimals(x, 2)
  def number(x), do: decimals(x, 3)

  defp decimals(x, n), do: :erlang.float_to_binary(x * 1.0, [:compact, decimals: n])
end
