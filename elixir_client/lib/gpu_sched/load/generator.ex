# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Generator do
  # One node's part in a run at one rate: its lanes, or its callers. Called by GpuSched.Load.Fleet,
  # through :erpc where it is another node, so what comes and goes is plain.
  @moduledoc false

  alias GpuSched.{Admission, Error}
  alias GpuSched.Load.{Caller, Conductor, Lane, Options, Schedule, Sender, Sweeper, Tally}

  # In the description of a part:
  #   target, pool, request   what is sent, and to whom
  #   arrivals, rate, seed    of an open schedule
  #   first, count, of        the shares of it that are this node's
  #   concurrency             callers of a closed loop, on this node
  #   conductor               who says when the warm-up begins, or nil:
  #   start_in                in so many ms
  #   warmup, duration, window, windows, limit, patience   in ns, but for the number of windows
  #   watcher                 who is told of each window as it passes, or nil
  #   coordinator             whoever waits for the result
  #
  # :error where it did not begin because another could not.
  @spec run(map) :: {:ok, map} | {:error, Error.t()} | :error
  def run(spec) do
    # This process is nobody else's. What it starts ends with it, and it with whoever wants the
    # result: through :erpc that is not so by itself.
    coordinator = Process.monitor(spec.coordinator)

    with {:ok, sender} <- Sender.new(spec.target, spec.request, spec.pool),
         {:ok, start, skew} <- start(spec, coordinator) do
      Process.flag(:trap_exit, true)
      tally = Tally.new(start + spec.warmup, spec.window, spec.windows, spec.limit, spec.duration)
      spec = spec |> Map.put(:start, start) |> Map.put(:priority, priority(spec))
      me = self()
      jobs = jobs(spec, sender, tally)
      workers = for job <- jobs, do: spawn_link(fn -> send(me, {:told, self(), job.()}) end)
      if spec.watcher, do: spawn_link(fn -> watch(spec, tally) end)
      sweeper = if match?({:call, _fun}, sender), do: Sweeper.start(workers)
      result = collect(workers, tally, coordinator)
      if match?({:ok, _}, result), do: Sweeper.over(sweeper)
      with {:ok, raw} <- result, do: {:ok, Map.put(raw, "skew", skew)}
    end
  end

  defp start(%{conductor: nil} = spec, _coordinator),
    do: {:ok, Admission.now() + spec.start_in * 1_000_000, 0}

  defp start(spec, coordinator) do
    with :over <- Conductor.wait(spec.conductor, coordinator), do: :error
  end

  defp jobs(%{concurrency: nil} = spec, sender, tally) do
    for share <- spec.first..(spec.first + spec.count - 1) do
      fn ->
        arrivals = Options.arrivals(spec.arrivals)
        schedule = Schedule.new(arrivals, spec.rate, spec.seed, share, spec.of)
        Lane.run(spec, sender, tally, schedule)
      end
    end
  end

  defp jobs(%{concurrency: n} = spec, sender, tally) do
    for number <- 0..(n - 1)//1, do: fn -> Caller.run(spec, sender, tally, number) end
  end

  defp priority(%{count: lanes}),
    do: if(lanes < System.schedulers_online(), do: :high, else: :normal)

  defp collect(workers, tally, coordinator) do
    told = for pid <- workers, do: await(pid, coordinator)

    case Enum.find(told, &match?({:failed, _reason}, &1)) do
      nil ->
        {:ok, tally |> Tally.read() |> Map.merge(sum(told))}

      {:failed, reason} ->
        for pid <- workers, do: Process.exit(pid, :kill)
        {:error, broke(reason)}
    end
  end

  defp await(pid, coordinator) do
    receive do
      {:told, ^pid, told} -> told
      {:EXIT, ^pid, reason} when reason != :normal -> {:failed, reason}
      {:DOWN, ^coordinator, :process, _pid, _reason} -> exit(:nobody_waits)
    end
  end

  defp sum(told) do
    errors =
      Enum.reduce(told, %{}, fn %{errors: errors}, sum ->
        Map.merge(sum, Map.new(errors, fn {k, n} -> {error_name(k), n} end), fn _, a, b ->
          a + b
        end)
      end)

    why =
      for %{why: why} <- told,
          {reason, message} <- why,
          into: %{},
          do: {error_name(reason), message}

    %{
      "errors" => errors,
      "why" => why,
      "overfull" => told |> Enum.map(& &1.overfull) |> Enum.sum(),
      "behind" => told |> Enum.map(& &1.behind) |> Enum.sum(),
      # The busiest of them.
      "busy" => told |> Enum.map(&(&1.busy || 0.0)) |> Enum.max()
    }
  end

  defp error_name(reason) do
    case Atom.to_string(reason) do
      "Elixir." <> name -> name
      name -> name
    end
  end

  defp broke(reason) do
    Error.exception(
      reason: :unknown,
      message: "a generator failed on #{node()}: #{inspect(reason, limit: 10)}"
    )
  end

  # Tells of each window when it has passed.
  defp watch(spec, tally) do
    for n <- 0..(spec.windows - 1) do
      wait_until(min(tally.start + (n + 1) * tally.window, tally.finish))
      send(spec.watcher, {:window, node(), Tally.glance(tally, n)})
    end
  end

  defp wait_until(time) do
    case time - Admission.now() do
      ns when ns > 0 -> Process.sleep(div(ns + 999_999, 1_000_000))
      _ -> :ok
    end
  end
end
