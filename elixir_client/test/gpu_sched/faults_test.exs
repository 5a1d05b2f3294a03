# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.FaultsTest do
  # A port that does not start, does not speak, dies, hangs.
  use GpuSched.FakePortCase, async: true

  @moduletag :tmp_dir

  defp start_link(port_options, options \\ []) do
    Process.flag(:trap_exit, true)
    GpuSched.start_link(FakePort.options(port_options, options))
  end

  describe "starting" do
    test "a hello that cannot be used is told, and nothing is left running" do
      for {hello, text} <- [
            {"version", "version 99 of the protocol"},
            {"lacking", "lacks a field"},
            {"garbage", "no hello"}
          ] do
        assert {:error, %Error{reason: :start_failed, message: message}} =
                 start_link(hello: hello)

        assert message =~ text
      end
    end

    test "silence ends with start_timeout" do
      assert {:error, %Error{reason: :start_failed, message: message}} =
               start_link([hello: "none"], start_timeout: 200)

      assert message =~ "start_timeout (200 ms)"
    end

    test "an option that is not understood is told in the port's words" do
      assert {:error, %Error{reason: :start_failed, message: message}} =
               start_link(hello: "exit64")

      assert message =~ "it does not like its options"
    end

    test "any other end is told by its status" do
      assert {:error, %Error{reason: :start_failed, message: message}} =
               start_link(hello: "exit70")

      assert message =~ "status 70"
    end

    test "a program that is not there is told, with what to do", %{tmp_dir: dir} do
      Process.flag(:trap_exit, true)

      assert {:error, %Error{reason: :port_not_found, message: message}} =
               GpuSched.start_link(port_path: Path.join(dir, "sched-port"))

      assert message =~ "port_path"
      File.write!(Path.join(dir, "text"), "")

      assert {:error, %Error{reason: :port_not_found, message: message}} =
               GpuSched.start_link(port_path: Path.join(dir, "text"))

      assert message =~ "not a program"
    end

    test "a program of another machine is told", %{tmp_dir: dir} do
      Process.flag(:trap_exit, true)
      path = Path.join(dir, "sched-port")
      File.write!(path, <<0x7F, "ELF", 0::512>>)
      File.chmod!(path, 0o755)

      assert {:error, %Error{reason: :start_failed, message: message}} =
               GpuSched.start_link(port_path: path)

      assert message =~ path
    end

    test "what is half started goes when its supervisor does" do
      parent = spawn(fn -> GpuSched.start_link(FakePort.options(hello: "none")) end)
      server = until(fn -> Enum.find(links(parent), &is_pid/1) end)
      port = until(fn -> Enum.find(links(server), &is_port/1) end)
      {:os_pid, os_pid} = Port.info(port, :os_pid)

      Process.exit(parent, :kill)
      until(fn -> not Process.alive?(server) and GpuSched.TestNode.gone?(os_pid) end)
    end

    test "two owners of one name" do
      {server, pid} = start()
      Process.flag(:trap_exit, true)
      options = FakePort.options([], name: server)
      assert {:error, {:already_started, ^pid}} = GpuSched.start_link(options)
      assert {:ok, _} = GpuSched.infer(server, "echo", %{})
    end

    test "options are checked" do
      for options <- [
            [models: :all],
            [models: [[path: "/x"]]],
            [models: [[name: "a"], [name: "a"]]],
            [models: [[name: "a", engin: "x"]]],
            [models: [[name: "a", parameters: [x: self()]]]],
            [port_options: [1]],
            [restart_backoff: 5],
            [name: "text"],
            [unknown: 1]
          ] do
        assert_raise ArgumentError, fn -> GpuSched.start_link(options) end
      end
    end
  end

  describe "a port that dies" do
    test "is restarted under the same server, which loads its models again" do
      {server, pid} = start([], models: [[name: "a"]])
      {:ok, _} = GpuSched.load(server, "b")
      {:ok, _} = GpuSched.load(server, "c")
      :ok = GpuSched.unload(server, "c")
      os_pid = seen(server)["pid"]

      GpuSched.TestNode.signal(os_pid, "KILL")
      {:ok, models} = until(fn -> new_port(server, os_pid) && GpuSched.models(server) end)
      assert Enum.map(models, & &1["name"]) == ["a", "b"]
      assert GenServer.whereis(server) == pid
    end

    test "costs nobody an error: what was in flight is sent again", %{tmp_dir: dir} do
      {server, _pid} = start(folder: dir)
      tasks = for _ <- 1..10, do: Task.async(fn -> GpuSched.infer(server, "hold", %{}) end)
      until(fn -> seen(server)["held"] == 10 end)

      assert {:ok, %{"outputs" => %{"x" => ["1"]}}} =
               GpuSched.infer(server, "die_once", %{x: ["1"]}, output: :list)

      until(fn -> seen(server)["held"] == 10 end)
      {:ok, _} = GpuSched.infer(server, "release", %{})
      assert Enum.all?(Task.await_many(tasks, 60_000), &match?({:ok, _}, &1))
      assert taken(server) == {0, 0}
    end

    test "a second time with the same request fails that" do
      {server, _pid} = start()

      assert {:error, %Error{reason: :unavailable, message: text}} =
               GpuSched.infer(server, "die", %{})

      assert text =~ "a second time"
      assert {:ok, _} = GpuSched.infer(server, "echo", %{}, unavailable: :wait)
    end

    test "sends the deadline that was, not a new one", %{tmp_dir: dir} do
      {server, _pid} = start(folder: dir)
      {:ok, _} = GpuSched.infer(server, "die_once", %{}, timeout: 60_000)
      # The new port has seen the request once, with the deadline of the first.
      assert [deadline] = seen(server)["deadlines"]
      assert deadline - :os.perf_counter(:nanosecond) < 60_000_000_000
    end

    test "after parts were delivered ends the stream with an error, not with doubles" do
      {server, _pid} = start()
      stream = GpuSched.stream(server, "parts", %{}, parameters: [parts: 9, die_after: 3])
      error = assert_raise Error, fn -> Enum.to_list(stream) end
      assert error.reason == :unavailable
      assert error.message =~ "parts of the result"
    end

    test "meanwhile calls answer at once, or wait as long as they chose", %{tmp_dir: dir} do
      # It comes back when its file has gone, and not before.
      {server, pid} = start([hello: "once", folder: dir], restart_backoff: {20, 50})
      GpuSched.TestNode.signal(seen(server)["pid"], "KILL")
      until(fn -> FakePort.state(server) == :down end)

      assert {:error, error} = GpuSched.infer(server, "echo", %{})
      assert %Error{reason: :unavailable, scope: :scheduler, retry_after_ms: ms} = error
      assert ms in 1..50
      assert {:error, %Error{reason: :unavailable}} = GpuSched.stats(server)
      assert {:error, %Error{reason: :unavailable}} = GpuSched.load(server, "a")

      assert {:error, %Error{reason: :deadline_exceeded}} =
               GpuSched.infer(server, "echo", %{}, unavailable: :wait, timeout: 100)

      # All that `overload: :wait` says goes for this as well, unless it is told otherwise.
      options = [overload: :wait, timeout: :infinity]
      waiter = Task.async(fn -> GpuSched.infer(server, "echo", %{}, options) end)
      until(fn -> map_size(:sys.get_state(pid).waiting) == 1 end)

      assert {:error, %Error{reason: :unavailable}} =
               GpuSched.infer(server, "echo", %{}, unavailable: :error, overload: :wait)

      # What is asked about models waits by itself.
      patient = Task.async(fn -> GpuSched.await_ready(server, "a", timeout: :infinity) end)

      # It failed to start many times meanwhile, and the server is the same.
      File.rm!(Path.join(dir, "started"))
      assert {:ok, _} = Task.await(waiter, 60_000)
      assert {:ok, %{"name" => "a"}} = Task.await(patient, 60_000)
      assert GenServer.whereis(server) == pid
      assert taken(server) == {0, 0}
    end

    test "again and again spends nothing of the supervisor's patience" do
      name = :"fake_#{System.unique_integer([:positive])}"
      child = {GpuSched, FakePort.options([], name: name)}
      arguments = [[child], [strategy: :one_for_one, max_restarts: 0]]
      supervisor = start_supervised!(%{id: name, start: {Supervisor, :start_link, arguments}})

      for _ <- 1..5 do
        os_pid = seen(name)["pid"]
        GpuSched.TestNode.signal(os_pid, "KILL")
        until(fn -> new_port(name, os_pid) end)
      end

      assert Process.alive?(supervisor)
    end

    test "under a request that writes its tensors has these written again, once", %{tmp_dir: dir} do
      {server, _pid} = start("lease-min": 1_000, "die-at-lease": "once", folder: dir)
      tensor = %{x: %{datatype: "UINT8", shape: [5_000], data: :binary.copy(<<7>>, 5_000)}}

      assert {:ok, %{"outputs" => %{"x" => %{"data" => <<7, 7, _::binary>>}}}} =
               GpuSched.infer(server, "echo", tensor)

      assert taken(server) == {0, 0}
      {server, _pid} = start("lease-min": 1_000, "die-at-lease": "always")
      assert {:error, %Error{reason: :unavailable}} = GpuSched.infer(server, "echo", tensor)
      until(fn -> taken(server) == {0, 0} end)
    end
  end

  describe "a port that is not understood" do
    test "is ended and restarted" do
      for model <- ["garbage", "cut_short"] do
        {server, _pid} = start()
        assert {:error, %Error{reason: :unavailable}} = GpuSched.infer(server, model, %{})
        assert {:ok, _} = GpuSched.infer(server, "echo", %{}, unavailable: :wait)
      end
    end

    test "a bad frame fails what was in it and nothing else" do
      {server, _pid} = start()
      task = Task.async(fn -> GpuSched.infer(server, "hold", %{}) end)
      until(fn -> seen(server)["held"] == 1 end)

      assert {:error, %Error{reason: :protocol_error, message: text}} =
               GpuSched.infer(server, "bad_frame", %{})

      assert text =~ "it was asked for"
      {:ok, _} = GpuSched.infer(server, "release", %{})
      assert {:ok, _} = Task.await(task, 60_000)
    end

    test "one that hangs is ended by the watchdog, and what was in flight is sent again" do
      {server, _pid} = start([], watchdog: 3_000)
      old = seen(server)["pid"]
      task = Task.async(fn -> GpuSched.infer(server, "hold", %{}, timeout: :infinity) end)
      until(fn -> seen(server)["held"] == 1 end)
      GpuSched.TestNode.signal(old, "STOP")
      until(fn -> new_port(server, old) end)
      until(fn -> seen(server)["held"] == 1 end)
      {:ok, _} = GpuSched.infer(server, "release", %{})
      assert {:ok, _} = Task.await(task, 60_000)
    end

    test "one that has nothing to say is left alone" do
      # Which asks every scheduler of a node that has been in a cluster how it is.
      member = Process.whereis(GpuSched.Cluster.Member)
      :ok = :sys.suspend(member)
      on_exit(fn -> :sys.resume(member) end)

      # It is asked when half of that time is over, and may stand still for nearly as long.
      {server, pid} = start([], watchdog: 6_000)
      os_pid = seen(server)["pid"]
      # Its answers to the pings of the watchdog are all that comes.
      for _ <- 1..2 do
        until(fn -> :sys.get_state(pid).silent >= 3_000 end)
        until(fn -> :sys.get_state(pid).silent == 0 end)
      end

      assert %{"pid" => ^os_pid, "methods" => methods} = seen(server)
      assert Enum.count(methods, &(&1 == "ping")) >= 2
    end
  end

  describe "the server" do
    test "survives what others send to it and to its port" do
      {server, pid} = start()
      send(pid, :nonsense)
      send(pid, {:nonsense, 1})
      GenServer.cast(pid, :nonsense)
      assert {:error, _} = GenServer.call(pid, :nonsense)
      assert {:ok, _} = GpuSched.infer(server, "echo", %{})

      send(Enum.find(links(pid), &is_port/1), :malformed)
      assert {:ok, _} = GpuSched.infer(server, "echo", %{}, unavailable: :wait)
      assert GenServer.whereis(server) == pid
    end

    test "ends in order: refuses, answers what is in flight, closes, sees the exit" do
      Process.flag(:trap_exit, true)
      {:ok, pid} = GpuSched.start_link(FakePort.options())
      os_pid = seen(pid)["pid"]
      stream = GpuSched.stream(pid, "parts", %{}, parameters: [parts: 3], credit: 1)
      test = self()

      reader =
        Task.async(fn ->
          Enum.map(stream, fn part ->
            send(test, :part)
            receive(do: (:go -> part))
          end)
        end)

      assert_receive :part
      stopping = Task.async(fn -> GenServer.stop(pid, :shutdown) end)
      until(fn -> FakePort.state(pid) == :closing end)
      assert {:error, %{reason: :closing}} = GpuSched.infer(pid, "echo", %{})
      assert {:error, %{reason: :closing}} = GpuSched.infer(pid, "echo", %{}, overload: :wait)
      for _ <- 1..3, do: send(reader.pid, :go)
      assert length(Task.await(reader, 60_000)) == 3
      assert Task.await(stopping, 60_000) == :ok
      assert GpuSched.TestNode.gone?(os_pid)
    end

    test "ends within its time when what is in flight does not" do
      {server, _pid} = start([], shutdown: 400)
      os_pid = seen(server)["pid"]
      task = Task.async(fn -> GpuSched.infer(server, "hold", %{}, timeout: :infinity) end)
      until(fn -> seen(server)["held"] == 1 end)
      :ok = stop_supervised(server)
      assert {:error, %Error{reason: :closing}} = Task.await(task, 60_000)
      until(fn -> GpuSched.TestNode.gone?(os_pid) end)
    end

    test "kills a port that does not end, within its time" do
      {server, pid} = start([], shutdown: 4_000)
      os_pid = seen(server)["pid"]
      GpuSched.TestNode.signal(os_pid, "STOP")
      task = Task.async(fn -> GpuSched.infer(server, "echo", %{}, timeout: :infinity) end)
      until(fn -> map_size(:sys.get_state(pid).pending) == 1 end)
      :ok = stop_supervised(server)
      assert {:error, %Error{reason: :closing}} = Task.await(task, 60_000)
      until(fn -> GpuSched.TestNode.gone?(os_pid) end)
    end

    test "killed takes a port along that hangs" do
      {server, pid} = start()
      os_pid = seen(server)["pid"]
      GpuSched.TestNode.signal(os_pid, "STOP")
      Process.exit(pid, :kill)
      until(fn -> GpuSched.TestNode.gone?(os_pid) end)
    end

    test "killed takes the port along, and its callers are told" do
      {server, pid} = start()
      os_pid = seen(server)["pid"]
      task = Task.async(fn -> GpuSched.infer(server, "hold", %{}) end)
      until(fn -> seen(server)["held"] == 1 end)
      Process.exit(pid, :kill)
      assert {:error, %Error{reason: :unavailable}} = Task.await(task, 60_000)
      until(fn -> GpuSched.TestNode.gone?(os_pid) end)
    end
  end

  defp links(pid) do
    case Process.info(pid, :links) do
      {:links, links} -> links
      nil -> []
    end
  end

  # Whether the scheduler answers with another sched-port than `old`.
  defp new_port(server, old) do
    case GpuSched.stats(server, timeout: 200) do
      {:ok, %{"pid" => pid}} when pid != old -> true
      _ -> false
    end
  end
end
