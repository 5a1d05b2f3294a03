# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.EventsTest do
  # What happens at a scheduler, told to subscribers on this node and on others.
  use GpuSched.FakePortCase, async: false

  alias GpuSched.{ClientScript, RealPort, TestNode}

  # Has the port tell of something.
  defp happen(server, event),
    do: {:ok, _} = GpuSched.infer(server, "event", %{}, parameters: event)

  defp hub(pid), do: :sys.get_state(pid).ctx.events.pid
  defp pumps(pid), do: map_size(:sys.get_state(hub(pid)).pumps)

  test "models, devices and overload are told" do
    {server, _pid} = start()
    {:ok, source} = GpuSched.subscribe(server)
    assert source == "#{node()}/#{server}"
    happen(server, event: "model", name: "m", state: "ready")

    assert_receive {:gpu_sched, ^source,
                    {:model, %{"name" => "m", "state" => "ready", "error" => nil}}}

    happen(server, event: "device", name: "gpu:0", state: "down", reason: "fell off the bus")

    assert_receive {:gpu_sched, ^source,
                    {:device,
                     %{"name" => "gpu:0", "state" => "down", "reason" => "fell off the bus"}}}

    happen(server, event: "device", name: "gpu:0", state: "up", reason: "")
    assert_receive {:gpu_sched, ^source, {:device, %{"state" => "up"}}}
    happen(server, event: "overload", state: "begun")

    assert_receive {:gpu_sched, ^source,
                    {:overload, %{"state" => "begun", "refused" => 0, "at" => "port"}}}
  end

  test "a job is told of from its beginning to its end, under the id it has" do
    {server, _pid} = start()
    {:ok, source} = GpuSched.subscribe(server)
    {:ok, job} = GpuSched.submit(server, "done")
    assert String.starts_with?(job, source)

    assert_receive {:gpu_sched, ^source,
                    {:job, %{"job" => ^job, "state" => "running", "name" => "done"}}}

    assert_receive {:gpu_sched, ^source,
                    {:job, %{"job" => ^job, "state" => "ended", "error" => nil} = told}}

    # That may be large, and is not told to everybody.
    refute is_map_key(told, "result")
    assert {:ok, %{"loss" => 0.25}} = GpuSched.await(job)
  end

  test "progress comes now and then, and the latest of it" do
    {server, _pid} = start()
    {:ok, source} = GpuSched.subscribe(server)
    {:ok, job} = GpuSched.submit(server, "wait")
    assert_receive {:gpu_sched, ^source, {:job, %{"state" => "running"}}}
    happen = [done: 0, total: 500, times: 500]
    {:ok, _} = GpuSched.infer(server, "job_event", %{}, parameters: happen, timeout: 60_000)
    assert_receive {:gpu_sched, ^source, {:job, %{"job" => ^job, "done" => 499}}}
    :ok = GpuSched.cancel(job)
    assert_receive {:gpu_sched, ^source, {:job, %{"state" => "ended", "error" => %Error{}}}}
    {:messages, rest} = Process.info(self(), :messages)
    told = Enum.count(rest, &match?({:gpu_sched, ^source, {:job, %{"state" => "running"}}}, &1))
    assert told < 100
  end

  test "that the port is gone, and back, and that the scheduler is stopped" do
    {server, pid} = start()
    {:ok, source} = GpuSched.subscribe(server)
    TestNode.signal(seen(server)["pid"], "KILL")

    assert_receive {:gpu_sched, ^source,
                    {:port, %{"state" => "down", "reason" => _, "restart_ms" => 10}}}

    assert_receive {:gpu_sched, ^source, {:port, %{"state" => "up", "version" => "0.0.0"}}}
    GenServer.stop(pid)
    assert_receive {:gpu_sched, ^source, {:port, %{"state" => "stopped"}}}
  end

  test "a scheduler that is killed is told of" do
    {server, pid} = start()
    {:ok, source} = GpuSched.subscribe(server)
    Process.exit(pid, :kill)
    assert_receive {:gpu_sched, ^source, {:port, %{"state" => "stopped", "reason" => text}}}
    assert text =~ "killed"
  end

  test "callers that are refused for want of credit are an overload, until they are not" do
    {server, _pid} = start([requests: 1], watchdog: 2_000)
    {:ok, source} = GpuSched.subscribe(server)
    held = GpuSched.async(server, "hold", %{}, timeout: :infinity)
    until(fn -> taken(server) == {1, elem(taken(server), 1)} and elem(taken(server), 0) == 1 end)
    {:error, %Error{reason: :overloaded}} = GpuSched.infer(server, "echo", %{})

    assert_receive {:gpu_sched, ^source,
                    {:overload, %{"state" => "begun", "at" => "credit", "refused" => n}}}

    assert n >= 1
    assert_receive {:gpu_sched, ^source, {:overload, %{"state" => "over", "at" => "credit"}}}
    GpuSched.cancel(held)
  end

  test "nothing comes after unsubscribing, and a subscriber that dies is forgotten" do
    {server, pid} = start()
    {:ok, source} = GpuSched.subscribe(server)
    # A second time is the same.
    {:ok, ^source} = GpuSched.subscribe(server)
    happen(server, event: "model", name: "a", state: "ready")
    assert_receive {:gpu_sched, ^source, {:model, %{"name" => "a"}}}
    # What comes after it has come, so nothing of it is under way.
    happen(server, event: "model", name: "after a", state: "ready")
    assert_receive {:gpu_sched, ^source, {:model, %{"name" => "after a"}}}
    refute_received {:gpu_sched, ^source, {:model, _model}}
    :ok = GpuSched.unsubscribe(server)
    happen(server, event: "model", name: "b", state: "ready")
    other = spawn(fn -> Process.sleep(:infinity) end)
    {:ok, ^source} = GpuSched.subscribe(server, other)
    assert pumps(pid) == 1
    Process.exit(other, :kill)
    until(fn -> pumps(pid) == 0 end)
    {:ok, ^source} = GpuSched.subscribe(server)
    happen(server, event: "model", name: "after b", state: "ready")
    assert_receive {:gpu_sched, ^source, {:model, %{"name" => "after b"}}}
    refute_received {:gpu_sched, ^source, {:model, _model}}
  end

  test "a subscriber that does not read is sent a limited number, and told how many it missed" do
    {server, pid} = start()
    test = self()

    slow =
      spawn_link(fn ->
        receive do
          :read -> read_all(test, 0, 0)
        end
      end)

    {:ok, source} = GpuSched.subscribe(server, slow)
    {:ok, _} = GpuSched.subscribe(server)
    many = &[event: "model", name: "m", state: "ready", times: &1]
    # So many have room wherever they wait; only when they are in its mailbox do others come.
    happen(server, many.(1_000))
    until(fn -> Process.info(slow, :message_queue_len) == {:message_queue_len, 1_000} end)
    happen(server, many.(4_000))
    # Nothing more is sent to it.
    happen(server, event: "model", name: "last", state: "ready")
    # The hub has passed on or counted all of them when it answers.
    assert pumps(pid) == 2
    assert Process.info(slow, :message_queue_len) == {:message_queue_len, 1_000}
    send(slow, :read)
    # The 1000 in its mailbox and the 1000 behind them.
    assert_receive {:read, 2_000, 3_001}
    assert source
  end

  # Until all of 5001 are accounted for.
  defp read_all(test, told, missed) when told + missed >= 5_001 do
    send(test, {:read, told, missed})
  end

  defp read_all(test, told, missed) do
    receive do
      {:gpu_sched, _source, {:missed, n}} -> read_all(test, told, missed + n)
      {:gpu_sched, _source, {:model, _model}} -> read_all(test, told + 1, missed)
    end
  end

  test "a scheduler that is not there is an error" do
    assert {:error, %Error{reason: :unavailable}} = GpuSched.subscribe(:nobody)
    assert {:error, %Error{reason: :unavailable}} = GpuSched.unsubscribe(:nobody)
  end

  describe "on another node" do
    if reason = TestNode.missing(), do: @describetag(skip: reason)

    test "a laptop without our code is told, and forgotten when it is gone" do
      {server, pid} = start()
      {_peer, laptop} = TestNode.laptop()
      box = Node.spawn(laptop, :timer, :sleep, [:infinity])
      args = [node(), GpuSched, :subscribe, [server, box]]
      assert {:ok, source} = :erpc.call(laptop, :erpc, :call, args)
      assert source == "#{node()}/#{server}"
      happen(server, event: "model", name: "m", state: "ready")

      message =
        {:gpu_sched, source, {:model, %{"name" => "m", "state" => "ready", "error" => nil}}}

      until(fn ->
        :erpc.call(laptop, :erlang, :process_info, [box, :messages]) == {:messages, [message]}
      end)

      Process.flag(:trap_exit, true)
      TestNode.signal(TestNode.os_pid(laptop), "KILL")
      until(fn -> pumps(pid) == 0 end)
    end

    test "a laptop that reads nothing is sent a limited number" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      box = Node.spawn(laptop, :timer, :sleep, [:infinity])
      {:ok, _source} = GpuSched.subscribe(server, box)
      many = [event: "model", name: "m", state: "ready", times: 5_000]
      {:ok, _} = GpuSched.infer(server, "event", %{}, parameters: many, timeout: 60_000)
      length = fn -> :erpc.call(laptop, :erlang, :process_info, [box, :message_queue_len]) end
      until(fn -> elem(length.(), 1) >= 1_000 end)
      # It is looked at after each 64.
      happen(server, event: "model", name: "last", state: "ready")
      assert elem(length.(), 1) <= 1_000 + 65
    end

    test "a client is the subscriber where it names nobody" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()
      {module, binary, file} = :code.get_object_code(ClientScript)
      {:module, _} = :erpc.call(client, :code, :load_binary, [module, file, binary])
      test = self()
      Node.spawn(client, ClientScript, :listen, [{server, node()}, test])
      assert_receive {:listening, {:ok, source}}
      happen(server, event: "device", name: "d", state: "up", reason: "")
      assert_receive {:heard, {:gpu_sched, ^source, {:device, %{"name" => "d"}}}}
    end
  end

  if reason = RealPort.missing(), do: @tag(skip: reason)

  test "the real port tells of models, and of overload" do
    {server, _pid} = RealPort.start(models: [])
    {:ok, source} = GpuSched.subscribe(server)

    slow = [
      engine: "synthetic",
      parameters: [a_us: 100_000],
      queue_limit: 1,
      max_batch_requests: 1
    ]

    {:ok, _} = GpuSched.load(server, "slow", slow)
    assert_receive {:gpu_sched, ^source, {:model, %{"name" => "slow", "state" => "ready"}}}
    requests = for _ <- 1..8, do: GpuSched.async(server, "slow", %{data: [1]}, timeout: 60_000)
    results = GpuSched.await_many(requests)
    assert Enum.any?(results, &match?({:error, %Error{reason: :queue_full}}, &1))
    assert_receive {:gpu_sched, ^source, {:overload, %{"state" => "begun", "at" => "port"}}}
    assert_receive {:gpu_sched, ^source, {:overload, %{"state" => "over", "refused" => n}}}
    assert n == Enum.count(results, &match?({:error, _}, &1))
    :ok = GpuSched.unload(server, "slow")
    assert_receive {:gpu_sched, ^source, {:model, %{"name" => "slow", "state" => "gone"}}}
  end
end
