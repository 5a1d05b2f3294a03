# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.AsyncTest do
  use GpuSched.FakePortCase, async: true

  test "the answer comes as a message, once, like that of a task" do
    {server, _pid} = start()
    %GpuSched.Request{ref: ref} = GpuSched.async(server, "echo", %{x: ["1"]}, output: :list)
    assert_receive {^ref, {:ok, %{"outputs" => %{"x" => ["1"]}}}}
    refute_received {:DOWN, ^ref, _, _, _}
  end

  test "await, yield and await_many take it" do
    {server, _pid} = start()
    request = GpuSched.async(server, "hold", %{})
    assert GpuSched.yield(request, 10) == nil
    others = for n <- 1..5, do: GpuSched.async(server, "echo", %{x: [n]}, output: :list)
    results = GpuSched.await_many(others)
    assert Enum.map(results, fn {:ok, r} -> r["outputs"]["x"] end) == for(n <- 1..5, do: ["#{n}"])

    until(fn -> seen(server)["held"] == 1 end)
    {:ok, _} = GpuSched.infer(server, "release", %{})
    assert {:ok, _} = GpuSched.await(request)
    assert {:error, %Error{}} = GpuSched.await(GpuSched.async(server, "nothing", %{}))
  end

  test "its timeout counts from the call" do
    {server, _pid} = start()
    request = GpuSched.async(server, "echo", %{}, timeout: 60_000)
    now = :os.perf_counter(:nanosecond)
    {:ok, _} = GpuSched.await(request)
    assert [deadline] = seen(server)["deadlines"]
    assert deadline <= now + 60_000_000_000
  end

  test "a wait that ends early cancels the request" do
    {server, _pid} = start()
    request = GpuSched.async(server, "hold", %{}, timeout: :infinity)
    assert {:error, %Error{reason: :deadline_exceeded}} = GpuSched.await(request, 20)
    requests = for _ <- 1..3, do: GpuSched.async(server, "hold", %{}, timeout: :infinity)
    assert [{:error, _}, {:error, _}, {:error, _}] = GpuSched.await_many(requests, 20)
    until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
  end

  test "its own timeout holds without anybody waiting" do
    {server, _pid} = start()
    %{ref: ref} = GpuSched.async(server, "hold", %{}, timeout: 20)
    assert_receive {^ref, {:error, %Error{reason: :deadline_exceeded}}}
    until(fn -> seen(server)["held"] == 0 end)
  end

  test "cancel leaves no message, also when that had come already" do
    {server, _pid} = start()
    request = GpuSched.async(server, "hold", %{}, timeout: :infinity)
    until(fn -> seen(server)["held"] == 1 end)
    assert :ok = GpuSched.cancel(request)
    until(fn -> seen(server)["held"] == 0 and taken(server) == {0, 0} end)

    done = GpuSched.async(server, "echo", %{})
    until(fn -> Process.info(self(), :message_queue_len) == {:message_queue_len, 1} end)
    assert :ok = GpuSched.cancel(done)
    assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
  end

  test "only the process that began it may await it" do
    {server, _pid} = start()
    request = GpuSched.async(server, "echo", %{})

    for fun <- [
          &GpuSched.await/1,
          &GpuSched.yield/1,
          &GpuSched.cancel/1,
          &GpuSched.await_many([&1])
        ] do
      error = Task.await(Task.async(fn -> catch_error(fun.(request)) end))
      assert %ArgumentError{message: message} = error
      assert message =~ "belongs to #{inspect(self())}"
    end

    assert {:ok, _} = GpuSched.await(request)
  end
end
