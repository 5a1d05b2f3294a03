# SPDX-License-Identifier: Apache-2.0
#
# ./dev bench port: what the way from an Elixir process through sched-port to a worker and back
# costs, beside the same client on a bare echo port (bench/echo/) in the same run.
#
#   --json        one JSON object on standard output, and nothing else
#   --seconds=S   for each point of a throughput (2)
#   --only=A,B    only these metrics
#
# A point is measured alternately on the two, several times; value, baseline and ratio are those of
# the round whose ratio is the median, so that the noise of a shared machine hits both alike.

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

defmodule Bench.Port do
  @moduledoc false

  @model "noop"
  @mib 1_048_576
  @rounds 3

  def main(args) do
    {opts, rest, wrong} =
      OptionParser.parse(args, strict: [json: :boolean, seconds: :float, only: :string])

    if rest != [] or wrong != [] do
      IO.puts(:stderr, "port: unknown arguments: #{Enum.join(rest ++ Keyword.keys(wrong), " ")}")
      System.halt(64)
    end

    log_to_standard_error()
    seconds = Keyword.get(opts, :seconds, 2.0)
    only = opts |> Keyword.get(:only, "") |> String.split(",", trim: true)
    {:ok, _} = Application.ensure_all_started(:gpu_sched)

    results =
      for {name, run} <- metrics(seconds), only == [] or name in only, result <- run.() do
        progress(result)
        result
      end

    if opts[:json], do: print_json(results), else: print_table(results)
    System.halt(0)
  end

  # Standard output is for results. Elixir 1.15 has its handler from Erlang, before that it had one
  # of its own, which begins with the application.
  defp log_to_standard_error do
    {:ok, _} = Application.ensure_all_started(:logger)

    if function_exported?(Logger, :default_formatter, 0) do
      :logger.remove_handler(:default)
      config = %{config: %{type: :standard_error}, formatter: Logger.default_formatter()}
      :ok = :logger.add_handler(:default, :logger_std_h, config)
    else
      apply(Logger, :configure_backend, [:console, [device: :standard_error]])
    end
  end

  defp metrics(seconds) do
    [
      {"rtt_us", &rtt/0},
      {"requests_per_s", fn -> requests_per_s(seconds) end},
      {"bandwidth_bytes_per_s", fn -> bandwidth(seconds) end},
      {"small_p99_ms", fn -> small_p99(seconds) end},
      {"peak_rss_bytes", &peak_rss/0}
    ]
  end

  # ---------------------------------------------------------------------------- the round trip

  defp rtt do
    with_pair([cpu_devices: 1], [], fn ours, echo ->
      [
        compare(
          "rtt_us",
          %{call: "stats"},
          "us",
          fn -> median_us(fn -> ok(GpuSched.stats(ours)) end) end,
          fn -> median_us(fn -> ok(GpuSched.stats(echo)) end) end
        )
      ]
    end) ++
      with_pair([cpu_devices: 1], [hop: true], fn ours, echo ->
        inputs = payload(64)

        [
          compare(
            "rtt_us",
            %{call: "infer"},
            "us",
            fn -> median_us(fn -> infer(ours, inputs) end) end,
            fn -> median_us(fn -> infer(echo, inputs) end) end
          )
        ]
      end)
  end

  defp median_us(call) do
    for _ <- 1..2_000, do: call.()
    percentile(for(_ <- 1..10_000, do: time_ns(call)), 50) / 1_000
  end

  # --------------------------------------------------------------------------------- throughput

  defp requests_per_s(seconds) do
    with_pair([cpu_devices: 1], [], fn ours, echo ->
      for bytes <- [64, 1024], callers <- [1, 16, 256] do
        inputs = payload(bytes)

        compare(
          "requests_per_s",
          %{bytes: bytes, callers: callers},
          "1/s",
          fn -> rate(callers, seconds, fn -> infer(ours, inputs) end) end,
          fn -> rate(callers, seconds, fn -> infer(echo, inputs) end) end
        )
      end
    end)
  end

  defp bandwidth(seconds) do
    for path <- ["pipe", "lease"], result <- bandwidth(path, seconds), do: result
  end

  defp bandwidth(path, seconds) do
    # Without leases everything goes through the pipe.
    options = if path == "pipe", do: [lease_max_bytes: 0], else: []

    with_pair([cpu_devices: 1] ++ options, [], fn ours, echo ->
      for mib <- [1, 16] do
        inputs = payload(mib * @mib)

        compare(
          "bandwidth_bytes_per_s",
          %{bytes: mib * @mib, path: path},
          "B/s",
          fn -> mib * @mib * rate(2, seconds, fn -> infer(ours, inputs) end) end,
          fn -> mib * @mib * rate(2, seconds, fn -> infer(echo, inputs) end) end
        )
      end
    end)
  end

  # Calls per second of so many processes, each of which waits for its answer.
  defp rate(callers, seconds, call) do
    counter = :counters.new(1, [:write_concurrency])

    loop = fn loop ->
      call.()
      :counters.add(counter, 1, 1)
      loop.(loop)
    end

    pids = for _ <- 1..callers, do: spawn_link(fn -> loop.(loop) end)
    Process.sleep(300)
    {begin, before} = {now_ns(), :counters.get(counter, 1)}
    Process.sleep(round(seconds * 1_000))
    {finish, later} = {now_ns(), :counters.get(counter, 1)}
    stop(pids)
    (later - before) * 1.0e9 / (finish - begin)
  end

  # ------------------------------------------------------------- small requests beside large ones

  defp small_p99(seconds) do
    with_pair([cpu_devices: 2], [], fn ours, echo ->
      # On a device of its own: what is asked is who waits in the pipe, not who computes first.
      ok(GpuSched.load(ours, "bulk", engine: "synthetic", devices: ["cpu:1"]))

      [
        compare(
          "small_p99_ms",
          %{bytes: 64, streams: 2, stream_bytes: 16 * @mib},
          "ms",
          fn -> p99_beside(ours, "bulk", seconds) end,
          fn -> p99_beside(echo, @model, seconds) end
        )
      ]
    end)
  end

  defp p99_beside(server, bulk, seconds) do
    large = payload(16 * @mib)
    small = payload(64)

    streams =
      for _ <- 1..2 do
        spawn_link(fn ->
          Stream.repeatedly(fn -> infer(server, large, bulk) end) |> Stream.run()
        end)
      end

    for _ <- 1..50, do: infer(server, small)
    finish = now_ns() + round(seconds * 2.0e9)

    times =
      Stream.repeatedly(fn -> time_ns(fn -> infer(server, small) end) end)
      |> Enum.take_while(fn _ -> now_ns() < finish end)

    stop(streams)
    percentile(times, 99) / 1.0e6
  end

  # -------------------------------------------------------------------------------------- memory

  defp peak_rss do
    peaks =
      for {_name, path, options} <- [ours(cpu_devices: 1), echo([])] do
        with_server(path, options, fn server ->
          inputs = payload(16 * @mib)
          rate(4, 1.0, fn -> infer(server, inputs) end)
          peak_rss_of(path)
        end)
      end

    [value, baseline] = peaks
    [result("peak_rss_bytes", %{bytes: 16 * @mib, callers: 4}, "B", value, baseline)]
  end

  defp peak_rss_of(path) do
    port = Enum.find(Port.list(), &(Port.info(&1, :name) == {:name, String.to_charlist(path)}))
    {:os_pid, pid} = Port.info(port, :os_pid)
    [_, kib] = Regex.run(~r/VmHWM:\s+(\d+) kB/, File.read!("/proc/#{pid}/status"))
    String.to_integer(kib) * 1024
  end

  # ------------------------------------------------------------------------------------- servers

  defp ours(options), do: {:ours, System.fetch_env!("GPU_SCHED_PORT"), options}

  defp echo(options) do
    build = System.fetch_env!("GPU_SCHED_PORT") |> Path.dirname() |> Path.dirname()

    path =
      Enum.find(
        [Path.join(build, "bench/echo/echo-port"), Path.join(build, "bench/echo-port")],
        &File.exists?/1
      ) || raise "the echo port is not built: ./dev bench builds it"

    {:echo, path, options}
  end

  defp with_pair(our_options, echo_options, fun) do
    {_, our_path, our_options} = ours(our_options)
    {_, echo_path, echo_options} = echo(echo_options)

    with_server(our_path, our_options, fn ours ->
      with_server(echo_path, echo_options, fn echo -> fun.(ours, echo) end)
    end)
  end

  defp with_server(path, options, fun) do
    {:ok, server} = GpuSched.start_link(port_path: path, port_options: options)

    if path == System.fetch_env!("GPU_SCHED_PORT"),
      do: ok(GpuSched.load(server, @model, engine: "synthetic", devices: ["cpu:0"]))

    try do
      fun.(server)
    after
      GenServer.stop(server)
    end
  end

  defp payload(bytes) do
    data = :binary.copy(<<0x5A>>, bytes)
    %{"data" => %{"datatype" => "UINT8", "shape" => [bytes], "data" => data}}
  end

  defp infer(server, inputs, model \\ @model),
    do: ok(GpuSched.infer(server, model, inputs, timeout: 30_000, overload: :wait))

  defp ok({:ok, value}), do: value
  defp ok({:error, error}), do: raise(error)

  defp stop(pids) do
    for pid <- pids do
      ref = Process.monitor(pid)
      Process.unlink(pid)
      Process.exit(pid, :kill)

      receive do
        {:DOWN, ^ref, _, _, _} -> :ok
      end
    end
  end

  # ------------------------------------------------------------------------------------- figures

  defp compare(metric, params, unit, ours, baseline) do
    {_, value, base} =
      for(_ <- 1..@rounds, do: {ours.(), baseline.()})
      |> Enum.map(fn {value, base} -> {value / base, value, base} end)
      |> Enum.sort()
      |> Enum.at(div(@rounds, 2))

    result(metric, params, unit, value, base)
  end

  defp result(metric, params, unit, value, baseline) do
    %{
      metric: metric,
      params: params,
      value: value,
      unit: unit,
      baseline: baseline,
      ratio: value / baseline
    }
  end

  defp percentile(values, p) do
    sorted = Enum.sort(values)
    Enum.at(sorted, min(length(sorted) - 1, div(length(sorted) * p, 100)))
  end

  defp time_ns(fun) do
    begin = now_ns()
    fun.()
    now_ns() - begin
  end

  defp now_ns, do: :os.perf_counter(:nanosecond)

  # -------------------------------------------------------------------------------------- output

  defp progress(result), do: IO.puts(:stderr, "port: " <> line(result))

  defp print_json(results) do
    IO.puts(Bench.Json.encode(%{bench: "port", machine: machine(), results: results}))
  end

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

Bench.Port.main(System.argv())
