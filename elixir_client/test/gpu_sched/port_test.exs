# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.PortTest do
  # The whole of it: this library, sched-port and its workers.
  use ExUnit.Case, async: false

  import GpuSched.FakePort, only: [until: 1, taken: 1, queued: 1]
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

    # A number that none is can be computed, but not be sent as one in a list.
    assert {:error, %Error{reason: :invalid_argument}} = infer.("noop", %{data: [:nan]}, [])
    both = %{:data => [1], "data" => [1]}
    assert {:error, %Error{reason: :invalid_argument}} = infer.("noop", both, [])

    assert {:error, %Error{reason: :unknown_model, scope: :model}} =
             infer.("none", %{data: [1]}, [])

    assert {:error, %Error{reason: :bad_model}} = GpuSched.load(server, "m", path: "/nonexistent")
    again = GpuSched.load(server, "noop", engine: "synthetic")
    assert {:error, %Error{reason: :already_loaded}} = again
    assert {:error, %Error{scope: :model}} = GpuSched.load(server, "e", engine: "no such engine")
    library = [engine: "plugin", library: "/nonexistent/plugin.so"]
    assert {:error, %Error{scope: :model}} = GpuSched.load(server, "p", library)
    assert {:error, %Error{reason: :unknown_model}} = GpuSched.unload(server, "none")
    assert {:ok, _} = infer.("noop", %{data: [1]}, [])
    assert taken(server) == {0, 0}
  end

  test "no request spoils the frame that it shares with others" do
    {server, pid} = RealPort.start()
    {:ok, _} = GpuSched.await_ready(server)
    many = List.duplicate(1, 3_000_000)
    nested = Enum.reduce(1..30, 1, fn _, x -> [x] end)
    :sys.suspend(pid)

    [bad | good] =
      for data <- [nested, [1], many, many, [2]] do
        Task.async(fn -> GpuSched.infer(server, "noop", %{data: data}, timeout: 60_000) end)
      end

    until(fn -> queued(pid) == 4 end)
    :sys.resume(pid)
    assert {:error, %Error{reason: :invalid_argument, message: text}} = Task.await(bad, 60_000)
    assert text =~ "nested"
    for task <- good, do: assert({:ok, _} = Task.await(task, 60_000))

    assert {:error, %Error{reason: :too_large, message: text}} =
             GpuSched.infer(server, "noop", %{data: many ++ many})

    assert text =~ "values"
    assert {:ok, %{"port" => %{"bad_frames" => 0}}} = GpuSched.stats(server)
  end

  test "the credit that sched-port gives is kept" do
    slow = [name: "slow", engine: "synthetic", parameters: [a_us: 2_000_000]]
    noop = [name: "noop", engine: "synthetic"]
    {server, _pid} = RealPort.start(models: [slow, noop], port_options: [max_requests: 4])
    {:ok, _} = GpuSched.await_ready(server)
    held = for _ <- 1..4, do: GpuSched.async(server, "slow", %{data: [1]}, timeout: 60_000)
    until(fn -> elem(taken(server), 0) == 4 end)

    assert {:error, %Error{reason: :overloaded, retry_after_ms: ms, scope: :scheduler}} =
             GpuSched.infer(server, "noop", %{data: [1]})

    assert ms > 0
    options = [overload: :wait, timeout: 60_000]
    assert {:ok, _} = GpuSched.infer(server, "noop", %{data: [1]}, options)
    assert Enum.all?(GpuSched.await_many(held), &match?({:ok, _}, &1))

    results =
      server
      |> GpuSched.infer_many("noop", List.duplicate(%{data: [1]}, 200), timeout: 60_000)
      |> Enum.to_list()

    assert Enum.all?(results, &match?({:ok, _}, &1))
    assert {:ok, %{"port" => %{"bad_frames" => 0}}} = GpuSched.stats(server)
  end

  if reason = TestNode.missing(), do: @tag(skip: reason)

  test "a laptop whose name is long is served" do
    {server, _pid} = RealPort.start()
    {_peer, laptop} = TestNode.laptop(String.duplicate("a-long-name-", 6))
    assert byte_size(Atom.to_string(laptop)) > 63
    args = [node(), GpuSched, :infer, [server, "noop", %{"data" => [1]}, [timeout: 60_000]]]
    assert {:ok, %{"device" => "cpu:0"}} = :erpc.call(laptop, :erpc, :call, args)
  end

  if reason = TestNode.missing(), do: @tag(skip: reason)

  test "a laptop that dies in the middle of a call takes its request along, and no other" do
    slow = [name: "slow", engine: "synthetic", parameters: [a_us: 500_000], max_batch_requests: 1]
    {server, _pid} = RealPort.start(models: [slow])
    {:ok, _} = GpuSched.await_ready(server)
    {_peer, laptop} = TestNode.laptop()
    os_pid = TestNode.os_pid(laptop)
    mine = GpuSched.async(server, "slow", %{data: [1]}, timeout: 60_000)
    args = [node(), GpuSched, :infer, [server, "slow", %{data: [1]}, [timeout: :infinity]]]
    for _ <- 1..40, do: Node.spawn(laptop, :erpc, :call, args)
    until(fn -> elem(taken(server), 0) >= 40 end)
    Process.flag(:trap_exit, true)
    TestNode.signal(os_pid, "KILL")
    assert {:ok, _} = GpuSched.await(mine)
    # All of them would take 20 seconds, but for the one or two that were running.
    until(fn -> running(server, "slow") == 0 and taken(server) == {0, 0} end)
    {:ok, [%{"completed" => completed, "cancelled" => cancelled}]} = GpuSched.models(server)
    assert completed + cancelled == 41
    assert cancelled >= 30
  end

  if reason = TestNode.missing(), do: @tag(skip: reason)

  test "a laptop that is stopped while it is owed 16 MiB slows nobody down" do
    {server, pid} = RealPort.start()
    {:ok, _} = GpuSched.await_ready(server)
    {_peer, stopped} = TestNode.laptop()
    {_peer, other} = TestNode.laptop()
    os_pid = TestNode.os_pid(stopped)
    box = Node.spawn(stopped, :timer, :sleep, [:infinity])
    large = %{data: bytes(:binary.copy(<<1>>, 16_777_216))}
    opts = [parameters: [echo: true], timeout: :infinity]
    TestNode.signal(os_pid, "STOP")

    try do
      # One by the relay, and one by a process like that which :erpc starts here.
      {:ok, _ref} = GpuSched.stream_to(server, "noop", large, box, opts)
      sender = spawn(fn -> send(box, GpuSched.infer(server, "noop", large, opts)) end)
      until(fn -> suspended?(sender) and suspended?(relay(pid, stopped)) end)

      for _ <- 1..100, do: {:ok, _} = GpuSched.infer(server, "noop", %{data: [1]})
      args = [node(), GpuSched, :infer, [server, "noop", %{data: [1]}]]
      for _ <- 1..100, do: {:ok, _} = :erpc.call(other, :erpc, :call, args)
      {:ok, _} = GpuSched.infer(server, "noop", large, opts)
      assert suspended?(sender) and suspended?(relay(pid, stopped))
    after
      TestNode.signal(os_pid, "CONT")
    end

    until(fn ->
      :erpc.call(stopped, :erlang, :process_info, [box, :message_queue_len]) ==
        {:message_queue_len, 2}
    end)
  end

  defp suspended?(pid), do: Process.info(pid, :status) == {:status, :suspended}
  defp relay(pid, node), do: elem(Map.fetch!(:sys.get_state(pid).relays, node), 0)

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

    # How many were done in time is a matter of this machine's mood; all would take a second.
    late = Enum.count(results, &match?({:error, %Error{reason: :deadline_exceeded}}, &1))
    assert late > 0 and late + Enum.count(results, &match?({:ok, _}, &1)) == 20
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
      RealPort.start(models: [[name: "m", engine: "synthetic", parameters: [a_us: 1_000_000]]])

    {:ok, _} = GpuSched.await_ready(server)
    {:ok, [%{"pid" => worker} | _]} = GpuSched.devices(server)
    # The first is in a batch of its own, in which time the others come. They are in the next one.
    first = GpuSched.async(server, "m", %{data: [1]}, timeout: 60_000)
    others = for _ <- 1..4, do: GpuSched.async(server, "m", %{data: [1]}, timeout: 60_000)
    assert {:ok, _} = GpuSched.await(first)
    TestNode.signal(worker, "KILL")
    assert Enum.all?(GpuSched.await_many(others), &match?({:ok, _}, &1))
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

  test "a request that hangs its worker is failed by itself" do
    {server, _pid} = RealPort.start(models: [[name: "m", engine: "synthetic", step_limit: 1_000]])

    {:ok, _} = GpuSched.await_ready(server)
    bad = GpuSched.async(server, "m", %{data: [1]}, parameters: [fault: "hang"], timeout: 60_000)
    good = for _ <- 1..10, do: GpuSched.async(server, "m", %{data: [1]}, timeout: 60_000)
    assert {:error, %Error{reason: :poisoned, message: text}} = GpuSched.await(bad)
    assert text =~ "a step took longer than its limit of 1.000 s"
    assert Enum.all?(GpuSched.await_many(good), &match?({:ok, _}, &1))
    {:ok, _} = GpuSched.load(server, "endless", engine: "synthetic", step_limit: :infinity)

    assert_raise ArgumentError,
                 ~r/:step_limit of a model takes milliseconds, or :inf.*; got 0/,
                 fn ->
                   GpuSched.load(server, "n", engine: "synthetic", step_limit: 0)
                 end
  end

  test "numbers that are too large are refused, and disturb nothing" do
    {server, _pid} =
      RealPort.start(models: [[name: "m", engine: "synthetic", parameters: [stream: true]]])

    {:ok, _} = GpuSched.await_ready(server)

    for option <- [:queue_limit, :max_batch_units, :step_limit] do
      assert_raise ArgumentError, ~r/#{option} of a model takes/, fn ->
        GpuSched.load(server, "n", [{:engine, "synthetic"}, {option, 0x10000000000000000}])
      end
    end

    # As many as there may be, and not the rest of a division. The last comes with the end.
    {:ok, ref} =
      GpuSched.stream_to(server, "m", %{data: [1]}, self(), parameters: [parts: 50], credit: 1)

    :ok = GpuSched.grant(server, ref, 0x10000000000)
    for _ <- 1..49, do: assert_receive({^ref, {:part, _}}, 10_000)
    assert_receive {^ref, {:done, _}}, 10_000
  end

  test "the death of sched-port costs nobody an error either, and leaves no worker" do
    {server, pid} =
      RealPort.start(models: [[name: "m", engine: "synthetic", parameters: [a_us: 2_000_000]]])

    {:ok, _} = GpuSched.await_ready(server)
    {:ok, [%{"pid" => worker} | _]} = GpuSched.devices(server)
    large = bytes(:binary.copy(<<3>>, 2_000_000))
    # The first is in its batch for two seconds, in which the others come.
    first = GpuSched.async(server, "m", %{data: [1]}, timeout: 60_000)
    leased = for _ <- 1..3, do: GpuSched.async(server, "m", %{data: large}, timeout: 60_000)
    small = for _ <- 1..20, do: GpuSched.async(server, "m", %{data: [1]}, timeout: 60_000)
    until(fn -> map_size(:sys.get_state(pid).pending) >= 23 end)

    TestNode.signal(port_pid(pid), "KILL")
    assert Enum.all?(GpuSched.await_many([first | small ++ leased]), &match?({:ok, _}, &1))
    until(fn -> TestNode.gone?(worker) end)
    assert GenServer.whereis(server) == pid
    until(fn -> taken(server) == {0, 0} end)
  end

  test "shutting down answers what is in flight, and leaves no process" do
    Process.flag(:trap_exit, true)

    {:ok, pid} =
      GpuSched.start_link(
        port_path: RealPort.path(),
        models: [[name: "m", engine: "synthetic", parameters: [a_us: 2_000_000]]]
      )

    {:ok, _} = GpuSched.await_ready(pid)
    {:ok, [%{"pid" => worker} | _]} = GpuSched.devices(pid)
    port = port_pid(pid)
    requests = for _ <- 1..5, do: GpuSched.async(pid, "m", %{data: [1]}, timeout: 60_000)
    until(fn -> elem(taken(pid), 0) == 5 and map_size(:sys.get_state(pid).pending) == 5 end)
    :ok = GenServer.stop(pid, :shutdown)
    assert Enum.all?(GpuSched.await_many(requests), &match?({:ok, _}, &1))
    assert TestNode.gone?(port)
    # It has a second from the end of sched-port on.
    until(fn -> TestNode.gone?(worker) end)
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
    {:ok, _} = GpuSched.await_ready(server)
    data = :binary.copy(<<1>>, 16_777_216)
    opts = [parameters: [echo: true], timeout: 60_000, overload: :wait]
    # Before anything large was sent: nothing of what follows may stay.
    :erlang.garbage_collect()
    before = :erlang.memory(:binary)

    # By a lease in and through the pipe out, one after the other and several at once.
    for _ <- 1..10, do: {:ok, _} = GpuSched.infer(server, "noop", %{data: bytes(data)}, opts)

    [_ | kept] =
      for _ <- 1..4 do
        GpuSched.async(server, "noop", %{data: bytes(data)}, opts)
      end
      |> GpuSched.await_many()
      |> Enum.map(fn {:ok, result} -> Map.delete(result, "outputs") end)

    until(fn ->
      :erlang.garbage_collect()
      :erlang.memory(:binary) < before + 1024 * 1024
    end)

    # What was kept of the results does not keep their data.
    assert Enum.all?(kept, &(&1["device"] == "cpu:0"))
  end

  describe "minilm" do
    if reason = RealPort.minilm_missing(), do: @describetag(skip: reason)

    @tag :tmp_dir
    test "embeds a file, split over two devices", %{tmp_dir: folder} do
      {server, _pid} =
        RealPort.start(
          models: [[name: "minilm", path: RealPort.minilm()]],
          port_options: [cpu_devices: 2]
        )

      texts = ["A cat sits on the mat.", "Interest rates rose today."]
      input = Path.join(folder, "texts.txt")
      output = Path.join(folder, "vectors.safetensors")
      File.write!(input, Enum.map(texts, &[&1, ?\n]))

      {:ok, job} =
        GpuSched.submit(server, "embed",
          devices: 2,
          parameters: [model: RealPort.minilm(), input: input, output: output, split: "tensor"]
        )

      assert {:ok, %{"path" => ^output, "texts" => 2, "width" => 384}} =
               GpuSched.await(job, timeout: 60_000)

      assert {:ok, _model} = GpuSched.await_ready(server, "minilm")

      assert {:ok, %{"outputs" => %{"embedding" => served}}} =
               GpuSched.infer(server, "minilm", %{"text" => texts},
                 output: :list,
                 timeout: 30_000
               )

      <<length::little-64, _header::binary-size(length), data::binary>> = File.read!(output)
      written = for <<x::little-float-32 <- data>>, do: x
      assert length(written) == 2 * 384

      for {x, y} <- Enum.zip(List.flatten(served), written), do: assert_in_delta(x, y, 1.0e-5)
    end

    test "embeds, from a laptop without our code as well" do
      {server, _pid} = RealPort.start(models: [[name: "minilm", path: RealPort.minilm()]])
      assert {:ok, %{"name" => "minilm"}} = GpuSched.await_ready(server, "minilm")
      texts = ["A cat sits on the mat.", "A feline rests on a rug.", "Interest rates rose today."]
      opts = [output: :list, timeout: 30_000]

      assert {:ok, %{"outputs" => %{"embedding" => [a, b, c]}}} =
               GpuSched.infer(server, "minilm", %{"text" => texts}, opts)

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

    test "a text over the limit is cut or refused, as the request says" do
      {server, _pid} = RealPort.start(models: [[name: "minilm", path: RealPort.minilm()]])
      {:ok, _} = GpuSched.await_ready(server)
      long = %{"text" => ["short", String.duplicate("word ", 2_000)]}
      infer = &GpuSched.infer(server, "minilm", &1, [timeout: 60_000] ++ &2)
      assert {:ok, _} = infer.(long, [])
      refuse = [parameters: [truncate: false]]

      assert {:error, %Error{reason: reason, scope: :request, message: text}} =
               infer.(long, refuse)

      assert reason in [:invalid_argument, :too_large]
      assert text =~ "truncate"

      assert {:error, %Error{reason: :invalid_argument, message: text}} =
               infer.(%{"text" => [<<0xFF, 0xFE>>]}, [])

      assert text =~ "UTF-8"
      odd = [parameters: %{"trunkate" => true}]
      assert {:error, %Error{reason: :invalid_argument, message: text}} = infer.(long, odd)
      assert text =~ "trunkate"
      assert {:ok, _} = infer.(%{"text" => ["short"]}, refuse)
    end

    defp dot(a, b), do: Enum.zip_reduce(a, b, 0.0, fn x, y, sum -> sum + x * y end)
  end
end
