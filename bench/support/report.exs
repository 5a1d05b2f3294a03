# SPDX-License-Identifier: Apache-2.0
#
# What the benchmarks in Elixir have in common: their arguments, comparing, and printing.

defmodule Bench.Json do
  @moduledoc false

  def encode(nil), do: "null"
  def encode(true), do: "true"
  def encode(false), do: "false"
  def encode(n) when is_integer(n), do: Integer.to_string(n)
  def encode(x) when is_float(x), do: :erlang.float_to_binary(x, [:compact, decimals: 4])
  def encode(a) when is_atom(a), do: encode(Atom.to_string(a))

  def encode(s) when is_binary(s) do
    escaped =
      for <<c::utf8 <- s>>, into: "" do
        case c do
          ?" -> "\\\""
          ?\\ -> "\\\\"
          c when c < 0x20 -> "\\u" <> String.pad_leading(Integer.to_string(c, 16), 4, "0")
          c -> <<c::utf8>>
        end
      end

    "\"" <> escaped <> "\""
  end

  def encode(list) when is_list(list), do: "[" <> Enum.map_join(list, ",", &encode/1) <> "]"

  def encode(map) when is_map(map),
    do:
      "{" <>
        Enum.map_join(map, ",", fn {k, v} -> encode(to_string(k)) <> ":" <> encode(v) end) <> "}"
end

defmodule Bench.Report do
  @moduledoc false

  @rounds 3

  # `metrics` takes the seconds for each point of a throughput, and answers {name, function} for each
  # metric, the function a list of results.
  def main(bench, args, metrics) do
    {opts, rest, wrong} =
      OptionParser.parse(args, strict: [json: :boolean, seconds: :float, only: :string])

    if rest != [] or wrong != [] do
      unknown = rest ++ Enum.map(wrong, &elem(&1, 0))
      IO.puts(:stderr, "#{bench}: unknown arguments: #{Enum.join(unknown, " ")}")
      System.halt(64)
    end

    log_to_standard_error()
    only = opts |> Keyword.get(:only, "") |> String.split(",", trim: true)
    {:ok, _} = Application.ensure_all_started(:gpu_sched)

    results =
      for {name, run} <- metrics.(Keyword.get(opts, :seconds, 2.0)),
          only == [] or name in only,
          result <- run.() do
        IO.puts(:stderr, "#{bench}: " <> line(result))
        result
      end

    if opts[:json],
      do: IO.puts(Bench.Json.encode(%{bench: bench, machine: machine(), results: results})),
      else: print_table(results)

    System.halt(0)
  end

  # Standard output is for results. Elixir 1.15 has its handler from Erlang, before that it had one
  # of its own, which begins with the application.
  defp log_to_standard_error do
    {:ok, _} = Application.ensure_all_started(:logger)

    if function_exported?(Logger, :default_formatter, 0) do
      :logger.remove_handler(:default)
      # Not called by its name: an older Elixir, which does not get here, would warn of it.
      formatter = apply(Logger, :default_formatter, [])
      config = %{config: %{type: :standard_error}, formatter: formatter}
      :ok = :logger.add_handler(:default, :logger_std_h, config)
    else
      apply(Logger, :configure_backend, [:console, [device: :standard_error]])
    end
  end

  # ---- figures

  # Alternately, several times; of the round whose ratio is the median, so that the noise of a shared
  # machine hits both alike.
  def compare(metric, params, unit, ours, baseline) do
    {_, value, base} =
      for(_ <- 1..@rounds, do: {ours.(), baseline.()})
      |> Enum.map(fn {value, base} -> {value / base, value, base} end)
      |> Enum.sort()
      |> Enum.at(div(@rounds, 2))

    result(metric, params, unit, value, base)
  end

  def result(metric, params, unit, value, baseline) do
    %{
      metric: metric,
      params: params,
      value: value,
      unit: unit,
      baseline: baseline,
      ratio: value / baseline
    }
  end

  def percentile(values, p) do
    sorted = Enum.sort(values)
    Enum.at(sorted, min(length(sorted) - 1, div(length(sorted) * p, 100)))
  end

  def time_ns(fun) do
    begin = now_ns()
    fun.()
    now_ns() - begin
  end

  def now_ns, do: :os.perf_counter(:nanosecond)

  # ---- the table

  defp print_table(results) do
    IO.puts(Enum.map_join(machine(), ", ", fn {key, value} -> "#{key} #{value}" end) <> "\n")
    IO.puts(format(["metric", "params", "value", "bare limit", "ratio"]))
    for result <- results, do: IO.puts(line(result))
  end

  defp line(result) do
    params = Enum.map_join(result.params, " ", fn {key, value} -> "#{key}=#{value}" end)

    format([
      result.metric,
      params,
      number(result.value) <> " " <> result.unit,
      number(result.baseline),
      number(result.ratio)
    ])
  end

  defp format([metric, params, value, baseline, ratio]) do
    String.pad_trailing(metric, 22) <>
      String.pad_trailing(params, 40) <>
      String.pad_leading(value, 18) <>
      String.pad_leading(baseline, 16) <> String.pad_leading(ratio, 9)
  end

  defp number(x) when x >= 1.0e9, do: "#{Float.round(x / 1.0e9, 2)}G"
  defp number(x) when x >= 1.0e6, do: "#{Float.round(x / 1.0e6, 2)}M"
  defp number(x) when x >= 1.0e4, do: "#{round(x)}"
  defp number(x), do: "#{Float.round(x * 1.0, 3)}"

  defp machine do
    cpu =
      case Regex.run(~r/model name\s*:\s*(.*)/, File.read!("/proc/cpuinfo")) do
        [_, name] -> name
        nil -> "unknown"
      end

    %{
      cpu: cpu,
      cores: System.schedulers_online(),
      otp: System.otp_release(),
      elixir: System.version()
    }
  end
end
