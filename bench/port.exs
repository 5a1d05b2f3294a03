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

Code.require_file("support/report.exs", __DIR__)

defmodule Bench.Port do
  @moduledoc false

  @model "noop"
  @mib 1_048_576

  import Bench.Report

  def main(args), do: Bench.Report.main("port", args, &metrics/1)

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
end

Bench.Port.main(System.argv())
