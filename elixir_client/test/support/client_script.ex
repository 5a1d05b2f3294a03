# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ClientScript do
  # What a client on another node does, run over there by the tests of distribution.
  @moduledoc false

  def run(server) do
    request = GpuSched.async(server, "echo", %{x: ["1"]}, output: :list)
    {:ok, %{"outputs" => %{"x" => ["1"]}}} = GpuSched.await(request)

    held = GpuSched.async(server, "hold", %{}, timeout: :infinity)
    nil = GpuSched.yield(held, 50)
    :ok = GpuSched.cancel(held)

    {:error, %GpuSched.Error{reason: :deadline_exceeded}} =
      GpuSched.await(GpuSched.async(server, "hold", %{}, timeout: 50))

    {:error, %GpuSched.Error{reason: :deadline_exceeded}} =
      GpuSched.infer(server, "hold", %{}, timeout: 50)

    stream =
      GpuSched.stream(server, "parts", %{}, parameters: [parts: 20], credit: 4, output: :list)

    expected = for n <- 1..20, do: [n]
    ^expected = Enum.map(stream, & &1["outputs"]["part"])
    [_, _] = Enum.take(stream, 2)

    inputs = Stream.map(1..50, &%{x: [&1]})
    many = GpuSched.infer_many(server, "echo", inputs, output: :list, max_concurrency: 10)
    expected = for n <- 1..50, do: ["#{n}"]
    ^expected = Enum.map(many, fn {:ok, r} -> r["outputs"]["x"] end)

    endless = GpuSched.infer_many(server, "echo", Stream.cycle([%{}]), max_concurrency: 8)
    [{:ok, _}, {:ok, _}] = Enum.take(endless, 2)

    {:message_queue_len, 0} = Process.info(self(), :message_queue_len)
    {:monitors, []} = Process.info(self(), :monitors)
    :ok
  end

  # Holds a job that ends with this process.
  def linked(server, to) do
    {:ok, job} = GpuSched.submit(server, "wait", link: true)
    send(to, {:linked, job})
    Process.sleep(:infinity)
  end

  # Hands on what a scheduler tells it; in a process that nobody on another node has spawned.
  def listen(server, to) do
    spawn(fn ->
      send(to, {:listening, GpuSched.subscribe(server)})
      hand_on(to)
    end)
  end

  defp hand_on(to) do
    receive do
      message -> send(to, {:heard, message})
    end

    hand_on(to)
  end

  # Listens to a job that has ended, with this library and as a node would that has it not; in a
  # process that nobody on another node has spawned.
  def subscribe(job), do: Task.await(Task.async(fn -> listen(job) end))

  defp listen(job) do
    [host | _] = String.split(job, "/")
    :ok = GpuSched.subscribe(job)
    first = ended(job)
    :ok = :erpc.call(String.to_existing_atom(host), GpuSched, :subscribe, [job])
    {first, ended(job)}
  end

  defp ended(job) do
    receive do
      {:gpu_sched, ^job, {:done, result}} -> result
    after
      5_000 -> :nothing
    end
  end
end
