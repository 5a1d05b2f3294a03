# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Trace do
  # Recorded arrivals: a CSV file with a column of times, as numbers or as dates. Its first line may
  # name the columns, and the unit of a number with it: "arrival_us"; else it is seconds. Times need
  # not be in order, and count from the first.
  @moduledoc false

  # By this a column of times is found where none is named.
  @name ~r/^(arrival|arrived|created|sent|time|timestamp|t)(_at)?(_(s|ms|us|ns))?$/i
  @units %{"s" => 1.0, "ms" => 1.0e-3, "us" => 1.0e-6, "ns" => 1.0e-9}

  # Seconds from the first, ascending.
  @spec read!(Path.t(), String.t() | nil) :: [float]
  def read!(path, column \\ nil) do
    lines =
      path
      |> File.stream!()
      |> Stream.map(&(&1 |> String.trim_trailing() |> String.trim_leading("\uFEFF")))
      |> Stream.reject(&(&1 == ""))
      |> Enum.to_list()

    times = times!(lines, column, path)
    if times == [], do: raise(ArgumentError, "#{path} has no times in it")
    first = Enum.min(times)
    times |> Enum.map(&(&1 - first)) |> Enum.sort()
  end

  defp times!([], _column, _path), do: []

  defp times!([first | rest] = lines, column, path) do
    heads = fields(first)

    case {column, Enum.find_index(heads, &Regex.match?(@name, &1))} do
      {nil, nil} ->
        # No line of names, so the first column.
        parse(lines, 0, 1.0, path, 1)

      {nil, index} ->
        parse(rest, index, unit(heads, index), path, 2)

      {column, _index} ->
        index = Enum.find_index(heads, &(&1 == column))

        unless index do
          raise ArgumentError,
                "#{path} has no column #{inspect(column)}; there are #{Enum.join(heads, ", ")}"
        end

        parse(rest, index, unit(heads, index), path, 2)
    end
  end

  defp unit(heads, index) do
    unit = heads |> Enum.at(index) |> String.downcase() |> String.split("_") |> List.last()
    Map.get(@units, unit, 1.0)
  end

  defp parse(lines, index, unit, path, first) do
    for {line, number} <- Enum.with_index(lines, first) do
      text = line |> fields() |> Enum.at(index, "")

      case time(text, unit) do
        {:ok, time} ->
          time

        :error ->
          raise ArgumentError,
                "#{path}, line #{number}: a time, as a number or a date, belongs in column " <>
                  "#{index + 1}; got #{inspect(text)}"
      end
    end
  end

  defp fields(line),
    do: line |> String.split(",") |> Enum.map(&(&1 |> String.trim() |> String.trim("\"")))

  defp time(text, unit) do
    case Float.parse(text) do
      {number, ""} -> {:ok, number * unit}
      _ -> date(text)
    end
  end

  # Microseconds are as fine as a date gets here; more digits, as some traces have, are cut.
  defp date(text) do
    text = Regex.replace(~r/(\.\d{6})\d+/, text, "\\1")

    case NaiveDateTime.from_iso8601(text) do
      {:ok, date} ->
        {:ok, NaiveDateTime.diff(date, ~N[2000-01-01 00:00:00], :microsecond) / 1.0e6}

      {:error, _what} ->
        :error
    end
  end

  # Stretched or compressed to that mean rate.
  @spec at_rate([float], number | nil) :: [float]
  def at_rate(times, nil), do: times

  def at_rate(times, rate) do
    case List.last(times) do
      last when last > 0 ->
        factor = length(times) / rate / last
        Enum.map(times, &(&1 * factor))

      _ ->
        times
    end
  end
end
