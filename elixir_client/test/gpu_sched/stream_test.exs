# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.StreamTest do
  # Results in parts, and many requests as a stream.
  use GpuSched.FakePortCase, async: true

  describe "stream" do
    test "yields the parts in their order, under credit" do
      {server, _pid} = start()

      stream =
        GpuSched.stream(server, "parts", %{}, parameters: [parts: 50], credit: 4, output: :list)

      assert Enum.map(stream, & &1["outputs"]["part"]) == for(n <- 1..50, do: [n])
      assert Enum.all?(seen(server)["grants"], &(&1 <= 4))
      # Each enumeration is a request of its own.
      assert Enum.count(stream) == 50
      assert taken(server) == {0, 0}
    end

    test "sends nothing before it is enumerated" do
      {server, _pid} = start()
      _stream = GpuSched.stream(server, "parts", %{}, parameters: [parts: 1])
      assert seen(server)["infers"] == 0
    end

    test "a consumer that is slow gets no more than the credit" do
      {server, _pid} = start()
      test = self()

      consumer =
        spawn_link(fn ->
          server
          |> GpuSched.stream("parts", %{}, parameters: [parts: 100], credit: 2)
          |> Enum.each(fn _ -> send(test, :part) && receive(do: (:more -> :ok)) end)
        end)

      assert_receive :part
      seen(server)
      {:messages, messages} = Process.info(consumer, :messages)
      assert length(messages) <= 2
      Process.unlink(consumer)
      Process.exit(consumer, :kill)
      until(fn -> taken(server) == {0, 0} end)
    end

    test "halting cancels" do
      {server, _pid} = start()
      stream = GpuSched.stream(server, "parts", %{}, parameters: [parts: 1_000], credit: 4)
      assert length(Enum.take(stream, 3)) == 3
      until(fn -> length(seen(server)["cancels"]) == 1 and taken(server) == {0, 0} end)
      assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
      assert Process.info(self(), :monitors) == {:monitors, []}
    end

    test "a model without parts gives its result" do
      {server, _pid} = start()
      stream = GpuSched.stream(server, "echo", %{x: ["1"]}, output: :list)
      assert [%{"outputs" => %{"x" => ["1"]}}] = Enum.to_list(stream)
    end

    test "errors are raised, also that of the time" do
      {server, _pid} = start()

      assert_raise Error, fn -> Enum.to_list(GpuSched.stream(server, "nothing", %{})) end
      assert_raise Error, fn -> Enum.to_list(GpuSched.stream(:nobody_here, "x", %{})) end

      error =
        assert_raise Error, fn ->
          Enum.to_list(GpuSched.stream(server, "hold", %{}, timeout: 20))
        end

      assert error.reason == :deadline_exceeded
      until(fn -> taken(server) == {0, 0} end)
    end
  end

  describe "stream_to" do
    test "sends parts and the end to a process" do
      {server, _pid} = start()
      opts = [parameters: [parts: 5], credit: 2, output: :list]
      {:ok, ref} = GpuSched.stream_to(server, "parts", %{}, self(), opts)

      for n <- 1..5 do
        assert_receive {^ref, {:part, %{"outputs" => %{"part" => [^n]}}}}
        if n >= 2, do: GpuSched.grant(server, ref)
      end

      assert_receive {^ref, {:done, %{"device" => "fake:0"}}}
      until(fn -> taken(server) == {0, 0} end)
    end

    test "no more parts come than were granted" do
      {server, _pid} = start()
      opts = [parameters: [parts: 5], credit: 2]
      {:ok, ref} = GpuSched.stream_to(server, "parts", %{}, self(), opts)
      assert_receive {^ref, {:part, _}}
      assert_receive {^ref, {:part, _}}
      seen(server)
      refute_received {^ref, _}
      GpuSched.cancel(server, ref)
      assert_receive {^ref, {:error, %Error{reason: :cancelled}}}
      until(fn -> taken(server) == {0, 0} end)
      refute_received {^ref, _}
    end

    test "the death of the receiver cancels" do
      {server, _pid} = start()
      receiver = spawn(fn -> receive(do: (:never -> :ok)) end)
      {:ok, _ref} = GpuSched.stream_to(server, "hold", %{}, receiver, timeout: :infinity)
      until(fn -> seen(server)["held"] == 1 end)
      Process.exit(receiver, :kill)
      until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)
    end

    test "a node that does not take its parts loses its request, not the others theirs" do
      {server, pid} = start([], relay_bytes: 100_000)
      {:ok, _} = GpuSched.infer(server, "echo", %{})
      opts = [parameters: [parts: 100, bytes: 10_000], credit: 100]
      # Its relay does not get on.
      {:ok, ref} = GpuSched.stream_to(server, "parts", %{}, self(), parameters: [parts: 1])
      assert_receive {^ref, {:done, _}}
      {relay, _queued} = :sys.get_state(pid).relays[node()]
      :sys.suspend(relay)

      {:ok, ref} = GpuSched.stream_to(server, "parts", %{}, self(), opts)
      until(fn -> length(seen(server)["cancels"]) == 1 or seen(server)["held"] == 0 end)
      assert {:ok, _} = GpuSched.infer(server, "echo", %{})
      :sys.resume(relay)
      assert_receive {^ref, {:error, %Error{reason: :overloaded}}}
      until(fn -> taken(server) == {0, 0} end)
    end

    test "results that wait for a node are bounded like parts, and a large one alone is not" do
      {server, pid} = start([], relay_bytes: 100_000)
      {:ok, ref} = GpuSched.stream_to(server, "echo", %{}, self())
      assert_receive {^ref, {:done, _}}
      {relay, _queued} = :sys.get_state(pid).relays[node()]
      :sys.suspend(relay)
      opts = [parameters: [bytes: 200_000]]
      refs = for _ <- 1..3, do: elem(GpuSched.stream_to(server, "big", %{}, self(), opts), 1)
      until(fn -> taken(server) == {0, 0} end)
      :sys.resume(relay)
      [first | others] = refs
      assert_receive {^first, {:done, %{"outputs" => %{"data" => %{"data" => _}}}}}
      for ref <- others, do: assert_receive({^ref, {:error, %Error{reason: :overloaded}}})
    end

    test "the end comes also when the scheduler is killed, or its relay" do
      {server, pid} = start()
      options = [timeout: :infinity]
      {:ok, ref} = GpuSched.stream_to(server, "hold", %{}, self(), options)
      until(fn -> seen(server)["held"] == 1 end)
      {relay, _queued} = :sys.get_state(pid).relays[node()]
      Process.exit(relay, :kill)
      assert_receive {^ref, {:error, %Error{reason: :unknown, message: text}}}
      assert text =~ "relay"
      until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)

      {:ok, ref} = GpuSched.stream_to(server, "hold", %{}, self(), options)
      until(fn -> seen(server)["held"] == 1 end)
      Process.exit(pid, :kill)
      assert_receive {^ref, {:error, %Error{reason: :unavailable}}}
      refute_received {^ref, _}
    end

    test "a part that cannot be read is the end" do
      {server, _pid} = start()
      opts = [parameters: [parts: 5, bad: 2], credit: 5]
      {:ok, ref} = GpuSched.stream_to(server, "parts", %{}, self(), opts)
      assert_receive {^ref, {:part, _}}
      assert_receive {^ref, {:error, %Error{reason: :protocol_error}}}
      until(fn -> taken(server) == {0, 0} end)
      refute_received {^ref, _}
      stream = GpuSched.stream(server, "parts", %{}, opts)
      assert assert_raise(Error, fn -> Enum.to_list(stream) end).reason == :protocol_error
      until(fn -> taken(server) == {0, 0} end)
    end

    test "an expired one is told, also while there is no port" do
      {server, _pid} = start([], restart_backoff: {60_000, 60_000}, watchdog: 2_000)
      {:ok, ref} = GpuSched.stream_to(server, "hold", %{}, self(), timeout: 300)
      until(fn -> seen(server)["held"] == 1 end)
      GpuSched.TestNode.signal(seen(server)["pid"], "KILL")
      assert_receive {^ref, {:error, %Error{reason: :deadline_exceeded}}}
    end
  end

  describe "infer_many" do
    test "results are in the order of the inputs" do
      {server, _pid} = start()
      inputs = Stream.map(1..500, &%{x: [&1]})
      results = server |> GpuSched.infer_many("echo", inputs, output: :list) |> Enum.to_list()

      assert Enum.map(results, fn {:ok, r} -> r["outputs"]["x"] end) ==
               for(n <- 1..500, do: ["#{n}"])

      assert taken(server) == {0, 0}
      assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
      assert Process.info(self(), :monitors) == {:monitors, []}
    end

    test "without an order they come with their index" do
      {server, _pid} = start()
      inputs = Stream.map(0..99, &%{x: [&1]})

      results =
        server
        |> GpuSched.infer_many("echo", inputs, ordered: false, output: :list, max_concurrency: 7)
        |> Enum.to_list()

      assert length(results) == 100
      for {index, {:ok, r}} <- results, do: assert(r["outputs"]["x"] == ["#{index}"])
    end

    test "it is lazy, and no more than its concurrency is in flight" do
      {server, _pid} = start()
      test = self()
      inputs = Stream.map(1..1_000, fn n -> send(test, {:asked, n}) && %{} end)

      stream = GpuSched.infer_many(server, "echo", inputs, max_concurrency: 10)
      refute_received {:asked, _}
      assert length(Enum.take(stream, 1)) == 1
      assert_received {:asked, 1}
      refute_received {:asked, 12}
    end

    test "halting cancels the rest" do
      {server, _pid} = start()
      inputs = Stream.concat([%{}], Stream.cycle([%{}]))
      first = Stream.map(Stream.with_index(inputs), fn {i, _} -> i end)
      {:ok, _} = GpuSched.infer(server, "echo", %{})

      reader =
        spawn(fn ->
          server
          |> GpuSched.infer_many("hold", first, max_concurrency: 8, timeout: :infinity)
          |> Enum.take(1)
        end)

      until(fn -> seen(server)["held"] == 8 end)
      Process.exit(reader, :kill)
      until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)

      models = GpuSched.infer_many(server, "echo", Stream.cycle([%{}]), max_concurrency: 8)
      assert [{:ok, _}, {:ok, _}] = Enum.take(models, 2)
      until(fn -> taken(server) == {0, 0} end)
      assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
    end

    test "one that fails does not end the others" do
      {server, _pid} = start()
      inputs = [%{x: [1]}, %{x: self()}, %{x: [3]}]

      assert [{:ok, _}, {:error, %Error{reason: :invalid_argument}}, {:ok, _}] =
               server |> GpuSched.infer_many("echo", inputs) |> Enum.to_list()
    end

    test "each has its own timeout" do
      {server, _pid} = start()

      results =
        server
        |> GpuSched.infer_many("hold", List.duplicate(%{}, 5), timeout: 30, max_concurrency: 2)
        |> Enum.to_list()

      assert length(results) == 5
      assert Enum.all?(results, &match?({:error, %Error{reason: :deadline_exceeded}}, &1))
      until(fn -> taken(server) == {0, 0} end)
    end

    test "waits for credit instead of failing" do
      {server, _pid} = start(requests: 3)
      results = server |> GpuSched.infer_many("echo", List.duplicate(%{}, 100)) |> Enum.to_list()
      assert Enum.all?(results, &match?({:ok, _}, &1))
    end

    test "of nothing is nothing" do
      {server, _pid} = start()
      assert server |> GpuSched.infer_many("echo", []) |> Enum.to_list() == []
    end
  end
end
