# SPDX-License-Identifier: Apache-2.0
#
# ./dev bench nx_serving: the same requests, answered by this scheduler and by Nx.Serving, in one BEAM,
# one after the other. Nx is not a dependency: GPU_SCHED_NX names a folder of built applications (the
# _build/dev/lib of a project that has Nx); without it there is nothing to compare with, and it says so.
#
#   --json        one JSON object on standard output, and nothing else
#   --seconds=S   for each point (4)
#   --only=A,B    only these metrics
#
# Both have a device that takes 2 ms + 0.1 ms · n for a batch of n, at most 32: it could do 6154 a second.
# For Nx.Serving it is a function that waits for as long; it computes nothing, so what is compared is who
# is served when. Requests are of 64 bytes, each from a process of its own, by a Poisson schedule, and
# wanted within 25 ms of when they should have been sent. Ours are told so (timeout: 25); Nx.Serving cannot
# be told. Params: `offered` a second; `server`: gpu_sched, nx_serving with its default batch_timeout of
# 100 ms, or nx_serving_1 with one of 1 ms, the least that it takes.
#
#   in_time_per_s   answers within 25 ms; beside what was offered, or what the device can do
#   p50_ms, p99_ms  of all answers; beside a request alone, 2.1 ms

Code.require_file("support/report.exs", __DIR__)

defmodule Bench.NxServing do
  @moduledoc false

  alias Bench.Report
  alias GpuSched.Load
  alias GpuSched.Load.Histogram

  @compile {:no_warn_undefined, [Nx, Nx.Batch, Nx.Serving]}

  @within_ms 25
  @base_us 2_000
  @unit_us 100
  @most 32

  def main(args) do
    case load_nx() do
      :ok -> Report.main("nx_serving", args, &metrics/1)
      {:error, why} -> skip(why, args)
    end
  end

  defp skip(why, args) do
    IO.puts(:stderr, "nx_serving: skipped: #{why}")
    if "--json" in args, do: IO.puts(~s({"bench":"nx_serving","machine":{},"results":[]}))
  end

  defp load_nx do
    case System.get_env("GPU_SCHED_NX") do
      nil ->
        {:error,
         "there is no Nx to compare with; GPU_SCHED_NX names the _build/dev/lib of a project that has it"}

      folder ->
        for path <- Path.wildcard(Path.join(folder, "*/ebin")), do: Code.append_path(path)

        with {:error, {app, why}} <- Application.ensure_all_started(:nx),
             do: {:error, "#{app} of GPU_SCHED_NX=#{folder} does not start: #{inspect(why)}"},
             else: (_ -> :ok)
    end
  end

  defp metrics(seconds) do
    [{"in_time_per_s", fn -> Enum.flat_map(offered(), &measure(seconds, &1)) end}]
  end

  defp offered, do: [200, 1_000, 2_000, 4_000, 6_000, 8_000]

  defp measure(seconds, offered) do
    run = &load(&1, seconds, offered)

    for {server, point} <- [
          gpu_sched: with_ours(run),
          nx_serving: with_nx(100, run),
          nx_serving_1: with_nx(1, run)
        ],
        result <- results(%{offered: offered, server: server}, point) do
      result
    end
  end

  defp results(params, {point, seconds}) do
    can_be = min(point["sent"] / seconds, @most / (@base_us + @unit_us * @most) * 1.0e6)
    in_time = Histogram.count_to(point["latency"], @within_ms * 1_000_000) / seconds
    alone = (@base_us + @unit_us) / 1_000

    [Report.result("in_time_per_s", params, "1/s", in_time, can_be)] ++
      for {name, percent} <- [{"p50_ms", 50}, {"p99_ms", 99}],
          ns = Histogram.percentile(point["latency"], percent) do
        Report.result(name, params, "ms", ns / 1.0e6, alone)
      end
  end

  defp load(request, seconds, offered) do
    run =
      Load.run(request,
        rate: offered,
        payload: %{},
        duration: round(seconds * 1_000),
        warmup: 1_000,
        max_in_flight: 100_000,
        progress: false
      )

    {hd(run.points), seconds}
  end

  # ---- ours

  defp with_ours(fun) do
    model = [
      name: "m",
      engine: "synthetic",
      max_batch_requests: @most,
      parameters: %{a_us: @base_us, b_us: @unit_us}
    ]

    {:ok, server} = GpuSched.start_link(models: [model], port_options: [cpu_devices: 1])
    {:ok, _} = GpuSched.await_ready(server, "m")
    inputs = %{"data" => %{"datatype" => "UINT8", "shape" => [64], "data" => bytes()}}
    answer = fun.(fn _ -> GpuSched.infer(server, "m", inputs, timeout: @within_ms) end)
    GenServer.stop(server)
    answer
  end

  # ---- theirs

  defp with_nx(timeout, fun) do
    serving = Nx.Serving.new(fn _options -> &on_device/1 end)

    {:ok, pid} =
      Nx.Serving.start_link(
        serving: serving,
        name: __MODULE__.Serving,
        batch_size: @most,
        batch_timeout: timeout
      )

    batch = Nx.Batch.stack([Nx.from_binary(bytes(), :u8)])

    answer =
      fun.(fn _ ->
        Nx.Serving.batched_run(__MODULE__.Serving, batch)
        {:ok, %{}}
      end)

    Supervisor.stop(pid)
    answer
  end

  defp on_device(batch) do
    wait_until(Report.now_ns() + (@base_us + @unit_us * batch.size) * 1_000)
    Nx.broadcast(Nx.tensor(0, type: :u8), {batch.size, 1})
  end

  # The BEAM's timers have the grain of a millisecond, so the last of it is spun away.
  defp wait_until(ns) do
    case ns - Report.now_ns() do
      left when left <= 0 ->
        :ok

      left when left > 2_000_000 ->
        Process.sleep(div(left, 1_000_000) - 1)
        wait_until(ns)

      _left ->
        wait_until(ns)
    end
  end

  defp bytes, do: :binary.copy(<<7>>, 64)
end

Bench.NxServing.main(System.argv())
