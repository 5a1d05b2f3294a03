# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.TestTest do
  # The scheduler for applications' tests, used as one of them would.
  use ExUnit.Case, async: true

  alias GpuSched.{Error, Test}

  @moduletag capture_log: true

  defp start(opts) do
    name = :"test_#{System.unique_integer([:positive])}"
    start_supervised!({Test, [name: name] ++ opts}, id: name)
    name
  end

  defp lengths(%{"text" => texts}), do: %{"n" => Enum.map(texts, &String.length/1)}

  test "a model is a function" do
    gpu = start(models: %{"lengths" => &lengths/1})
    assert {:ok, result} = GpuSched.infer(gpu, "lengths", %{text: ["a", "bcd"]})

    assert %{"datatype" => "INT64", "shape" => [2], "data" => <<1::little-64, 3::little-64>>} =
             result["outputs"]["n"]

    assert %{"device" => "test:0", "batch" => 1, "attempts" => 1} = result
    opts = [output: :list, priority: 3, client: "me", parameters: [deep: true]]
    assert GpuSched.infer!(gpu, "lengths", %{text: ["ab"]}, opts)["outputs"]["n"] == [2]

    assert [
             %{model: "lengths", inputs: %{"text" => ["a", "bcd"]}, priority: 0},
             %{client: "me", priority: 3, parameters: %{"deep" => true}}
           ] = Test.requests(gpu)
  end

  test "a function of two sees the request, and tensors are as they were sent" do
    echo = fn inputs, request -> Map.put(inputs, "who", [request.client]) end
    gpu = start(models: %{"echo" => echo})

    x = %{
      "datatype" => "FP32",
      "shape" => [1, 2],
      "data" => <<1.5::float-little-32, 2.5::float-little-32>>
    }

    opts = [client: "me", output: :list]

    assert GpuSched.infer!(gpu, "echo", %{x: x, y: [[1, 2]], z: true}, opts)["outputs"] ==
             %{"x" => [[1.5, 2.5]], "y" => [[1, 2]], "z" => true, "who" => ["me"]}
  end

  test "what else it may answer" do
    gpu =
      start(
        models: %{
          "always" => %{"x" => [1.0, 2]},
          "full" => :queue_full,
          "says" => fn _ -> {:error, :too_large, "not so much"} end,
          "raises" => fn _ -> raise "oh" end,
          "exits" => fn _ -> exit(:gone) end,
          "odd" => fn _ -> 7 end
        }
      )

    assert GpuSched.infer!(gpu, "always", %{}, output: :list)["outputs"] == %{"x" => [1.0, 2.0]}

    assert {:error, %Error{reason: :queue_full, retry_after_ms: 10}} =
             GpuSched.infer(gpu, "full", %{})

    assert {:error, %Error{reason: :too_large, message: "not so much"}} =
             GpuSched.infer(gpu, "says", %{})

    assert {:error, %Error{reason: :engine_failed, message: "oh"}} =
             GpuSched.infer(gpu, "raises", %{})

    assert {:error, %Error{reason: :engine_failed}} = GpuSched.infer(gpu, "exits", %{})

    assert {:error, %Error{reason: :engine_failed, message: text}} =
             GpuSched.infer(gpu, "odd", %{})

    assert text =~ "a map of outputs; got 7"
    assert {:error, %Error{reason: :unknown_model}} = GpuSched.infer(gpu, "none", %{})
    :ok = Test.stub(gpu, "full", %{})
    assert {:ok, _} = GpuSched.infer(gpu, "full", %{})
  end

  test "one that waits is slow: timeouts, cancellation and owners are real" do
    test = self()

    gpu =
      start(
        models: %{
          "slow" => fn _ ->
            send(test, {:running, self()})
            Process.sleep(:infinity)
          end
        }
      )

    assert {:error, %Error{reason: :deadline_exceeded}} =
             GpuSched.infer(gpu, "slow", %{}, timeout: 20)

    # Whether that one had begun is not known, so one that has is looked at.
    request = GpuSched.async(gpu, "slow", %{}, timeout: :infinity)
    pid = running_last(gpu, 2)
    monitor = Process.monitor(pid)
    :ok = GpuSched.cancel(request)
    assert_receive {:DOWN, ^monitor, :process, _, _}

    owner = spawn(fn -> GpuSched.infer(gpu, "slow", %{}, timeout: :infinity) end)
    pid = running_last(gpu, 3)
    monitor = Process.monitor(pid)
    Process.exit(owner, :kill)
    assert_receive {:DOWN, ^monitor, :process, _, _}
  end

  # The process of the last of so many requests. It tells of itself after those before it.
  defp running_last(gpu, n) do
    GpuSched.FakePort.until(fn -> length(Test.requests(gpu)) == n end)
    assert_receive {:running, pid}
    last(pid)
  end

  defp last(pid) do
    if Process.alive?(pid) do
      pid
    else
      assert_receive {:running, pid}
      last(pid)
    end
  end

  test "credit is real" do
    gpu = start(models: %{"slow" => fn _ -> Process.sleep(:infinity) end}, credit: 2)
    held = for _ <- 1..2, do: GpuSched.async(gpu, "slow", %{}, timeout: :infinity)
    GpuSched.FakePort.until(fn -> length(Test.requests(gpu)) == 2 end)
    assert {:error, %Error{reason: :overloaded}} = GpuSched.infer(gpu, "slow", %{})
    Enum.each(held, &GpuSched.cancel/1)
  end

  test "parts, many and streams to others" do
    parts = {:parts, for(n <- 1..5, do: %{"n" => [n]})}
    gpu = start(models: %{"parts" => fn _ -> parts end, "lengths" => &lengths/1})
    stream = GpuSched.stream(gpu, "parts", %{}, output: :list, credit: 2)
    assert Enum.map(stream, & &1["outputs"]["n"]) == [[1], [2], [3], [4], [5]]
    # Without parts, the last is the result.
    assert GpuSched.infer!(gpu, "parts", %{}, output: :list)["outputs"]["n"] == [5]

    results =
      gpu
      |> GpuSched.infer_many("lengths", for(n <- 1..50, do: %{text: [String.duplicate("a", n)]}),
        output: :list
      )
      |> Enum.map(fn {:ok, result} -> result["outputs"]["n"] end)

    assert results == for(n <- 1..50, do: [n])
    {:ok, ref} = GpuSched.stream_to(gpu, "parts", %{}, self(), output: :list)
    assert_receive {^ref, {:done, %{"outputs" => %{"n" => [5]}}}}
  end

  test "jobs run, tell progress, are cancelled, reserved and lost" do
    train = fn %{"steps" => steps}, progress ->
      for n <- 1..steps, do: progress.(n, steps)
      %{"loss" => 0.5}
    end

    gpu =
      start(
        jobs: %{
          "train" => train,
          "wait" => fn _ -> Process.sleep(:infinity) end,
          "bad" => fn _ -> {:error, :out_of_device_memory} end,
          "raises" => fn _ -> raise "oh" end
        },
        devices: ["gpu:0", "gpu:1"]
      )

    {:ok, source} = GpuSched.subscribe(gpu)
    {:ok, job} = GpuSched.submit(gpu, "train", devices: 2, parameters: [steps: 3])
    assert {:ok, %{"loss" => 0.5}} = GpuSched.await(job)

    assert_receive {:gpu_sched, ^source,
                    {:job, %{"state" => "ended", "devices" => ["gpu:0", "gpu:1"]}}}

    {:ok, job} = GpuSched.submit(gpu, "wait")
    assert {:ok, %{"state" => "running", "program" => "wait"}} = GpuSched.job(job)
    :ok = GpuSched.cancel(job)
    assert {:error, %Error{reason: :cancelled}} = GpuSched.await(job)
    {:ok, job} = GpuSched.submit(gpu, "bad")
    assert {:error, %Error{reason: :out_of_device_memory}} = GpuSched.await(job)
    {:ok, job} = GpuSched.submit(gpu, "raises")
    assert {:error, %Error{reason: :engine_failed, message: "oh"}} = GpuSched.await(job)
    assert {:error, %Error{reason: :no_device}} = GpuSched.submit(gpu, "wait", devices: 3)
    assert {:error, %Error{reason: :invalid_argument}} = GpuSched.submit(gpu, "none")
    assert {:ok, ["gpu:0"]} = GpuSched.reserve(gpu, fn devices -> devices end)
    {:ok, job} = GpuSched.submit(gpu, "wait")
    :ok = Test.crash(gpu)
    assert {:error, %Error{reason: :job_lost}} = GpuSched.await(job)
  end

  test "a crash is survived: what was in flight is sent again" do
    test = self()

    gpu =
      start(
        models: %{
          "wait" => fn _ ->
            send(test, {:running, self()})

            receive do
              :go -> %{"x" => [1]}
            end
          end
        }
      )

    request = GpuSched.async(gpu, "wait", %{}, timeout: 60_000)
    assert_receive {:running, _pid}
    :ok = Test.crash(gpu)
    assert_receive {:running, pid}
    send(pid, :go)
    assert {:ok, _} = GpuSched.await(request)
  end

  test "what happens is told" do
    gpu = start(models: %{"m" => %{}})
    {:ok, source} = GpuSched.subscribe(gpu)
    :ok = Test.happen(gpu, :device, name: "gpu:0", state: "down", reason: "it fell off the bus")

    assert_receive {:gpu_sched, ^source,
                    {:device, %{"state" => "down", "reason" => "it fell" <> _}}}

    :ok = GpuSched.unload(gpu, "m")
    assert_receive {:gpu_sched, ^source, {:model, %{"name" => "m", "state" => "gone"}}}
  end

  test "what asks of models, devices and counters works" do
    gpu = start(models: %{"m" => %{}})
    assert {:ok, %{"state" => "ready"}} = GpuSched.await_ready(gpu, "m")
    assert {:ok, [%{"name" => "m"}]} = GpuSched.models(gpu)
    assert {:ok, [%{"name" => "test:0", "state" => "up"}]} = GpuSched.devices(gpu)
    {:ok, _} = GpuSched.infer(gpu, "m", %{})
    assert {:ok, %{"requests" => %{"completed" => 1}}} = GpuSched.stats(gpu)
    assert {:ok, text} = GpuSched.Metrics.text(gpu)
    assert IO.iodata_to_binary(text) =~ "nv_inference_count"
    assert {:ok, []} = GpuSched.jobs(gpu)
    assert {:error, %Error{reason: :bad_model}} = GpuSched.load(gpu, "other")
  end

  test "mistakes are refused at the door" do
    assert_raise ArgumentError, ~r/unknown option :model/, fn -> Test.start_link(model: 1) end
    assert_raise ArgumentError, ~r/no reason/, fn -> Test.start_link(models: %{"m" => :oops}) end
    assert_raise ArgumentError, ~r/a model is/, fn -> Test.start_link(models: %{"m" => 3}) end
    assert_raise ArgumentError, ~r/a job is/, fn -> Test.start_link(jobs: %{"j" => 3}) end
  end
end
