# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.TopTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias GpuSched.{RealPort, TestNode}

  @moduletag capture_log: true, timeout: 120_000
  if reason = RealPort.missing(), do: @moduletag(skip: reason)

  test "draws devices, models, jobs and clients" do
    {server, _pid} = RealPort.start(port_options: [cpu_devices: 2])
    {:ok, _} = GpuSched.await_ready(server)
    {:ok, job} = GpuSched.submit(server, "gemm", devices: 1, parameters: [seconds: 60])
    drawn = capture_io(fn -> assert GpuSched.top(server, interval: 50, frames: 2) == :ok end)
    # One below the other, where there is no terminal.
    assert length(String.split(drawn, "/s answered")) == 3
    refute drawn =~ "\e["
    assert drawn =~ ~r/^DEVICE +STATE/m and drawn =~ ~r/^cpu:0 /m and drawn =~ ~r/^cpu:1 /m
    assert drawn =~ ~r/^MODEL +STATE/m and drawn =~ ~r/^noop +ready/m
    assert drawn =~ ~r/^#{Regex.escape(job)} gemm /m
    :ok = GpuSched.cancel(job)
  end

  test "takes no options that are none" do
    for opts <- [nil, [frames: 0], [interval: -1], [interval: 0x100000000], [frame: 1]] do
      assert_raise ArgumentError, fn -> GpuSched.top(:nobody, opts) end
    end
  end

  test "counts what was answered since the frame before" do
    {server, _pid} = RealPort.start()
    {:ok, _} = GpuSched.await_ready(server)
    {:ok, before} = GpuSched.Snapshot.take(server)
    for _ <- 1..20, do: {:ok, _} = GpuSched.infer(server, "noop", %{data: [1]})
    {:ok, now} = GpuSched.Snapshot.take(server)
    now = Map.put(now, "at_ms", before["at_ms"] + 2_000)
    between = GpuSched.Snapshot.between(before, now)
    assert between.models["noop"].answered == 10.0
    assert between.all.answered == 10.0
    assert between.models["noop"].p50_ms > 0
    text = before |> GpuSched.Top.frame(now, {100, 40}) |> IO.iodata_to_binary()
    assert text =~ "10.0/s answered"
    assert text =~ ~r/noop +ready +10.0 +0 +0 /
  end

  test "shows names that a terminal would obey" do
    {server, _pid} = RealPort.start()
    {:ok, _} = GpuSched.await_ready(server)
    {:ok, now} = GpuSched.Snapshot.take(server)
    evil = "e\e[2Jvil\a"
    job = %{"job" => "1", "name" => evil, "state" => "running", "error" => nil, "message" => evil}
    now = Map.put(now, "jobs", [job])
    text = now |> GpuSched.Top.frame(now, {100, 40}) |> IO.iodata_to_binary()
    assert text =~ "1 e\uFFFD[2Jvil\uFFFD  running"
    refute text =~ ~r/[\e\a]/
  end

  test "fits a terminal of 80 columns and 24 rows, and has something of all" do
    models = for n <- 1..9, do: [name: "a-model-with-a-long-name-#{n}", engine: "synthetic"]
    {server, _pid} = RealPort.start(models: models, port_options: [cpu_devices: 6])
    {:ok, _} = GpuSched.await_ready(server)
    {:ok, now} = GpuSched.Snapshot.take(server)

    jobs =
      for n <- 1..5,
          do: %{
            "job" => "gpu@10.0.0.2/MyApp.Gpu/#{n}",
            "name" => "gemm",
            "state" => "running",
            "devices" => ["cpu:0", "cpu:1"],
            "done" => 5,
            "total" => 10,
            "message" => "loss 0.2258, 100.0 % right, and more that one would like to see"
          }

    clients = for n <- 1..20, do: %{"node" => "laptop#{n}@x", "in_flight" => 1, "processes" => 1}
    now = Map.merge(now, %{"jobs" => jobs, "clients" => clients})
    text = now |> GpuSched.Top.frame(now, {80, 24}) |> IO.iodata_to_binary()
    lines = text |> String.trim_trailing() |> String.split("\n")
    # One is left for what Enter does.
    assert length(lines) <= 23
    for head <- ~w(DEVICE MODEL JOB CLIENT), do: assert(text =~ ~r/^#{head} /m)
    assert text =~ ~r/^and \d+ more$/m

    # Nothing but what is told beside a job, at the end of its line, is wider.
    for line <- lines, String.length(line) > 79, do: assert(line =~ "5/10")
    assert text =~ ~r/^a-model-with.*REFUSED\/S$|REFUSED\/S$/m
    assert text =~ "name-1"
    assert text =~ "batch –"

    # Where there is room all of it is shown.
    wide = now |> GpuSched.Top.frame(now, {140, 80}) |> IO.iodata_to_binary()
    assert wide =~ "RUNNING" and wide =~ "a-model-with-a-long-name-9" and wide =~ "laptop8@x"
  end

  if reason = TestNode.missing(), do: @tag(skip: reason)

  test "is drawn on the laptop that asks, which has none of our code" do
    {server, _pid} = RealPort.start()
    {:ok, _} = GpuSched.await_ready(server)
    {_peer, laptop} = TestNode.laptop()
    args = [server, [interval: 10, frames: 1]]
    # The group leader goes with the call.
    drawn =
      capture_io(fn -> :ok = :erpc.call(laptop, :erpc, :call, [node(), GpuSched, :top, args]) end)

    assert drawn =~ "cpu:0"
  end

  test "what it does not take is refused, and no scheduler is an error" do
    assert_raise ArgumentError, ~r/:speed/, fn -> GpuSched.top(:nobody, speed: 1) end
    assert_raise ArgumentError, ~r/:frames/, fn -> GpuSched.top(:nobody, frames: 0) end
    assert {:error, %GpuSched.Error{reason: :unavailable}} = GpuSched.top(:nobody)
  end
end
