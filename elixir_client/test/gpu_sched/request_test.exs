# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.RequestTest do
  # One request after the other: results, errors, timeouts.
  use GpuSched.FakePortCase, async: true

  test "tensors come back as they were sent" do
    {server, _pid} = start()

    tensor = %{
      "datatype" => "FP32",
      "shape" => [2],
      "data" => <<1.5::float-little-32, 2::float-little-32>>
    }

    assert {:ok, %{"outputs" => %{"x" => ^tensor}, "device" => "fake:0", "batch" => 1}} =
             GpuSched.infer(server, "echo", %{x: tensor})

    assert %{"outputs" => %{"x" => [1.5, 2.0]}} =
             GpuSched.infer!(server, "echo", %{x: tensor}, output: :list)

    assert %{"outputs" => %{"text" => ["a", "é"]}} =
             GpuSched.infer!(server, "echo", %{"text" => ["a", "é"]}, output: :list)
  end

  test "the server may be a pid, a name, or a name with this node" do
    {server, pid} = start()

    for s <- [server, pid, {server, node()}],
        do: assert({:ok, _} = GpuSched.infer(s, "echo", %{}))
  end

  test "the name may be any that a GenServer takes" do
    registry = start_supervised!({Registry, keys: :unique, name: __MODULE__.Registry})
    assert is_pid(registry)

    for name <- [
          {:global, __MODULE__},
          {:global, {:gpu, 1}},
          {:via, Registry, {__MODULE__.Registry, "gpu"}},
          {:via, :global, __MODULE__.Via}
        ] do
      start_supervised!({GpuSched, FakePort.options([], name: name)}, id: name)
      assert {:ok, _} = GpuSched.infer(name, "echo", %{})
      assert {:ok, _} = GpuSched.models(name)
    end
  end

  test "what names no scheduler is refused" do
    for server <- ["gpu", 1, {"gpu", node()}, {:gpu, "node"}, %{}] do
      assert_raise ArgumentError, ~r/a name, a pid or {name, node}; got/, fn ->
        GpuSched.infer(server, "echo", %{})
      end
    end
  end

  test "a setting that is not there is no name" do
    for nothing <- [nil, {nil, :"gpu@10.0.0.2"}] do
      assert_raise ArgumentError, ~r/names a scheduler.*got .*nil/, fn ->
        GpuSched.infer(nothing, "echo", %{})
      end
    end

    assert_raise ArgumentError, ~r/got nil/, fn -> GpuSched.cancel(nil) end
    assert_raise ArgumentError, ~r/looks at a node.*got "gpu@/, fn -> GpuSched.doctor("gpu@a") end
    assert_raise ArgumentError, ~r/got nil/, fn -> GpuSched.doctor(nil) end
    {server, _pid} = start()
    assert {:error, %Error{message: text}} = GpuSched.infer(server, nil, %{})
    assert text =~ "nil where the name of a model belongs"
    assert {:error, %Error{message: text}} = GpuSched.infer(server, "echo", nil)
    assert text =~ "nil where a map from names to tensors belongs"
  end

  test "without a scheduler of that name the error says so" do
    assert {:error, %Error{reason: :unavailable, message: text}} =
             GpuSched.infer(:nobody_here, "echo", %{})

    assert text =~ ":nobody_here"
    assert {:error, %Error{reason: :unavailable}} = GpuSched.stats(self())
  end

  test "errors of the port become reasons, and unknown ones make no atom" do
    {server, _pid} = start()
    infer = &GpuSched.infer(server, "error", %{}, parameters: [code: &1])

    assert {:error, %Error{reason: :queue_full, retry_after_ms: 7, status: -999}} =
             infer.("queue_full")

    assert {:error, %Error{reason: :unknown, scope: :request}} = infer.("never_seen_before_code")

    assert {:error, %Error{reason: :unknown_model, scope: :model}} =
             GpuSched.infer(server, "nothing", %{})

    assert_raise Error, "so it was asked", fn ->
      GpuSched.infer!(server, "error", %{}, parameters: [code: "poisoned"])
    end
  end

  test "what cannot be sent is refused with its path" do
    {server, _pid} = start()
    infer = &GpuSched.infer(server, "echo", &1)

    for {inputs, text} <- [
          {%{"x" => [1, self()]}, "inputs.x[1]: this cannot be sent: a pid"},
          {%{"x" => {1, 2}}, "inputs.x: this cannot be sent: a tuple"},
          {%{"x" => %{"shape" => [1]}},
           "inputs.x: this cannot be sent: a map that is not a tensor"},
          {%{"x" => %{__struct__: Nx.Tensor}}, "Nx.to_binary(t)"},
          {%{"x" => [[%{__struct__: Nx.Tensor}]]}, "Nx.stack/1"},
          {%{"x" => %{"datatype" => "FP32", "shape" => [1 | 2], "data" => ""}},
           "inputs.x.shape: this cannot be sent: a shape"},
          {%{"x" => [1 | 2]}, "inputs.x: this cannot be sent: an improper list"},
          {%{"x" => deep(17)}, "a term nested more than 16 deep"},
          {%{"x" => [1, deep(16)]}, "a term nested more than 16 deep"},
          {%{__struct__: Nx.Tensor}, "inputs: this cannot be sent: a struct (Nx.Tensor)"},
          {%{1 => [1]}, "inputs: this cannot be sent: the name 1"},
          {[x: 1], "inputs: this cannot be sent: a list where a map"}
        ] do
      assert {:error, %Error{reason: :invalid_argument, message: message}} = infer.(inputs)
      assert message =~ text
    end

    assert {:error, %Error{reason: :invalid_argument}} =
             GpuSched.infer(server, "echo", %{}, parameters: %{"p" => self()})

    assert taken(server) == {0, 0}
  end

  defp deep(0), do: 1
  defp deep(n), do: [deep(n - 1)]

  test "options are checked at the door" do
    {server, _pid} = start()

    for opts <- [
          [timeout: -1],
          [timeout: 1.5],
          [output: :json],
          [output: :nx],
          [priority: 8],
          [client: String.duplicate("x", 64)],
          [overload: :drop],
          [credit: 1],
          [nonsense: true],
          :nonsense
        ] do
      assert_raise ArgumentError, fn -> GpuSched.infer(server, "echo", %{}, opts) end
    end

    assert_raise ArgumentError, ~r/:timeout takes milliseconds or :infinity; got -1/, fn ->
      GpuSched.infer(server, "echo", %{}, timeout: -1)
    end
  end

  test "so is how long to wait for what goes on" do
    {server, _pid} = start()
    request = GpuSched.async(server, "echo", %{})

    for wait <- [-1, 1.5, nil, "5", [timeout: 5], 0x100000000] do
      for ask <- [&GpuSched.await/2, &GpuSched.yield/2, &GpuSched.await_many([&1], &2)] do
        assert_raise ArgumentError, ~r/:timeout takes milliseconds or :infinity; got/, fn ->
          ask.(request, wait)
        end
      end
    end

    assert {:ok, _} = GpuSched.await(request)

    for other <- [nil, {:ok, "gpu@10.0.0.2/MyApp.Gpu/17"}, 7] do
      assert_raise ArgumentError, ~r/await takes what async answered, or the id of a job/, fn ->
        GpuSched.await(other)
      end
    end
  end

  test "client, priority and deadline go along" do
    {server, _pid} = start()
    {:ok, _} = GpuSched.infer(server, "echo", %{}, client: "me", priority: 3, timeout: 60_000)
    {:ok, _} = GpuSched.infer(server, "echo", %{}, timeout: :infinity)

    seen = seen(server)
    assert seen["clients"] == ["me", Atom.to_string(node())]
    assert seen["order"] == [3, nil]
    assert [deadline, nil] = seen["deadlines"]
    assert_in_delta deadline, :os.perf_counter(:nanosecond), 60_000_000_000
  end

  test "a client is told by its node, also where that has a long name" do
    assert GpuSched.Encode.share(:"gpu@10.0.0.2") == "gpu@10.0.0.2"
    # As Fly has them: the application, its image, an IPv6 address.
    long = &:"an-application-with-a-long-name-01J8ZK2W7Q3V5X9Y1A2B3C4D5E@fdaa:0:33b6:a7b::#{&1}"
    assert byte_size(GpuSched.Encode.share(long.(1))) == 63
    assert GpuSched.Encode.share(long.(1)) == GpuSched.Encode.share(long.(1))
    assert GpuSched.Encode.share(long.(1)) != GpuSched.Encode.share(long.(2))
  end

  test "what is not done in time is cancelled, and no message comes late" do
    {server, _pid} = start()

    assert {:error, %Error{reason: :deadline_exceeded, message: text}} =
             GpuSched.infer(server, "hold", %{}, timeout: 20)

    assert text =~ "20 ms"
    until(fn -> length(seen(server)["cancels"]) == 1 end)
    until(fn -> taken(server) == {0, 0} end)
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
    assert Process.info(self(), :monitors) == {:monitors, []}
  end

  test "an infinite timeout waits, others' messages stay" do
    {server, _pid} = start()
    send(self(), :mine)
    task = Task.async(fn -> GpuSched.infer(server, "hold", %{}, timeout: :infinity) end)
    until(fn -> seen(server)["held"] == 1 end)
    {:ok, _} = GpuSched.infer(server, "release", %{})
    assert {:ok, _} = Task.await(task, 60_000)
    assert_received :mine
  end

  test "many messages share a frame when many callers send at once" do
    {server, pid} = start()
    :sys.suspend(pid)

    tasks = for _ <- 1..50, do: Task.async(fn -> GpuSched.infer(server, "echo", %{}) end)
    until(fn -> queued(pid) == 50 end)
    :sys.resume(pid)

    assert Enum.all?(Task.await_many(tasks, 60_000), &match?({:ok, _}, &1))
    assert Enum.max(seen(server)["frames"]) >= 50
  end

  test "frames are split at the port's limit, and what exceeds one alone is refused" do
    {server, pid} = start("max-frame": 4096, "lease-min": 0)
    :sys.suspend(pid)
    data = %{datatype: "UINT8", shape: [1000], data: :binary.copy(<<1>>, 1000)}
    tasks = for _ <- 1..20, do: Task.async(fn -> GpuSched.infer(server, "echo", %{x: data}) end)
    until(fn -> queued(pid) == 20 end)
    :sys.resume(pid)

    assert Enum.all?(Task.await_many(tasks, 60_000), &match?({:ok, _}, &1))
    assert Enum.max(seen(server)["frames"]) <= 4

    large = %{datatype: "UINT8", shape: [5000], data: :binary.copy(<<1>>, 5000)}

    assert {:error, %Error{reason: :too_large, message: text}} =
             GpuSched.infer(server, "echo", %{x: large})

    assert text =~ "4096"
    assert taken(server) == {0, 0}
  end

  test "nothing but the data of a large result keeps its frame alive" do
    {server, _pid} = start()

    for output <- [:binary, :list] do
      opts = [parameters: [bytes: 300_000], output: output]
      {:ok, result} = GpuSched.infer(server, "big", %{}, opts)
      strings = Map.keys(result) ++ Map.keys(result["outputs"]) ++ [result["device"]]
      for s <- strings, do: assert(:binary.referenced_byte_size(s) < 1_000)
    end
  end

  test "requests that a frame cannot hold together go in several" do
    {server, pid} = start("max-values": 5_000)
    :sys.suspend(pid)
    inputs = %{x: List.duplicate(1, 3_000)}
    tasks = for _ <- 1..4, do: Task.async(fn -> GpuSched.infer(server, "echo", inputs) end)
    until(fn -> queued(pid) == 4 end)
    :sys.resume(pid)
    assert Enum.all?(Task.await_many(tasks, 60_000), &match?({:ok, _}, &1))
    assert Enum.max(seen(server)["frames"]) == 1

    assert {:error, %Error{reason: :too_large, message: text}} =
             GpuSched.infer(server, "echo", %{x: List.duplicate(1, 6_000)})

    assert text =~ "has 6003 values, and a frame takes 5000"
  end

  test "models, devices and stats answer plain terms" do
    {server, _pid} = start([], models: [[name: "a"], %{name: "b", path: "/b"}])
    assert {:ok, [%{"name" => "a"}, %{"name" => "b"}]} = GpuSched.await_ready(server)
    assert {:ok, %{"name" => "a"}} = GpuSched.await_ready(server, "a")
    assert {:ok, []} = GpuSched.devices(server)
    assert {:ok, %{"name" => "c"}} = GpuSched.load(server, "c", path: "/c", parameters: [x: 1])
    assert {:error, %Error{reason: :bad_model}} = GpuSched.load(server, "bad")
    assert :ok = GpuSched.unload(server, "a")
    {:ok, models} = GpuSched.models(server)
    assert Enum.map(models, & &1["name"]) == ["b", "c"]
    assert_raise ArgumentError, ~r/:pathh/, fn -> GpuSched.load(server, "d", pathh: "/d") end
  end

  test "a request prints without its payload" do
    {server, _pid} = start()
    request = GpuSched.async(server, "echo", %{"text" => ["secret"]})
    refute inspect(request) =~ "secret"
    assert inspect(request) =~ ~s(#GpuSched.Request<"echo")
    assert {:ok, _} = GpuSched.await(request)
  end
end
