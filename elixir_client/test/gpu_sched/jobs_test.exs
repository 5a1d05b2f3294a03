# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.JobsTest do
  # Jobs on this node, with the fake port.
  use GpuSched.FakePortCase, async: true

  import ExUnit.CaptureIO

  defp event(server, parameters),
    do: {:ok, _} = GpuSched.infer(server, "job_event", %{}, parameters: parameters)

  defp ended(server) do
    {:ok, job} = GpuSched.submit(server, "done")
    {:ok, _result} = GpuSched.await(job)
    job
  end

  # The messages of a job until it has ended.
  defp events(job, acc \\ []) do
    assert_receive {:gpu_sched, ^job, event}

    case event do
      {:progress, progress} -> events(job, [progress | acc])
      last -> {Enum.reverse(acc), last}
    end
  end

  describe "a job" do
    test "has an id at once, and a result that is kept" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "done", devices: 2)
      assert job == "#{node()}/#{server}/1"
      assert {:ok, %{"loss" => 0.25, "ranks" => 2} = result} = GpuSched.await(job)
      assert GpuSched.await(job) == {:ok, result}
      assert GpuSched.await(job, 0) == {:ok, result}

      assert {:ok, %{"job" => ^job, "state" => "ended", "result" => ^result, "error" => nil}} =
               GpuSched.job(job)

      assert {:ok, second} = GpuSched.submit(server, :done)
      assert second == "#{node()}/#{server}/2"
      assert :ok = GpuSched.cancel(job)
    end

    test "fails with what was wrong" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "fail")

      assert {:error, %Error{reason: :engine_failed, message: "it was made to fail"} = error} =
               GpuSched.await(job)

      assert {:ok, %{"error" => ^error}} = GpuSched.job(job)
    end

    test "is refused at once where that can be seen at once" do
      {server, _pid} = start()
      assert {:error, %Error{reason: :no_device}} = GpuSched.submit(server, "refused")
      assert {:ok, []} = GpuSched.jobs(server)
    end

    test "is cancelled" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "wait")
      assert {:error, %Error{reason: :deadline_exceeded, message: text}} = GpuSched.await(job, 20)
      assert text =~ job
      assert :ok = GpuSched.cancel(job)
      assert {:error, %Error{reason: :cancelled}} = GpuSched.await(job)
      assert :ok = GpuSched.cancel(job)
    end

    test "outlives whoever submitted it, unless linked" do
      {server, _pid} = start()
      test = self()

      {pid, monitor} =
        spawn_monitor(fn ->
          {:ok, free} = GpuSched.submit(server, "wait")
          {:ok, bound} = GpuSched.submit(server, "wait", link: true)
          send(test, {:jobs, free, bound})
          Process.sleep(:infinity)
        end)

      assert_receive {:jobs, free, bound}
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}
      assert {:error, %Error{reason: :cancelled}} = GpuSched.await(bound)
      assert {:ok, [%{"job" => ^free, "state" => "running"}]} = GpuSched.jobs(server)
      assert {:error, %Error{reason: :deadline_exceeded}} = GpuSched.await(free, 10)
    end

    test "whose id never reached anybody is cancelled" do
      {server, _pid} = start()
      assert {:error, %Error{}} = GpuSched.submit(server, "late", timeout: 50)
      # It is answered with the next one.
      {:ok, job} = GpuSched.submit(server, "wait", timeout: 5_000)
      assert {:ok, jobs} = GpuSched.jobs(server)
      assert [%{"job" => ^job}] = jobs
    end

    test "goes to the port as it was asked for" do
      {server, _pid} = start()

      {:ok, _job} =
        GpuSched.submit(server, "wait",
          name: "mine",
          devices: 3,
          allowed: ["fake:0", "fake:1"],
          memory_bytes: 1_000,
          priority: 2,
          client: "me",
          time_limit: 5_000,
          step_limit: 70,
          library: "/lib.so",
          parameters: %{rate: 0.5, path: "/data", on: true}
        )

      assert [
               %{
                 "program" => "wait",
                 "name" => "mine",
                 "devices" => 3,
                 "allowed" => ["fake:0", "fake:1"],
                 "memory_bytes" => 1_000,
                 "priority" => 2,
                 "client" => "me",
                 "time_limit_ms" => 5_000,
                 "step_limit_ms" => 70,
                 "library" => "/lib.so",
                 "parameters" => %{"rate" => 0.5, "path" => "/data", "on" => true}
               }
             ] = seen(server)["jobs"]

      {:ok, _job} = GpuSched.submit(server, "done", time_limit: :infinity)
      assert %{"client" => client} = List.last(seen(server)["jobs"])
      assert client == Atom.to_string(node())
    end

    test "that never was is told from one that is no longer kept" do
      {server, _pid} = start([], kept_jobs: 1)
      [first, _second] = for _ <- 1..2, do: ended(server)

      for ask <- [&GpuSched.await/1, &GpuSched.job/1, &GpuSched.subscribe/1, &GpuSched.cancel/1] do
        assert {:error, %Error{reason: :not_found, message: text}} = ask.(first)
        assert text =~ "no longer kept"
        never = "#{node()}/#{server}/99999999999999999999999"
        assert {:error, %Error{reason: :not_found, message: text}} = ask.(never)
        assert text == "there is no job #{never}"
      end
    end

    test "has options that are checked" do
      {server, _pid} = start()

      for opts <- [7, [ended: "no"], [timeout: -1], [endet: true]] do
        assert_raise ArgumentError, fn -> GpuSched.jobs(server, opts) end
      end

      assert {:error, %Error{reason: :invalid_argument, message: text}} =
               GpuSched.submit(server, "wait", parameters: %{{1, 2} => [1]})

      assert text =~ "parameters.{1, 2}: a program takes parameters"
    end

    test "takes no tensors, and says so" do
      {server, _pid} = start()
      tensor = %{"datatype" => "FP32", "shape" => [1], "data" => <<0::32>>}

      for opts <- [[inputs: %{x: [1]}], [parameters: %{x: [1, 2]}], [parameters: [x: tensor]]] do
        assert {:error, %Error{reason: :invalid_argument, message: text}} =
                 GpuSched.submit(server, "train", opts)

        assert text =~ "no tensors"
      end

      assert {:error, %Error{reason: :invalid_argument, message: text}} =
               GpuSched.submit(server, tensor)

      assert text =~ "a map where the name of a program belongs"

      assert {:error, %Error{reason: :invalid_argument, message: text}} =
               GpuSched.submit(server, "train", parameters: %{x: self()})

      assert text =~ "parameters.x"
      assert seen(server)["jobs"] == []
    end

    test "with options that make no sense is a mistake in the program" do
      for opts <- [
            [devices: 0],
            [devices: [1]],
            [allowed: "gpu:0"],
            [allowed: []],
            [priority: 8],
            [time_limit: -1],
            [step_limit: 0],
            [link: 1],
            [colour: "red"],
            [parameters: "x"],
            [client: String.duplicate("x", 64)],
            [memory_bytes: 18_446_744_073_709_551_616],
            :x
          ] do
        assert_raise ArgumentError, fn -> GpuSched.submit(:nowhere, "wait", opts) end
      end

      assert_raise ArgumentError, fn -> GpuSched.reserve(:nowhere, link: true) end

      for opts <- [[colour: 1], [timeout: -1], [progress: 1], :soon],
          do: assert_raise(ArgumentError, fn -> GpuSched.await("n@h/x/1", opts) end)
    end
  end

  describe "an id" do
    test "that is none, or of nothing, is told apart" do
      {server, _pid} = start()

      for id <- [
            "",
            "x",
            "a/b",
            "a/b/c",
            "#{node()}/#{server}/0",
            "#{node()}/#{server}/-1",
            "////"
          ] do
        assert {:error, %Error{reason: :invalid_argument}} = GpuSched.await(id)
      end

      assert {:error, %Error{reason: :unavailable, message: text}} =
               GpuSched.await("never@heard.of/x/1")

      assert text =~ "not known here"

      assert {:error, %Error{reason: :unavailable}} = GpuSched.cancel("#{node()}/nobody/1")

      id = "#{node()}/#{server}/1"
      assert {:error, %Error{reason: :not_found, message: text}} = GpuSched.await(id)
      assert text =~ "there is no job"

      for {function, args} <- [job: [id], cancel: [id], release: [id], watch: [id]],
          do: assert({:error, %Error{reason: :not_found}} = apply(GpuSched, function, args))

      assert {:error, %Error{reason: :not_found}} = GpuSched.subscribe(id)
    end

    test "is not used again when the scheduler or its port is started anew" do
      {server, _pid} = start()
      {:ok, first} = GpuSched.submit(server, "done")
      {:ok, _} = GpuSched.await(first)
      GpuSched.infer(server, "die", %{})
      until(fn -> match?({:ok, []}, GpuSched.jobs(server)) end)
      {:ok, second} = GpuSched.submit(server, "done")
      assert second == "#{node()}/#{server}/2"
      assert {:ok, _} = GpuSched.await(first)

      stop_supervised!(server)
      {:ok, _pid} = start_supervised({GpuSched, FakePort.options([], name: server)})
      {:ok, third} = GpuSched.submit(server, "done")
      assert third == "#{node()}/#{server}/3"

      assert {:error, %Error{reason: :not_found, message: text}} = GpuSched.await(first)
      assert text =~ "no longer kept"
    end

    test "of a module's name, or of none" do
      {:ok, _} = start_supervised({GpuSched, FakePort.options([], name: GpuSched.JobsTest.Named)})
      {:ok, job} = GpuSched.submit(GpuSched.JobsTest.Named, "done")
      assert job == "#{node()}/GpuSched.JobsTest.Named/1"
      assert {:ok, _} = GpuSched.await(job)

      {:ok, pid} = start_supervised({GpuSched, FakePort.options([])})
      {:ok, job} = GpuSched.submit(pid, "done")
      assert {:ok, _} = GpuSched.await(job)
    end
  end

  test "the last so many are kept" do
    {server, _pid} = start([], kept_jobs: 3)

    jobs =
      for _ <- 1..5 do
        {:ok, job} = GpuSched.submit(server, "done")
        {:ok, _} = GpuSched.await(job)
        job
      end

    assert [{:error, %Error{reason: :not_found}}, {:error, _}, {:ok, _}, {:ok, _}, {:ok, _}] =
             Enum.map(jobs, &GpuSched.await/1)

    assert {:ok, []} = GpuSched.jobs(server)
    assert {:ok, kept} = GpuSched.jobs(server, ended: true)
    assert Enum.map(kept, & &1["job"]) == Enum.drop(jobs, 2)
  end

  describe "what becomes of jobs when the port ends" do
    test "is that they are lost" do
      {server, _pid} = start()
      {:ok, running} = GpuSched.submit(server, "wait")
      {:ok, pending} = GpuSched.submit(server, "wait", name: "pending", link: true)
      :ok = GpuSched.subscribe(running)
      await = Task.async(fn -> GpuSched.await(pending) end)
      assert {:ok, [_, _]} = GpuSched.jobs(server)
      assert {:error, _} = GpuSched.submit(server, "die")
      assert {:error, %Error{reason: :job_lost, message: text}} = Task.await(await, 60_000)
      assert text =~ "sched-port"
      assert {_progress, {:error, %Error{reason: :job_lost}}} = events(running)
      assert {:error, %Error{reason: :job_lost}} = GpuSched.await(running)
      assert {:ok, %{"state" => "ended"}} = GpuSched.job(running)
      until(fn -> match?({:ok, []}, GpuSched.jobs(server)) end)
    end

    test "also when the scheduler is stopped" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "wait")
      :ok = GpuSched.subscribe(job)
      waiting = Task.async(fn -> GpuSched.await(job) end)
      assert_receive {:gpu_sched, ^job, {:progress, %{"state" => "running"}}}
      until(fn -> map_size(:sys.get_state(table(server)).jobs[1].waiters) == 1 end)
      stop_supervised!(server)
      assert {:error, %Error{reason: :job_lost}} = Task.await(waiting, 60_000)
      assert {_progress, {:error, %Error{reason: :job_lost}}} = events(job)
      assert {:error, %Error{reason: :unavailable}} = GpuSched.await(job)
    end
  end

  defp table(server) do
    {:ok, ctx} = server |> GenServer.whereis() |> GpuSched.Directory.fetch()
    ctx.jobs.pid
  end

  describe "a subscriber" do
    test "gets how far it is, and exactly one end" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "wait")
      assert :ok = GpuSched.subscribe(job)
      assert :ok = GpuSched.subscribe(job)
      event(server, done: 1, total: 10)
      assert_receive {:gpu_sched, ^job, {:progress, %{"done" => 1, "total" => 10}}}
      event(server, done: 7, total: 10)
      :ok = GpuSched.cancel(job)
      assert {_progress, {:error, %Error{reason: :cancelled}}} = events(job)
      refute_received {:gpu_sched, _, _}
    end

    test "of one that has ended gets that" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "done")
      {:ok, result} = GpuSched.await(job)
      assert :ok = GpuSched.subscribe(job)
      assert events(job) == {[], {:done, result}}
    end

    test "that is slow gets the latest, and the end" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "wait")
      box = spawn(fn -> Process.sleep(:infinity) end)
      # It has enough to do.
      for n <- 1..100, do: send(box, n)
      :ok = GpuSched.subscribe(job, box)
      event(server, done: 1, total: 10_000, times: 5_000)
      event(server, done: 9_999, total: 10_000)
      messages = fn -> box |> Process.info(:messages) |> elem(1) |> Enum.drop(100) end
      assert length(messages.()) <= 1
      :ok = GpuSched.cancel(job)
      until(fn -> match?({:gpu_sched, ^job, {:error, _}}, List.last(messages.())) end)
      assert length(messages.()) <= 2
      Process.exit(box, :kill)
    end

    test "gets no more than some progress a second, and the last" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "wait")
      :ok = GpuSched.subscribe(job)
      event(server, done: 1, total: 3_000, times: 3_000)
      assert_receive {:gpu_sched, ^job, {:progress, %{"done" => 3_000}}}
      {:message_queue_len, n} = Process.info(self(), :message_queue_len)
      assert n < 100
    end

    test "leaves, or dies, and is forgotten" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "wait")
      :ok = GpuSched.subscribe(job)
      box = spawn(fn -> Process.sleep(:infinity) end)
      :ok = GpuSched.subscribe(job, box)
      assert :sys.get_state(table(server)).waiting == 2
      :ok = GpuSched.unsubscribe(job)
      Process.exit(box, :kill)
      until(fn -> :sys.get_state(table(server)).waiting == 0 end)
      assert :sys.get_state(table(server)).jobs == %{}
      :ok = GpuSched.cancel(job)
      {:error, _} = GpuSched.await(job)
    end

    test "is one of a limited number" do
      {server, _pid} = start([], max_waiting: 1)
      {:ok, job} = GpuSched.submit(server, "wait")
      :ok = GpuSched.subscribe(job)
      assert {:error, %Error{reason: :overloaded}} = GpuSched.await(job)
      assert {:error, %Error{reason: :overloaded}} = GpuSched.subscribe(job, spawn(fn -> nil end))
      :ok = GpuSched.cancel(job)
      {_progress, {:error, _}} = events(job)
      assert {:error, %Error{reason: :cancelled}} = GpuSched.await(job)
    end
  end

  describe "devices that are reserved" do
    test "are held while a function runs" do
      {server, _pid} = start()
      test = self()

      assert {:ok, :value} =
               GpuSched.reserve(server, [devices: 2, name: "own"], fn devices ->
                 assert devices == ["fake:0", "fake:1"]
                 assert self() != test
                 assert [^test | _] = Process.get(:"$callers")
                 assert {:ok, [%{"name" => "own"}]} = GpuSched.jobs(server)
                 :value
               end)

      until(fn -> GpuSched.jobs(server) == {:ok, []} end)
      assert {:messages, []} = Process.info(self(), :messages)
      assert {:ok, ["fake:0"]} = GpuSched.reserve(server, & &1)
      assert [%{"devices" => 2, "name" => "own"}, _] = seen(server)["jobs"]
    end

    test "are given back when the function fails, as the caller sees it" do
      {server, _pid} = start()
      assert_raise RuntimeError, "no", fn -> GpuSched.reserve(server, fn _ -> raise "no" end) end
      assert catch_throw(GpuSched.reserve(server, fn _ -> throw(:x) end)) == :x
      until(fn -> GpuSched.jobs(server) == {:ok, []} end)
    end

    test "are given back when the caller dies, and its function dies too" do
      {server, _pid} = start()
      test = self()

      {pid, _monitor} =
        spawn_monitor(fn ->
          GpuSched.reserve(server, fn _ ->
            send(test, {:holds, self()})
            Process.sleep(:infinity)
          end)
        end)

      assert_receive {:holds, worker}
      monitor = Process.monitor(worker)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^worker, _}
      until(fn -> GpuSched.jobs(server) == {:ok, []} end)
    end

    test "are taken back when the time is up" do
      {server, _pid} = start()
      test = self()

      task =
        Task.async(fn ->
          GpuSched.reserve(server, [time_limit: 1_000], fn _ ->
            send(test, {:holds, self()})
            Process.sleep(:infinity)
          end)
        end)

      assert_receive {:holds, worker}
      monitor = Process.monitor(worker)
      event(server, state: "ended", time_limit: 1)
      assert {:error, %Error{reason: :time_limit}} = Task.await(task, 60_000)
      assert_receive {:DOWN, ^monitor, :process, ^worker, :killed}
    end

    test "are waited for, but not for ever" do
      {server, _pid} = start()

      assert {:error, %Error{reason: :deadline_exceeded, message: text}} =
               GpuSched.reserve(server, name: "pending", timeout: 30)

      assert text =~ "still waiting for its devices"
      until(fn -> GpuSched.jobs(server) == {:ok, []} end)

      waiting = Task.async(fn -> GpuSched.reserve(server, name: "pending") end)
      until(fn -> match?({:ok, [_]}, GpuSched.jobs(server)) end)
      event(server, state: "running")
      assert {:ok, %{"job" => job}} = Task.await(waiting, 60_000)
      # The process that held it has ended.
      assert {:error, %Error{reason: :cancelled}} = GpuSched.await(job)
    end

    test "are held until they are released" do
      {server, _pid} = start()
      {:ok, %{"job" => job, "devices" => ["fake:0"]}} = GpuSched.reserve(server)
      assert :ok = GpuSched.release(job)
      assert {:ok, %{}} = GpuSched.await(job)
      assert :ok = GpuSched.release(job)

      {:ok, job} = GpuSched.submit(server, "wait")
      assert {:error, %Error{reason: :invalid_argument}} = GpuSched.release(job)
    end
  end

  describe "a bar" do
    test "is drawn until the end" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "wait")
      test = self()

      task =
        Task.async(fn ->
          drawn = capture_io(fn -> send(test, {:answer, GpuSched.await(job, progress: true)}) end)
          {drawn, Process.info(self(), :messages)}
        end)

      until(fn -> map_size(:sys.get_state(table(server)).jobs) == 1 end)
      event(server, done: 4, total: 10)
      :ok = GpuSched.cancel(job)
      assert {drawn, {:messages, []}} = Task.await(task, 60_000)
      assert_receive {:answer, {:error, %Error{reason: :cancelled}}}
      assert drawn =~ "#{job} cancelled: it was cancelled\n"
      assert drawn =~ "#{job} running"

      assert capture_io(fn -> assert GpuSched.watch(job) == GpuSched.await(job) end) =~
               "cancelled"
    end

    test "gives up when its time is up" do
      {server, _pid} = start()
      {:ok, job} = GpuSched.submit(server, "wait")

      assert capture_io(fn ->
               assert {:error, %Error{reason: :deadline_exceeded}} =
                        GpuSched.watch(job, timeout: 20)
             end) =~ "goes on"

      assert :sys.get_state(table(server)).jobs == %{}
    end

    test "says how far it is, and how long it takes yet" do
      bar = %{id: "job", columns: 79, started: nil}
      progress = %{"state" => "running", "done" => 25, "total" => 100, "message" => "loss 0.5"}
      line = GpuSched.Jobs.Bar.line(bar, progress)
      assert line =~ ~r/^job \[=+> +\]  25% 25\/100 loss 0.5$/
      assert String.length(line) <= 79

      began = System.monotonic_time(:millisecond) - 10_000
      assert GpuSched.Jobs.Bar.line(%{bar | started: began}, progress) =~ ~r/ (30|31) s left/

      full = %{progress | "done" => 100}
      assert GpuSched.Jobs.Bar.line(bar, full) =~ "] 100% 100/100"
      assert GpuSched.Jobs.Bar.line(bar, Map.delete(progress, "total")) == "job running loss 0.5"

      long = %{progress | "message" => String.duplicate("x", 200)}
      assert String.length(GpuSched.Jobs.Bar.line(bar, long)) == 79
    end
  end
end
