# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.DistributionTest do
  # Other nodes: laptops that have none of our code, and clients that have this library.
  use GpuSched.FakePortCase, async: false

  alias GpuSched.TestNode

  if reason = TestNode.missing(), do: @moduletag(skip: reason)

  # Runs `function` of this node's GpuSched on a laptop's behalf, from a process over there that has
  # nothing but OTP: as `:erpc.call(host, GpuSched, …)` typed into its shell.
  defp from_laptop(laptop, function, args),
    do: :erpc.call(laptop, :erpc, :call, [node(), GpuSched, function, args])

  # The same in a process of the laptop that can be killed; its result is not waited for.
  defp spawn_on(laptop, function, args),
    do: Node.spawn(laptop, :erpc, :call, [node(), GpuSched, function, args])

  describe "a laptop without our code" do
    test "gets plain terms" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      assert :erpc.call(laptop, :code, :which, [GpuSched]) == :non_existing
      assert :erpc.call(laptop, :code, :which, [Enum]) == :non_existing

      assert {:ok, %{"outputs" => %{"text" => %{"data" => ["hello"]}}, "device" => "fake:0"}} =
               from_laptop(laptop, :infer, [server, "echo", %{"text" => ["hello"]}])

      assert {:ok, []} = from_laptop(laptop, :devices, [server])
      # Its share is its node's.
      assert Atom.to_string(laptop) in seen(server)["clients"]
    end

    test "gets errors that it can read" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()

      assert {:error, %{__struct__: Error, reason: :unknown_model, message: text}} =
               from_laptop(laptop, :infer, [server, "nothing", %{}])

      assert is_binary(text)
      # Elixir is not there either.
      assert {:error, %{message: text}} =
               from_laptop(laptop, :infer, [server, "echo", %{"x" => self()}])

      assert text =~ "a pid"
    end

    test "is the owner: its process dies, the request is cancelled" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      pid = spawn_on(laptop, :infer, [server, "hold", %{}, [timeout: :infinity]])
      until(fn -> seen(server)["held"] == 1 end)
      Process.exit(pid, :kill)
      until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)
    end

    test "is the owner: the whole node dies, its requests are cancelled, others' not" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      os_pid = TestNode.os_pid(laptop)
      for _ <- 1..3, do: spawn_on(laptop, :infer, [server, "hold", %{}, [timeout: :infinity]])
      mine = GpuSched.async(server, "hold", %{}, timeout: :infinity)
      until(fn -> seen(server)["held"] == 4 end)

      Process.flag(:trap_exit, true)
      TestNode.signal(os_pid, "KILL")
      until(fn -> seen(server)["held"] == 1 end)
      {:ok, _} = GpuSched.infer(server, "release", %{})
      assert {:ok, _} = GpuSched.await(mine)
      until(fn -> taken(server) == {0, 0} end)
    end

    test "is the owner: a node that dies takes hundreds of requests along" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      os_pid = TestNode.os_pid(laptop)
      for _ <- 1..300, do: spawn_on(laptop, :infer, [server, "hold", %{}, [timeout: :infinity]])
      until(fn -> seen(server)["held"] == 300 end)
      Process.flag(:trap_exit, true)
      TestNode.signal(os_pid, "KILL")
      until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)
    end

    test "has what was in flight sent again when sched-port dies" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      test = self()
      args = [server, "hold", %{}, [timeout: :infinity]]
      spawn_link(fn -> send(test, from_laptop(laptop, :infer, args)) end)
      until(fn -> seen(server)["held"] == 1 end)
      TestNode.signal(seen(server)["pid"], "KILL")
      until(fn -> match?({:ok, %{"held" => 1}}, GpuSched.stats(server)) end)
      {:ok, _} = GpuSched.infer(server, "release", %{})
      assert_receive {:ok, %{"device" => "fake:0"}}
    end

    test "meets the credit that others have used up" do
      {server, pid} = start(requests: 2)
      {_peer, greedy} = TestNode.laptop()
      {_peer, laptop} = TestNode.laptop()
      os_pid = TestNode.os_pid(greedy)
      for _ <- 1..2, do: spawn_on(greedy, :infer, [server, "hold", %{}, [timeout: :infinity]])
      until(fn -> seen(server)["held"] == 2 end)

      # At once, with the time to come back.
      assert {:error, %{reason: :overloaded, retry_after_ms: ms}} =
               from_laptop(laptop, :infer, [server, "echo", %{}, [timeout: :infinity]])

      assert ms > 0
      # Waiting, for as long as it said.
      short = [server, "echo", %{}, [overload: :wait, timeout: 50]]
      assert {:error, %{reason: :deadline_exceeded}} = from_laptop(laptop, :infer, short)
      assert map_size(:sys.get_state(pid).waiting) == 0

      # One that waits and dies gives its place up, and is not waited for here.
      args = [server, "echo", %{}, [overload: :wait, timeout: :infinity]]
      dead = spawn_on(laptop, :infer, args)
      until(fn -> map_size(:sys.get_state(pid).waiting) == 1 end)
      Process.exit(dead, :kill)
      until(fn -> map_size(:sys.get_state(pid).waiting) == 0 end)

      test = self()
      spawn_link(fn -> send(test, {:waited, from_laptop(laptop, :infer, args)}) end)
      until(fn -> map_size(:sys.get_state(pid).waiting) == 1 end)

      # What the other laptop held is free when that is gone.
      Process.flag(:trap_exit, true)
      TestNode.signal(os_pid, "KILL")
      assert_receive {:waited, {:ok, _}}
      until(fn -> taken(server) == {0, 0} end)
    end

    test "leaves no process behind here, however it ends" do
      {server, _pid} = start([requests: 2], watchdog: 2_000)
      {_peer, laptop} = TestNode.laptop()
      before = waiting_processes()
      opts = [overload: :wait, timeout: :infinity]
      pids = for _ <- 1..6, do: spawn_on(laptop, :infer, [server, "hold", %{}, opts])
      until(fn -> seen(server)["held"] == 2 and waiting_processes() == before + 6 end)
      for pid <- pids, do: Process.exit(pid, :kill)
      until(fn -> waiting_processes() == before and taken(server) == {0, 0} end)
    end

    test "watches a result in parts" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      # A mailbox over there that can be looked into.
      box = Node.spawn(laptop, :timer, :sleep, [:infinity])
      opts = [parameters: [parts: 4], credit: 2, output: :list]
      {:ok, ref} = from_laptop(laptop, :stream_to, [server, "parts", %{}, box, opts])

      mailbox = fn -> elem(:erpc.call(laptop, :erlang, :process_info, [box, :messages]), 1) end
      until(fn -> length(mailbox.()) == 2 end)
      :ok = from_laptop(laptop, :grant, [server, ref, 5])
      until(fn -> length(mailbox.()) == 5 end)

      assert [{^ref, {:part, %{"outputs" => %{"part" => [1]}}}} | _] = mailbox.()
      assert {^ref, {:done, %{"device" => "fake:0"}}} = List.last(mailbox.())

      {:ok, _ref} =
        from_laptop(laptop, :stream_to, [server, "hold", %{}, box, [timeout: :infinity]])

      until(fn -> seen(server)["held"] == 1 end)
      Process.exit(box, :kill)
      until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)
    end

    test "stopped while it is owed 16 MiB slows nobody down" do
      {server, pid} = start()
      {_peer, laptop} = TestNode.laptop()
      os_pid = TestNode.os_pid(laptop)
      box = Node.spawn(laptop, :timer, :sleep, [:infinity])

      # Results of 16 MiB and parts of 1 MiB are on their way to it when it stops reading, and what
      # its other processes own is begun and cancelled meanwhile.
      opts = [parameters: [parts: 64, bytes: 1_048_576], credit: 64, timeout: :infinity]
      {_peer, other} = TestNode.laptop()
      other_box = Node.spawn(other, :timer, :sleep, [:infinity])
      owed = [parameters: [bytes: 16_777_216], timeout: :infinity]
      for _ <- 1..2, do: spawn_on(laptop, :infer, [server, "hold", %{}, owed])
      until(fn -> seen(server)["held"] == 2 end)
      TestNode.signal(os_pid, "STOP")

      try do
        {:ok, _} = GpuSched.infer(server, "release", %{})
        for _ <- 1..2, do: {:ok, _ref} = GpuSched.stream_to(server, "parts", %{}, box, opts)
        until(fn -> relay_backlog(pid, laptop) > 1_000_000 end)

        for _ <- 1..200, do: {:ok, _} = GpuSched.infer(server, "echo", %{})
        {:ok, _} = GpuSched.models(server)

        # Another laptop is served like this node, in parts as well.
        for _ <- 1..50, do: {:ok, _} = from_laptop(other, :infer, [server, "echo", %{}])
        few = [parameters: [parts: 4], credit: 8]
        {:ok, _ref} = from_laptop(other, :stream_to, [server, "parts", %{}, other_box, few])
        until(fn -> mailbox(other, other_box) == 5 end)
        assert Process.info(pid, :status) != {:status, :suspended}
        assert relay_backlog(pid, laptop) > 1_000_000
      after
        TestNode.signal(os_pid, "CONT")
      end

      until(fn -> relay_backlog(pid, laptop) == 0 end)
    end
  end

  defp mailbox(node, pid),
    do: elem(:erpc.call(node, :erlang, :process_info, [pid, :message_queue_len]), 1)

  # Those that :erpc started here and that are in the middle of a request.
  defp waiting_processes do
    Enum.count(Process.list(), fn pid ->
      with {:current_stacktrace, stack} <- Process.info(pid, :current_stacktrace) do
        Enum.any?(stack, &match?({GpuSched.Local, _, _, _}, &1))
      end
    end)
  end

  defp relay_backlog(pid, node) do
    case :sys.get_state(pid).relays do
      %{^node => relay} -> GpuSched.Relay.queued(relay)
      _ -> 0
    end
  end

  describe "a client with this library" do
    test "names the scheduler as {name, node}, for everything" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()
      server = {server, node()}
      call = fn function, args -> :erpc.call(client, GpuSched, function, args) end

      assert {:ok, %{"outputs" => %{"x" => ["1"]}}} =
               call.(:infer, [server, "echo", %{x: ["1"]}, [output: :list]])

      assert {:error, %Error{reason: :unknown_model}} = call.(:infer, [server, "nothing", %{}])
      assert {:ok, _} = call.(:load, [server, "new", [path: "/x"]])
      assert {:ok, %{"name" => "new"}} = call.(:await_ready, [server, "new"])
      assert :ok = call.(:unload, [server, "new"])
      assert {:ok, %{}} = call.(:stats, [server])
    end

    test "is the owner" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()

      pid =
        Node.spawn(client, GpuSched, :infer, [{server, node()}, "hold", %{}, [timeout: :infinity]])

      until(fn -> seen(server)["held"] == 1 end)
      Process.exit(pid, :kill)
      until(fn -> seen(server)["held"] == 0 end)
    end

    test "async, stream and infer_many work from over there" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()
      load_support(client)

      assert :erpc.call(client, GpuSched.ClientScript, :run, [{server, node()}]) == :ok
      until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)
    end

    test "is told when the node is not there, or has no scheduler" do
      Process.flag(:trap_exit, true)
      gone = {GpuSched, :"nobody@127.0.0.1"}

      assert {:error, %Error{reason: :unavailable, message: text}} =
               GpuSched.infer(gone, "x", %{})

      assert text =~ "nobody@127.0.0.1"
      assert {:error, %Error{reason: :unavailable}} = GpuSched.stats(gone)
      assert_raise Error, fn -> Enum.to_list(GpuSched.stream(gone, "x", %{})) end

      {_peer, laptop} = TestNode.laptop()

      assert {:error, %Error{reason: :not_supported, message: text}} =
               GpuSched.infer({GpuSched, laptop}, "x", %{})

      assert text =~ "does not have this library"

      {_peer, client} = TestNode.client()
      {:ok, _} = :erpc.call(client, Application, :ensure_all_started, [:gpu_sched])

      assert {:error, %Error{reason: :unavailable, message: text}} =
               GpuSched.infer({GpuSched, client}, "x", %{})

      assert text =~ "no scheduler is running as GpuSched"
    end

    test "keeps to its timeout, and to one mailbox" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()
      args = [{server, node()}, "hold", %{}, [timeout: 100]]

      assert {:error, %Error{reason: :deadline_exceeded}} =
               :erpc.call(client, GpuSched, :infer, args)

      until(fn -> seen(server)["held"] == 0 end)
    end
  end

  defp load_support(node) do
    {module, binary, file} = :code.get_object_code(GpuSched.ClientScript)
    {:module, _} = :erpc.call(node, :code, :load_binary, [module, file, binary])
  end
end
