# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Cluster.Gauge do
  # Reads the schedulers of this node for the member, in a process of its own: a sched-port that hangs
  # makes it wait, and nobody else.
  @moduledoc false

  alias GpuSched.{Admission, Directory}

  # How long a sched-port may take to say how it is.
  @patience_ms 1_000

  @spec start_link(pid) :: pid
  def start_link(member), do: spawn_link(fn -> loop(member, %{}) end)

  # Sends {:gauged, schedulers} to the member.
  @spec read(pid) :: :ok
  def read(gauge) do
    send(gauge, :read)
    :ok
  end

  # `before` has the counters of each model at the last time, and what was made of them.
  defp loop(member, before) do
    receive do
      :read -> :ok
    end

    # At once: one that hangs does not make the others wait.
    read =
      Directory.schedulers()
      |> Task.async_stream(&read(&1, before), max_concurrency: 64, timeout: :infinity)
      |> Enum.map(fn {:ok, one} -> one end)

    send(member, {:gauged, for({scheduler, _seen} <- read, do: scheduler)})
    loop(member, Map.new(read, fn {%{pid: pid}, seen} -> {pid, seen} end))
  end

  defp read(%{pid: pid} = scheduler, before) when is_map(before) do
    {in_flight, capacity} =
      case Directory.fetch(pid) do
        {:ok, ctx} ->
          {elem(Admission.taken(ctx.counters), 0), Admission.max_requests(ctx.counters)}

        :error ->
          {0, 0}
      end

    {models, devices} = ask(scheduler)
    {models, seen} = pace(models, length(devices), Map.get(before, pid, %{}))

    {%{
       pid: pid,
       name: scheduler.name,
       state: scheduler.state,
       in_flight: max(in_flight, 0),
       capacity: capacity,
       models: models,
       devices: devices
     }, seen}
  end

  defp ask(%{state: :up, pid: pid}) do
    with {:ok, models} <- GpuSched.models(pid, timeout: @patience_ms),
         {:ok, devices} <- GpuSched.devices(pid, timeout: @patience_ms) do
      {models, for(%{"usable" => true, "name" => name} <- devices, do: name)}
    else
      {:error, _} -> {[], []}
    end
  end

  defp ask(_down), do: {[], []}

  # What a request takes, in µs: `latency` from the beginning of its batch to the end, `pace` of the
  # scheduler's time, which batches and devices share. What has not run yet is thought to be quick.
  @unknown %{latency_us: 1_000, pace_us: 1_000}

  defp pace(models, devices, before) do
    Enum.map_reduce(models, %{}, fn model, seen ->
      name = model["name"]

      counts =
        {model["completed"], model["compute_us"], model["batches"], model["batched_requests"]}

      {counted, known} = Map.get(before, name, {{0, 0, 0, 0}, @unknown})
      known = measure(counts, counted, devices, known)
      {{name, Map.put(known, :state, model["state"])}, Map.put(seen, name, {counts, known})}
    end)
    |> then(fn {models, seen} -> {Map.new(models), seen} end)
  end

  defp measure({done, us, batches, batched}, {done0, us0, batches0, batched0}, devices, _known)
       when is_integer(done) and done > done0 and batches > batches0 do
    latency = (us - us0) / (done - done0)
    size = (batched - batched0) / (batches - batches0)
    %{latency_us: latency, pace_us: latency / max(size, 1) / max(devices, 1)}
  end

  # Counters of another sched-port, or nothing has run since.
  defp measure(_counts, _before, _devices, known), do: known
end
