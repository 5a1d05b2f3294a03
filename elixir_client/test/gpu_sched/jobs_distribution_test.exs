# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.JobsDistributionTest do
  # Jobs from other nodes: laptops that have none of our code, and clients that have this library.
  use GpuSched.FakePortCase, async: false

  alias GpuSched.TestNode

  if reason = TestNode.missing(), do: @moduletag(skip: reason)

  # As typed into the laptop's shell.
  defp from_laptop(laptop, function, args),
    do: :erpc.call(laptop, :erpc, :call, [node(), GpuSched, function, args])

  defp spawn_on(laptop, function, args),
    do: Node.spawn(laptop, :erpc, :call, [node(), GpuSched, function, args])

  # A process of the laptop that can be looked into.
  defp box(laptop), do: Node.spawn(laptop, :timer, :sleep, [:infinity])

  defp messages(laptop, box),
    do: elem(:erpc.call(laptop, :erlang, :process_info, [box, :messages]), 1)

  defp event(server, parameters),
    do: {:ok, _} = GpuSched.infer(server, "job_event", %{}, parameters: parameters)

  describe "a laptop without our code" do
    test "submits, leaves, and another asks for the result" do
      {server, _pid} = start()
      {peer, laptop} = TestNode.laptop()
      {:ok, job} = from_laptop(laptop, :submit, [server, "wait", [parameters: %{"x" => 1}]])
      assert job == "#{node()}/#{server}/1"
      assert %{"client" => client} = List.last(seen(server)["jobs"])
      assert client == Atom.to_string(laptop)
      :ok = :peer.stop(peer)

      assert {:ok, [%{"job" => ^job, "state" => "running"}]} = GpuSched.jobs(server)
      event(server, state: "ended")
      {_peer, other} = TestNode.laptop()
      assert {:ok, %{}} = from_laptop(other, :await, [job])
      assert {:ok, %{"state" => "ended"}} = from_laptop(other, :job, [job])
      assert {:ok, [%{"job" => ^job}]} = from_laptop(other, :jobs, [server, [ended: true]])
    end

    test "has a share that is its own where its name is longer than a client's may be" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop("an_application_with_a_name_as_long_as_fly_has_them")
      assert byte_size(Atom.to_string(laptop)) > 63
      {:ok, job} = from_laptop(laptop, :submit, [server, "wait"])
      assert %{"client" => client} = List.last(seen(server)["jobs"])
      assert client == GpuSched.Encode.share(laptop)
      :ok = from_laptop(laptop, :cancel, [job])
    end

    test "gets events, exactly one end, and errors that it can read" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      box = box(laptop)
      {:ok, job} = from_laptop(laptop, :submit, [server, "wait"])
      :ok = from_laptop(laptop, :subscribe, [job, box])

      event(server, done: 3, total: 10)

      until(fn ->
        Enum.any?(
          messages(laptop, box),
          &match?({:gpu_sched, ^job, {:progress, %{"done" => 3, "total" => 10}}}, &1)
        )
      end)

      :ok = from_laptop(laptop, :cancel, [job])

      until(fn ->
        match?(
          {:gpu_sched, ^job, {:error, %{reason: :cancelled}}},
          List.last(messages(laptop, box))
        )
      end)

      assert {:error, %{__struct__: Error, reason: :cancelled, message: text}} =
               from_laptop(laptop, :await, [job])

      assert is_binary(text)
    end

    test "takes its job along, where that is linked, and what it reserved" do
      {server, _pid} = start()
      {_peer, laptop} = TestNode.laptop()
      {:ok, free} = from_laptop(laptop, :submit, [server, "wait"])

      # The process over there ends with its call.
      spawn_on(laptop, :submit, [server, "wait", [link: true]])
      until(fn -> match?([_, _], seen(server)["jobs"]) end)
      until(fn -> match?({:ok, [%{"job" => ^free}]}, GpuSched.jobs(server)) end)

      pid = spawn_on(laptop, :reserve, [server, [name: "pending"]])
      until(fn -> match?({:ok, [_, _]}, GpuSched.jobs(server)) end)
      Process.exit(pid, :kill)
      until(fn -> match?({:ok, [%{"job" => ^free}]}, GpuSched.jobs(server)) end)

      spawn_on(laptop, :reserve, [server, [name: "pending"]])
      until(fn -> match?({:ok, [_, _]}, GpuSched.jobs(server)) end)
      Process.flag(:trap_exit, true)
      TestNode.signal(TestNode.os_pid(laptop), "KILL")
      until(fn -> match?({:ok, [%{"job" => ^free}]}, GpuSched.jobs(server)) end)
    end

    test "asleep while it listens slows nobody down, and gets the latest and the end" do
      {server, pid} = start()
      {_peer, laptop} = TestNode.laptop()
      os_pid = TestNode.os_pid(laptop)
      boxes = for _ <- 1..20, do: box(laptop)
      mine = spawn(fn -> Process.sleep(:infinity) end)
      {:ok, job} = GpuSched.submit(server, "wait")
      for box <- [mine | boxes], do: :ok = GpuSched.subscribe(job, box)
      TestNode.signal(os_pid, "STOP")

      try do
        event(server, done: 1, total: 20_000, times: 20_000)
        for _ <- 1..50, do: {:ok, _} = GpuSched.infer(server, "echo", %{})
        assert Process.info(pid, :status) != {:status, :suspended}
        :ok = GpuSched.cancel(job)
        assert {:error, %Error{reason: :cancelled}} = GpuSched.await(job)
        until(fn -> match?({:gpu_sched, _, {:error, _}}, List.last(inbox(mine))) end)
      after
        TestNode.signal(os_pid, "CONT")
      end

      for box <- boxes do
        until(fn ->
          match?({:gpu_sched, ^job, {:error, _}}, List.last([nil | messages(laptop, box)]))
        end)

        assert length(messages(laptop, box)) < 100
      end
    end
  end

  defp inbox(pid), do: [nil | elem(Process.info(pid, :messages), 1)]

  describe "a client with this library" do
    test "does everything with an id" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()
      call = fn function, args -> :erpc.call(client, GpuSched, function, args) end
      there = {server, node()}

      {:ok, job} = call.(:submit, [there, "wait", [devices: 2]])
      assert {:ok, [%{"job" => ^job}]} = call.(:jobs, [there])
      assert {:ok, %{"why" => _, "n_devices" => 2}} = call.(:job, [job])

      assert {:error, %Error{reason: :deadline_exceeded, message: text}} =
               call.(:await, [job, 20])

      assert text =~ job
      box = Node.spawn(client, :timer, :sleep, [:infinity])
      assert :ok = call.(:subscribe, [job, box])
      assert :ok = call.(:unsubscribe, [job, box])
      assert :ok = call.(:cancel, [job])
      assert {:error, %Error{reason: :cancelled}} = call.(:await, [job])

      {:ok, job} = call.(:submit, [there, "done"])
      assert {:ok, %{"loss" => 0.25}} = call.(:await, [job])
      drawn = ExUnit.CaptureIO.capture_io(fn -> assert {:ok, _} = call.(:watch, [job]) end)
      assert drawn =~ "done"

      assert {:error, %Error{reason: :invalid_argument}} =
               call.(:submit, [there, "x", [inputs: %{}]])
    end

    test "reserves, in a process over there" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()
      there = {server, node()}
      args = [there, [devices: 2], &Enum.count/1]
      assert {:ok, 2} = :erpc.call(client, GpuSched, :reserve, args)
      until(fn -> GpuSched.jobs(server) == {:ok, []} end)
    end

    test "has its linked job as long as its process lives" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()
      load_support(client)
      args = [{server, node()}, self()]
      holder = Node.spawn(client, GpuSched.ClientScript, :linked, args)
      assert_receive {:linked, job}
      assert {:ok, [%{"job" => ^job}]} = GpuSched.jobs(server)
      Process.exit(holder, :kill)
      assert {:error, %Error{reason: :cancelled}} = GpuSched.await(job)
    end

    test "is the subscriber where it names nobody, also through :erpc" do
      {server, _pid} = start()
      {_peer, client} = TestNode.client()
      load_support(client)
      {:ok, job} = GpuSched.submit(server, "done")
      {:ok, result} = GpuSched.await(job)
      assert :erpc.call(client, GpuSched.ClientScript, :subscribe, [job]) == {result, result}
    end

    test "is told when the scheduler's node is gone" do
      {_peer, client} = TestNode.client()
      id = "#{client}/GpuSched/1"
      Process.flag(:trap_exit, true)
      TestNode.signal(TestNode.os_pid(client), "KILL")
      until(fn -> client not in Node.list(:hidden) end)
      assert {:error, %Error{reason: :unavailable, message: text}} = GpuSched.await(id)
      assert text =~ Atom.to_string(client)
    end
  end

  defp load_support(node) do
    {module, binary, file} = :code.get_object_code(GpuSched.ClientScript)
    {:module, _} = :erpc.call(node, :code, :load_binary, [module, file, binary])
  end
end
