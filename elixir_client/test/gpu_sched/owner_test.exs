# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.OwnerTest do
  # A request belongs to its caller.
  use GpuSched.FakePortCase, async: true

  test "the death of the caller cancels all it had under way" do
    {server, _pid} = start()

    caller =
      spawn(fn ->
        for _ <- 1..3, do: GpuSched.async(server, "hold", %{}, timeout: :infinity)
        GpuSched.infer(server, "hold", %{}, timeout: :infinity)
      end)

    until(fn -> seen(server)["held"] == 4 end)
    Process.exit(caller, :kill)
    until(fn -> seen(server)["held"] == 0 end)
    until(fn -> taken(server) == {0, 0} end)
  end

  test "one that waited for a model does not wait on over there" do
    {server, _pid} = start()
    caller = spawn(fn -> GpuSched.await_ready(server, "slow", timeout: :infinity) end)
    until(fn -> seen(server)["held"] == 1 end)
    Process.exit(caller, :kill)
    until(fn -> seen(server)["held"] == 0 end)
  end

  test "a caller is watched once, however much it asks, and let go when it is idle" do
    {server, pid} = start([], watchdog: 2_000)
    for _ <- 1..50, do: {:ok, _} = GpuSched.infer(server, "echo", %{})
    {:monitors, monitors} = Process.info(pid, :monitors)
    assert Enum.count(monitors, &(&1 == {:process, self()})) == 1

    until(fn ->
      {:monitors, monitors} = Process.info(pid, :monitors)
      {:process, self()} not in monitors
    end)

    assert {:ok, _} = GpuSched.infer(server, "echo", %{})
  end

  test "many callers that come and go leave nothing behind" do
    {server, pid} = start([], watchdog: 2_000)

    1..200
    |> Task.async_stream(fn _ -> GpuSched.infer(server, "echo", %{}) end, max_concurrency: 50)
    |> Enum.each(fn {:ok, {:ok, _}} -> :ok end)

    until(fn -> map_size(:sys.get_state(pid).owners) == 0 end)
    assert taken(server) == {0, 0}
    state = :sys.get_state(pid)
    assert state.pending == %{} and state.reservations == %{} and state.streams == %{}
  end
end
