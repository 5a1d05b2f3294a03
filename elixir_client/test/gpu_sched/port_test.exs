# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.PortTest do
  # The whole of it: this library, sched-port and its workers.
  use ExUnit.Case, async: false

  import GpuSched.FakePort, only: [until: 1, taken: 1]
  import GpuSched.RealPort, only: [bytes: 1, checksum: 1]

  alias GpuSched.{Error, RealPort, TestNode}

  @moduletag capture_log: true, timeout: 120_000
  if reason = RealPort.missing(), do: @moduletag(skip: reason)

  defp sum(result), do: hd(result["outputs"]["checksum"])
  defp running(server, model), do: running(GpuSched.models(server), model, :ok)

  defp running({:ok, models}, name, :ok) do
    model = Enum.find(models, &(&1["name"] == name))
    model["queued"] + model["running"]
  end

  # The sched-port under a scheduler.
  defp port_pid(pid), do: elem(:sys.get_state(pid).process, 0)

  test "computes on a device, from one byte to 16 MiB" do
    {server, _pid} = RealPort.start()
    assert {:ok, %{"state" => "ready"}} = GpuSched.await_ready(server, "noop")

    for size <- [0, 1, 7, 64, 5_000, 70_000, 1_048_576] do
      data = :rand.bytes(size)
      assert {:ok, result} = GpuSched.infer(server, "noop", %{data: bytes(data)}, output: :list)
      assert sum(result) == checksum(data)
      assert result["device"] == "cpu:0"
    end

    large = %{data: bytes(:binary.copy(<<1, 2, 3, 4, 5, 6, 7, 8>>, 2_097_152))}
    assert {:ok, first} = GpuSched.infer(server, "noop", large, output: :list)
    assert {:ok, again} = GpuSched.infer(server, "noop", large, output: :list)
    assert sum(first) == sum(again)
    until(fn -> taken(server) == {0, 0} end)
  end

  test "lists say the same as maps" do
    {server, _pid} = RealPort.start()
    a = GpuSched.infer!(server, "noop", %{data: [1, 2, 3]}, output: :list)
    b = GpuSched.infer!(server, "noop", %{data: bytes(<<1, 2, 3>>)}, output: :list)
    assert sum(a) == sum(b)
  end

  test "a large result comes through the pipe" do
    {server, _pid} = RealPort.start()
    data = :binary.copy(<<9>>, 16_777_216)
    opts = [parameters: [echo: true], timeout: 60_000]
    assert {:ok, result} = GpuSched.infer(server, "noop", %{data: bytes(data)}, opts)
    assert result["outputs"]["data"]["data"] == data
  end

  test "bad input is answered clearly, and nothing else is disturbed" do
    {server, _pid} = RealPort.start()
    {:ok, _} = GpuSched.await_ready(server)
    infer = fn model, inputs, opts -> GpuSched.infer(server, model, inputs, opts) end
    fp32 = %{datatype: "FP32", shape: [1], data: <<0::32>>}

    for {inputs, part} <- [
          {%{}, "data"},
          {%{data: [1], more: [1]}, "more"},
          {%{data: fp32}, "data"},
          {%{data: %{datatype: "UINT8", shape: [5], data: "abc"}}, "data"},
          {%{data: %{datatype: "UINT8", shape: [1, 1], data: "a"}}, "data"},
          {%{data: %{datatype: "NONSENSE", shape: [1], data: "a"}}, "NONSENSE"},
          {%{data: [1, "x"]}, "data"},
          {%{data: [300]}, "data"},
          {%{data: [[1], [1, 2]]}, "data"}
        ] do
      assert {:error, %Error{reason: :invalid_argument, scope: :request, message: text}} =
               infer.("noop", inputs, [])

      assert text =~ part
    end

    assert {:error, %Error{reason: :unknown_model, scope: :model}} =
             infer.("none", %{data: [1]}, [])

    assert {:error, %Error{reason: :bad_model}} = GpuSched.load(server, "m", path: "/nonexistent")
    assert {:error, %Error{}} = GpuSched.load(server, "noop", engine: "synthetic")
    assert {:error, %Error{}} = GpuSched.load(server, "e", engine: "no such engine")
    assert {:error, %Error{reason: :unknown_model}} = GpuSched.unload(server, "none")
    assert {:ok, _} = infer.("noop", %{data: [1]}, [])
    assert taken(server) == {0, 0}
  end

  test "parts come under credit, and halting cancels" do
    {server, _pid} =
      RealPort.start(models: [[name: "parts", engine: "synthetic", parameters: [stream: true]]])

    opts = [parameters: [parts: 30], credit: 3, output: :list]

    parts =
      Enum.map(GpuSched.stream(server, "parts", %{data: [1]}, opts), & &1["outputs"]["part"])

    assert parts == for(n <- 1..30, do: [n])

    endless = [parameters: [parts: 1_000_000], credit: 3]
    assert length(Enum.take(GpuSched.stream(server, "parts", %{data: [1]}, endless), 5)) == 5
    until(fn -> running(server, "parts") == 0 and taken(server) == {0, 0} end)
  end

  test "what is not done in time is cancelled over there" do
    {server, _pid} =
      RealPort.start(
        models: [
          [name: "slow", engine: "synthetic", parameters: [a_us: 50_000], max_batch_requests: 1]
        ]
      )

    {:ok, _} = GpuSched.await_ready(server)

    results =
      1..20
      |> Enum.map(fn _ -> GpuSched.async(server, "slow", %{data: [1]}, timeout: 120) end)
      |> GpuSched.await_many()

    assert Enum.count(results, &match?({:ok, _}, &1)) in 1..3
    assert Enum.any?(results, &match?({:error, %Error{reason: :deadline_exceeded}}, &1))
    until(fn -> running(server, "slow") == 0 and taken(server) == {0, 0} end)
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
  end

  test "requests of many callers are batched" do
    {server, _pid} =
      RealPort.start(models: [[name: "m", engine: "synthetic", parameters: [a_us: 2_000]]])

    {:ok, _} = GpuSched.await_ready(server)

    results =
      server
      |> GpuSched.infer_many("m", List.duplicate(%{data: [1]}, 500))
      |> Enum.map(fn {:ok, result} -> result["batch"] end)

    assert Enum.max(results) > 8
  end

  test "the death of a worker costs nobody an error" do
    {server, _pid} =
      RealPort.start(models: [[name: "m", engine: "synthetic", parameters: [a_us: 20_000]]])

    {:ok, _} = GpuSched.await_ready(server)
    requests = for _ <- 1..40, do: GpuSched.async(server, "m", %{data: [1]}, timeout: 60_000)
    until(fn -> running(server, "m") > 0 end)
    {:ok, [%{"pid" => worker} | _]} = GpuSched.devices(server)
    TestNode.signal(worker, "KILL")
    assert Enum.all?(GpuSched.await_many(requests), &match?({:ok, _}, &1))
  end

  test "a request that kills its worker is failed by itself" do
    {server, _pid} = RealPort.start()
    {:ok, _} = GpuSched.await_ready(server)

    bad =
      GpuSched.async(server, "noop", %{data: [1]}, parameters: [fault: "kill"], timeout: 60_000)

    good = for _ <- 1..10, do: GpuSched.async(server, "noop", %{data: [1]}, timeout: 60_000)
    assert {:error, %Error{reason: :poisoned, scope: :request}} = GpuSched.await(bad)
    assert Enum.all?(GpuSched.await_many(good), &match?({:ok, _}, &1))
  end

  test "the death of sched-port costs nobody an error either, and leaves no worker" do
    {server, pid} =
      RealPort.start(models: [[name: "m", engine: "synthetic", parameters: [a_us: 20_000]]])

    {:ok, _} = GpuSched.await_ready(server)
    {:ok, [%{"pid" => worker} | _]} = GpuSched.devices(server)
    large = bytes(:binary.copy(<<3>>, 2_000_000))
    small = for _ <- 1..20, do: GpuSched.async(server, "m", %{data: [1]}, timeout: 60_000)
    leased = for _ <- 1..3, do: GpuSched.async(server, "m", %{data: large}, timeout: 60_000)
    until(fn -> running(server, "m") == 23 or running(server, "m") == 0 end)

    TestNode.signal(port_pid(pid), "KILL")
    assert Enum.all?(GpuSched.await_many(small ++ leased), &match?({:ok, _}, &1))
    until(fn -> not File.exists?("/proc/#{worker}") end)
    assert GenServer.whereis(server) == pid
    until(fn -> taken(server) == {0, 0} end)
  end

  test "shutting down answers what is in flight, and leaves no process" do
    Process.flag(:trap_exit, true)

    {:ok, pid} =
      GpuSched.start_link(
        port_path: RealPort.path(),
        models: [[name: "m", engine: "synthetic", parameters: [a_us: 100_000]]]
      )

    {:ok, _} = GpuSched.await_ready(pid)
    {:ok, [%{"pid" => worker} | _]} = GpuSched.devices(pid)
    port = port_pid(pid)
    requests = for _ <- 1..5, do: GpuSched.async(pid, "m", %{data: [1]})
    until(fn -> running(pid, "m") == 5 end)
    :ok = GenServer.stop(pid, :shutdown)
    assert Enum.all?(GpuSched.await_many(requests), &match?({:ok, _}, &1))
    refute File.exists?("/proc/#{port}")
    refute File.exists?("/proc/#{worker}")
  end

  test "an option that sched-port does not know is told in its words" do
    Process.flag(:trap_exit, true)

    assert {:error, %Error{reason: :start_failed, message: text}} =
             GpuSched.start_link(port_path: RealPort.path(), port_options: [no_such_option: 1])

    assert text =~ "no-such-option"
  end

  test "without leases everything goes through the pipe" do
    {server, _pid} = RealPort.start(port_options: [lease_max_bytes: "0"])
    data = :binary.copy(<<1>>, 3_000_000)
    assert {:ok, result} = GpuSched.infer(server, "noop", %{data: bytes(data)}, output: :list)
    assert sum(result) == checksum(data)
  end

  test "memory is back at its baseline after a soak" do
    {server, _pid} = RealPort.start(watchdog: 2_000)
    data = :binary.copy(<<1>>, 16_777_216)
    opts = [parameters: [echo: true], timeout: 60_000]

    soak = fn ->
      for _ <- 1..5, do: {:ok, _} = GpuSched.infer(server, "noop", %{data: bytes(data)}, opts)
    end

    soak.()
    :erlang.garbage_collect()
    before = :erlang.memory(:binary)
    for _ <- 1..5, do: soak.()

    until(fn ->
      :erlang.garbage_collect()
      :erlang.memory(:binary) < before + 8 * 1024 * 1024
    end)
  end

  describe "minilm" do
    if reason = RealPort.minilm_missing(), do: @describetag(skip: reason)

    test "embeds, from a laptop without our code as well" do
      {server, _pid} = RealPort.start(models: [[name: "minilm", path: RealPort.minilm()]])
      assert {:ok, %{"name" => "minilm"}} = GpuSched.await_ready(server, "minilm")
      texts = ["A cat sits on the mat.", "A feline rests on a rug.", "Interest rates rose today."]

      opts = [output: :list, timeout: 30_000]
      assert {:ok, result} = GpuSched.infer(server, "minilm", %{"text" => texts}, opts)
      assert %{"embedding" => [a, b, c]} = result["outputs"]

      assert length(a) == 384
      assert_in_delta dot(a, a), 1.0, 1.0e-4
      assert dot(a, b) > 0.5
      assert dot(a, c) < 0.3

      unless TestNode.missing() do
        {_peer, laptop} = TestNode.laptop()
        args = [node(), GpuSched, :infer, [server, "minilm", %{"text" => ["hello"]}]]

        assert {:ok, %{"outputs" => %{"embedding" => %{"shape" => [1, 384], "data" => data}}}} =
                 :erpc.call(laptop, :erpc, :call, args)

        assert byte_size(data) == 384 * 4
      end
    end

    defp dot(a, b), do: Enum.zip_reduce(a, b, 0.0, fn x, y, sum -> sum + x * y end)
  end
end
