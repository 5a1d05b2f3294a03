# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Files do
  # Runs as files and back, and several as one.
  @moduledoc false

  alias GpuSched.Json
  alias GpuSched.Load.{Histogram, Knee, Point, Shape}

  @format 1
  @hists ~w(latency service queue compute batch lateness failed_after)

  # ---- JSON

  @spec json(GpuSched.Load.t()) :: iodata
  def json(run) do
    map =
      run
      |> Map.from_struct()
      |> Map.new(fn {key, value} -> {Atom.to_string(key), value} end)
      |> Map.merge(%{"gpu_sched_load" => @format, "points" => Enum.map(run.points, &plain/1)})

    [Json.encode(map), "\n"]
  end

  # Beside each histogram, what most want to know of it.
  defp plain(point) do
    hists = Map.new(@hists, &{&1, Histogram.to_map(point[&1])})

    percents =
      for percent <- Point.percents(),
          into: %{},
          do: {"p#{percent}", Point.number(Point.percentile_ms(point, percent))}

    point |> Map.merge(hists) |> Map.put("latency_ms", percents)
  end

  @spec read!(Path.t()) :: GpuSched.Load.t()
  def read!(path) do
    case path |> File.read!() |> Json.decode() do
      {:ok, %{"gpu_sched_load" => @format} = map} -> run(map, path)
      {:ok, %{"gpu_sched_load" => other}} -> wrong!(path, "is of format #{inspect(other)}")
      {:ok, _other} -> wrong!(path, "is not a run that was written as JSON")
      {:error, what} -> wrong!(path, "is no JSON: #{what}")
    end
  end

  @spec wrong!(Path.t(), String.t()) :: no_return
  defp wrong!(path, what), do: raise(ArgumentError, "#{path} #{what}")

  defp run(map, path) do
    fields = Map.keys(%GpuSched.Load{}) -- [:__struct__]
    values = for field <- fields, do: {field, map[Atom.to_string(field)]}
    run = struct!(GpuSched.Load, values)
    if what = Shape.run(run), do: wrong!(path, "is not a run: #{what}")
    %{run | points: Enum.map(run.points, &point(&1, path))}
  end

  defp point(map, path) do
    if what = Shape.point(map), do: wrong!(path, "is not a run: #{what}")
    hists = Map.new(@hists, &{&1, Histogram.from_map(map[&1])})
    map |> Map.merge(hists) |> Map.delete("latency_ms")
  end

  # ---- CSV

  @columns ~w(mode offered seconds sent ok failed throughput in_time)

  @spec csv(GpuSched.Load.t()) :: iodata
  def csv(run) do
    percents = Enum.map(Point.percents(), &"p#{&1}_ms")
    means = ~w(mean_ms max_ms batch queue_ms compute_ms lateness_p99_ms stable growing limited)
    heads = @columns ++ percents ++ means
    [line(heads) | Enum.map(run.points, &line(row(&1)))]
  end

  defp row(point) do
    Enum.map(@columns, &point[&1]) ++
      Point.percentiles_ms(point) ++
      [
        Point.ms(Histogram.mean(point["latency"])),
        Point.ms(point["latency"].max),
        Histogram.mean(point["batch"]),
        Point.ms(Histogram.mean(point["queue"])),
        Point.ms(Histogram.mean(point["compute"])),
        Point.ms(Histogram.percentile(point["lateness"], 99)),
        point["stable"],
        point["growing"],
        point["limited"]
      ]
  end

  defp line(values), do: [values |> Enum.map(&cell/1) |> Enum.intersperse(","), "\n"]

  defp cell(nil), do: ""
  # As those who read numbers from text call it.
  defp cell(:infinity), do: "inf"
  defp cell(x) when is_float(x), do: :erlang.float_to_binary(x, [:compact, decimals: 6])

  defp cell(value) do
    text = to_string(value)

    if String.contains?(text, [",", "\"", "\n"]),
      do: ["\"", String.replace(text, "\"", "\"\""), "\""],
      else: text
  end

  # ---- several as one

  @spec merge!([GpuSched.Load.t()]) :: GpuSched.Load.t()
  def merge!([run]), do: run

  def merge!([first | rest] = runs) do
    shape = shape(first)

    for run <- rest, shape(run) != shape do
      raise ArgumentError,
            "runs are merged that have the same target, and as many points, of the same kind, length, " <>
              "windows and latency to be held; got " <>
              "#{inspect(shape)} and #{inspect(shape(run))}"
    end

    points = runs |> Enum.map(& &1.points) |> Enum.zip_with(&merge_points/1)
    generators = Enum.flat_map(runs, & &1.machine["generators"])

    %{
      first
      | points: points,
        knee: Knee.find(points),
        search: nil,
        machine: Map.put(first.machine, "generators", generators)
    }
  end

  defp shape(run) do
    points =
      for point <- run.points,
          do: {point["mode"], point["seconds"], length(point["windows"]), point["within_ms"]}

    {run.target, points}
  end

  defp merge_points(points), do: Enum.reduce(points, fn b, a -> Map.merge(a, b, &merge/3) end)

  defp merge(key, a, b) when key in @hists, do: Histogram.merge(a, b)

  defp merge(key, a, b) when key in ~w(offered sent ok failed throughput), do: a + b
  defp merge("in_time", a, b), do: a && b && a + b
  defp merge("errors", a, b), do: Map.merge(a, b, fn _reason, n, m -> n + m end)
  defp merge("why", a, b), do: Map.merge(a || %{}, b || %{})
  defp merge("windows", a, b), do: Enum.zip_with(a, b, &merge_windows/2)
  defp merge("stable", a, b), do: a && b
  defp merge("growing", a, b), do: a || b
  defp merge("limited", a, b), do: a || b
  defp merge("generator_busy", a, b), do: a && b && max(a, b)
  # nil is less than nothing here: where one was not measured, the other is.
  defp merge("skew_ms", a, b), do: if(a && b, do: max(a, b), else: a || b)
  defp merge(_key, a, _b), do: a

  # Rates add up. Of percentiles, nothing exact is known any more: the worse is kept.
  defp merge_windows(a, b) do
    Map.merge(a, b, fn
      "at", at, _same -> at
      key, x, y when key in ~w(sent_per_s throughput failed_per_s answers sent ended) -> x + y
      key, x, y when key in ~w(p50_ms p99_ms) -> worse({x, a}, {y, b})
      _mean, x, y -> weighted(x, a["answers"], y, b["answers"])
    end)
  end

  # There is none where nothing was sent, which says nothing, or where it is among what failed.
  defp worse({x, a}, {y, b}) do
    cond do
      x != nil and y != nil -> max(x, y)
      x == nil and a["failed_per_s"] == 0 -> y
      y == nil and b["failed_per_s"] == 0 -> x
      true -> nil
    end
  end

  defp weighted(nil, _n, y, _m), do: y
  defp weighted(x, _n, nil, _m), do: x
  defp weighted(x, n, y, m), do: (x * n + y * m) / max(n + m, 1)
end
