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
      refute :erpc.call(laptop, :code, :which, [GpuSched]) != :non_existing

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
      for _ <- 1..2, do: spawn_on(laptop, :infer, [server, "hold", %{}, [timeout: :infinity]])
      until(fn -> seen(server)["held"] == 2 end)
      TestNode.signal(os_pid, "STOP")

      try do
        for _ <- 1..2 do
          big = [parameters: [bytes: 16_777_216], timeout: :infinity]
          # As the process that :erpc starts here for it.
          spawn(fn -> send(box, GpuSched.infer(server, "big", %{}, big)) end)
          {:ok, _ref} = GpuSched.stream_to(server, "parts", %{}, box, opts)
        end

        until(fn -> relay_backlog(pid, laptop) > 1_000_000 end)

        for _ <- 1..200, do: {:ok, _} = GpuSched.infer(server, "echo", %{})
        {:ok, _} = GpuSched.infer(server, "release", %{})
        {:ok, _} = GpuSched.models(server)
        assert Process.info(pid, :status) != {:status, :suspended}
        assert relay_backlog(pid, laptop) > 1_000_000
      after
        TestNode.signal(os_pid, "CONT")
      end

      until(fn -> relay_backlog(pid, laptop) == 0 end)
    end
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
