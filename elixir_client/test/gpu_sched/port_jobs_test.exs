# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.PortJobsTest do
  # Jobs, the whole way: this library, sched-port and its workers.
  use ExUnit.Case, async: false

  import GpuSched.FakePort, only: [until: 1]

  alias GpuSched.{Error, RealPort, TestNode}

  @moduletag capture_log: true, timeout: 120_000
  if reason = RealPort.missing(), do: @moduletag(skip: reason)

  defp start,
    do: RealPort.start(port_options: [cpu_devices: 2, cores_per_device: 1])

  defp gemm(server, parameters, opts \\ []) do
    parameters = Map.merge(%{m: 64, n: 64, k: 64}, Map.new(parameters))
    GpuSched.submit(server, "gemm", [parameters: parameters] ++ opts)
  end

  defp events(job, acc \\ []) do
    receive do
      {:gpu_sched, ^job, {:progress, progress}} -> events(job, [progress | acc])
      {:gpu_sched, ^job, last} -> {Enum.reverse(acc), last}
    after
      20_000 -> flunk("no end of #{job}")
    end
  end

  test "a job runs on two devices, is watched, and its result is kept" do
    {server, _pid} = start()
    {:ok, job} = gemm(server, [steps: 5], devices: 2, name: "mine")
    :ok = GpuSched.subscribe(job)
    assert {:ok, %{"flops_per_s" => speed} = result} = GpuSched.await(job)
    assert speed > 0
    assert {progress, {:done, ^result}} = events(job)
    assert %{"state" => _} = hd(progress)

    assert {:ok, %{"name" => "mine", "state" => "ended", "devices" => ["cpu:0", "cpu:1"]}} =
             GpuSched.job(job)
  end

  test "the sort of things that go wrong are told" do
    {server, _pid} = start()
    assert {:error, %Error{reason: :no_device}} = gemm(server, [steps: 1], devices: 9)
    assert {:error, %Error{reason: :not_found, message: text}} = GpuSched.submit(server, "gem")
    assert text =~ ~s(no program "gem": gemm, )
    {:ok, job} = gemm(server, colour: "red")
    assert {:error, %Error{reason: :invalid_argument, message: text}} = GpuSched.await(job)
    assert text =~ "colour"
    {:ok, job} = gemm(server, [seconds: 3600], time_limit: 100)
    assert {:error, %Error{reason: :time_limit}} = GpuSched.await(job)
  end

  test "one waits for another, says so, and has its turn" do
    {server, _pid} = start()
    {:ok, first} = gemm(server, [seconds: 3600], devices: 2)
    # Until then it may be said that a device is starting.
    until(fn -> match?({:ok, %{"state" => "running"}}, GpuSched.job(first)) end)
    {:ok, second} = gemm(server, [steps: 1], devices: 2)
    waits? = &match?(%{"state" => "pending", "why" => why} when why != "", &1)
    told = until(fn -> with({:ok, job} <- GpuSched.job(second), do: waits?.(job) && job) end)
    assert told["why"] =~ "job 1"
    assert :ok = GpuSched.cancel(first)
    assert {:error, %Error{reason: :cancelled}} = GpuSched.await(first)
    assert {:ok, _} = GpuSched.await(second)
  end

  test "devices are held for a function, whose death gives them back" do
    {server, _pid} = start()

    assert {:ok, "held"} =
             GpuSched.reserve(server, [allowed: ["cpu:1"]], fn ["cpu:1"] ->
               {:ok, devices} = GpuSched.devices(server)
               Enum.find(devices, &(&1["name"] == "cpu:1"))["state"]
             end)

    test = self()

    {pid, _monitor} =
      spawn_monitor(fn ->
        GpuSched.reserve(server, [devices: 2], fn _ ->
          send(test, :held)
          Process.sleep(:infinity)
        end)
      end)

    assert_receive :held, 20_000
    Process.exit(pid, :kill)
    {:ok, job} = gemm(server, [steps: 1], devices: 2)
    assert {:ok, _} = GpuSched.await(job)

    assert {:error, %Error{reason: :time_limit}} =
             GpuSched.reserve(server, [time_limit: 100], fn _ -> Process.sleep(:infinity) end)
  end

  test "sched-port dies, and its jobs are lost; the next ones are not" do
    {server, pid} = start()
    {:ok, job} = gemm(server, [seconds: 3600], devices: 2)
    until(fn -> match?({:ok, %{"state" => "running"}}, GpuSched.job(job)) end)
    port = elem(:sys.get_state(pid).process, 0)
    TestNode.signal(port, "KILL")
    assert {:error, %Error{reason: :job_lost}} = GpuSched.await(job)
    assert {:ok, _} = GpuSched.await_ready(server, "noop")
    {:ok, next} = gemm(server, [steps: 1], devices: 2)
    assert next =~ ~r"/2$"
    assert {:ok, _} = GpuSched.await(next)
    assert {:error, %Error{reason: :job_lost}} = GpuSched.await(job)
  end

  describe "from a laptop without our code" do
    if reason = TestNode.missing(), do: @describetag(skip: reason)

    test "a job outlives it, and is asked for from another" do
      {server, _pid} = start()
      {peer, laptop} = TestNode.laptop()
      call = fn node, f, args -> :erpc.call(node, :erpc, :call, [node(), GpuSched, f, args]) end
      parameters = %{"m" => 64, "n" => 64, "k" => 64, "seconds" => 1}
      opts = [parameters: parameters, devices: 2]
      {:ok, job} = call.(laptop, :submit, [server, "gemm", opts])
      :ok = :peer.stop(peer)
      {_peer, other} = TestNode.laptop()
      assert {:ok, %{"flops_per_s" => _}} = call.(other, :await, [job])
      assert {:ok, %{"state" => "ended"}} = call.(other, :job, [job])
    end
  end
end
