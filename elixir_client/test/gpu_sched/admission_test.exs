# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.AdmissionTest do
  # The credit: used up, waited for, given back.
  use GpuSched.FakePortCase, async: true

  defp hold(server, opts \\ []) do
    Task.async(fn -> GpuSched.infer(server, "hold", %{}, [timeout: :infinity] ++ opts) end)
  end

  defp waiting?(pid, n), do: map_size(:sys.get_state(pid).waiting) == n

  test "used up, it is an error at once with the time to come back" do
    {server, _pid} = start(requests: 2)
    tasks = for _ <- 1..2, do: hold(server)
    until(fn -> seen(server)["held"] == 2 end)

    assert {:error, %Error{reason: :overloaded, scope: :scheduler, retry_after_ms: ms} = error} =
             GpuSched.infer(server, "echo", %{})

    assert is_integer(ms) and ms > 0
    assert error.message =~ "2 requests"
    # What has no credit to take is not touched by this.
    assert {:ok, _} = GpuSched.models(server)
    Enum.each(tasks, &Task.shutdown(&1, :brutal_kill))
    until(fn -> taken(server) == {0, 0} end)
    assert {:ok, _} = GpuSched.infer(server, "echo", %{})
  end

  test "bytes count as well, and what never fits is told so" do
    {server, _pid} = start(bytes: 4_000)
    tensor = &%{x: %{datatype: "UINT8", shape: [&1], data: :binary.copy(<<1>>, &1)}}

    task =
      Task.async(fn -> GpuSched.infer(server, "hold", tensor.(3_000), timeout: :infinity) end)

    until(fn -> seen(server)["held"] == 1 end)
    assert {:error, %Error{reason: :overloaded}} = GpuSched.infer(server, "echo", tensor.(2_000))
    assert {:error, %Error{reason: :too_large}} = GpuSched.infer(server, "echo", tensor.(5_000))

    assert {:error, %Error{reason: :too_large}} =
             GpuSched.infer(server, "echo", tensor.(5_000), overload: :wait)

    assert {:ok, _} = GpuSched.infer(server, "echo", tensor.(500))
    Task.shutdown(task, :brutal_kill)
  end

  test "those who wait are served in their order, before those who do not" do
    {server, pid} = start(requests: 1)
    first = hold(server)
    until(fn -> seen(server)["held"] == 1 end)

    test = self()

    for n <- 1..5 do
      spawn_link(fn ->
        options = [overload: :wait, timeout: :infinity, priority: n]
        send(test, GpuSched.infer(server, "echo", %{}, options))
      end)

      until(fn -> waiting?(pid, n) end)
    end

    assert {:error, %Error{reason: :overloaded}} = GpuSched.infer(server, "echo", %{})
    Task.shutdown(first, :brutal_kill)
    for _ <- 1..5, do: assert_receive({:ok, _})
    # By their priorities, which sched-port is the one to heed.
    assert [nil, 1, 2, 3, 4, 5] = seen(server)["order"]
    until(fn -> taken(server) == {0, 0} end)
  end

  test "who waits keeps to the timeout, and leaves nothing behind" do
    {server, pid} = start(requests: 1)
    task = hold(server)
    until(fn -> seen(server)["held"] == 1 end)

    assert {:error, %Error{reason: :deadline_exceeded}} =
             GpuSched.infer(server, "echo", %{}, overload: :wait, timeout: 20)

    until(fn -> waiting?(pid, 0) end)
    Task.shutdown(task, :brutal_kill)
    assert {:ok, _} = GpuSched.infer(server, "echo", %{}, overload: :wait)
    until(fn -> taken(server) == {0, 0} end)
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
  end

  test "who dies while waiting gives its place up" do
    {server, pid} = start(requests: 1)
    task = hold(server)
    until(fn -> seen(server)["held"] == 1 end)
    waiter = spawn(fn -> GpuSched.infer(server, "echo", %{}, overload: :wait) end)
    until(fn -> waiting?(pid, 1) end)
    Process.exit(waiter, :kill)
    until(fn -> waiting?(pid, 0) end)
    Task.shutdown(task, :brutal_kill)
    until(fn -> taken(server) == {0, 0} end)
  end

  test "who waits for an owner that dies is told, and does not wait on" do
    {server, pid} = start(requests: 1)
    task = hold(server)
    until(fn -> seen(server)["held"] == 1 end)
    test = self()

    owner =
      spawn(fn ->
        options = [overload: :wait, timeout: :infinity]
        send(test, GpuSched.async(server, "echo", %{}, options))
        receive(do: (:never -> :ok))
      end)

    assert_receive %GpuSched.Request{pid: worker}
    until(fn -> waiting?(pid, 1) end)
    monitor = Process.monitor(worker)
    Process.exit(owner, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^worker, :normal}
    assert waiting?(pid, 0)
    Task.shutdown(task, :brutal_kill)
    until(fn -> taken(server) == {0, 0} end)
  end

  test "the queue of those who wait has a limit" do
    {server, pid} = start([requests: 1], max_waiting: 1)
    task = hold(server)
    until(fn -> seen(server)["held"] == 1 end)
    waiter = Task.async(fn -> GpuSched.infer(server, "echo", %{}, overload: :wait) end)
    until(fn -> waiting?(pid, 1) end)

    assert {:error, %Error{reason: :overloaded, message: text}} =
             GpuSched.infer(server, "echo", %{}, overload: :wait)

    assert text =~ "max_waiting"
    Task.shutdown(task, :brutal_kill)
    assert {:ok, _} = Task.await(waiter, 60_000)
  end

  test "credit that a killed caller took along is found again" do
    {server, pid} = start([], watchdog: 2_000)
    {:ok, ctx} = GpuSched.Directory.fetch(pid)
    # What a caller does before it sends; this one never will.
    :ok = GpuSched.Admission.take(ctx.counters, 1_000)
    assert taken(server) == {1, 1_000}
    until(fn -> taken(server) == {0, 0} end)
  end

  test "credit that is found again goes to those who wait" do
    {server, pid} = start([requests: 1], watchdog: 2_000)
    {:ok, ctx} = GpuSched.Directory.fetch(pid)
    :ok = GpuSched.Admission.take(ctx.counters, 1_000)
    options = [overload: :wait, timeout: :infinity]
    assert {:ok, _} = GpuSched.infer(server, "echo", %{}, options)
  end

  test "a caller that takes for a moment what is not there leaves nobody waiting" do
    {server, pid} = start([requests: 1], watchdog: 2_000)
    {:ok, ctx} = GpuSched.Directory.fetch(pid)
    task = hold(server)
    until(fn -> seen(server)["held"] == 1 end)
    options = [overload: :wait, timeout: :infinity]
    waiter = Task.async(fn -> GpuSched.infer(server, "echo", %{}, options) end)
    until(fn -> waiting?(pid, 1) end)

    # It has added its request, and has not seen yet that this is one too many.
    :ok = GpuSched.Admission.take_anyway(ctx.counters, 0)
    Task.shutdown(task, :brutal_kill)
    until(fn -> taken(server) == {1, 0} end)
    GpuSched.Admission.give(ctx.counters, 1, 0)
    assert {:ok, _} = Task.await(waiter, :infinity)
  end

  describe "the way back" do
    alias GpuSched.{Admission, Way}

    @ms 1_000_000

    # By how much earlier it has to be done over there, with so much time left; what the test itself
    # takes is on the safe side.
    defp earlier(ref, left) do
      deadline = Admission.now() + left
      deadline - Admission.port_deadline(ref, deadline)
    end

    test "is left out of what the scheduler has: nine tenths of it" do
      ref = Admission.new()
      assert earlier(ref, 1_000 * @ms) == 0
      for n <- 1..4_000, do: Way.learn(Admission.way(ref), rem(n * 7, 10) * @ms)
      assert_in_delta earlier(ref, 1_000 * @ms), 8.5 * @ms, 1.5 * @ms
      # It becomes short again.
      for _ <- 1..4_000, do: Way.learn(Admission.way(ref), 100_000)
      assert_in_delta earlier(ref, 1_000 * @ms), 100_000, 1_000
    end

    test "is what it mostly is, not what it was once" do
      ref = Admission.new()

      for n <- 1..4_000,
          do: Way.learn(Admission.way(ref), if(rem(n, 50) == 0, do: 9 * @ms, else: @ms))

      assert_in_delta earlier(ref, 1_000 * @ms), @ms, @ms / 4
    end

    test "takes a quarter of the time at most, and never more than 10 ms" do
      ref = Admission.new()
      Way.learn(Admission.way(ref), 1_000 * @ms)
      assert earlier(ref, 1_000_000 * @ms) == 10 * @ms
      assert earlier(ref, 8 * @ms) <= 2 * @ms
      assert earlier(ref, -@ms) == 0
      assert Admission.port_deadline(ref, :infinity) == nil
    end

    test "is longer than was thought where answers come too late" do
      ref = Admission.new()
      Way.learn(Admission.way(ref), @ms)
      for _ <- 1..20, do: Way.learn_late(Admission.way(ref))
      assert earlier(ref, 1_000 * @ms) > 2 * @ms
    end

    test "is learnt from whoever gets an answer, and from whoever gets none in time" do
      {server, pid} = start()
      way = fn -> earlier(:sys.get_state(pid).ctx.counters, 1_000_000 * @ms) end
      {:ok, _} = GpuSched.infer(server, "echo", %{})
      first = way.()
      assert first > 0

      {:error, %Error{reason: :deadline_exceeded}} =
        GpuSched.infer(server, "hold", %{}, timeout: 1)

      assert way.() == min(first + 9 * (div(first, 128) + 1), 10 * @ms)
    end
  end
end
