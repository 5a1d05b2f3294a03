# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Fleet do
  # A run at one rate, by all of the nodes that take part, merged. They begin at the same time (see
  # GpuSched.Load.Conductor); each measures by its own clock.
  @moduledoc false

  alias GpuSched.{Error, Remote}
  alias GpuSched.Load.{Conductor, Generator, Options, Tally}

  # Until the first is sent, in ms, where this node is the only one.
  @start_in 20
  # Over and above what the run and the last answers take.
  @slack 30_000

  @spec run(map, tuple, term, keyword) :: {:ok, map} | {:error, Error.t()}
  def run(opts, pool, target, how) do
    {here, elsewhere} = Enum.split_with(opts.nodes, &(&1 == node()))
    lanes = opts.lanes || default_lanes()
    nodes = here ++ elsewhere

    conductor = if length(nodes) > 1, do: Conductor.start(length(nodes))

    parts =
      for {node, index} <- Enum.with_index(nodes) do
        part = part(opts, pool, target, how, index, length(nodes), lanes)
        {node, Map.put(part, :conductor, conductor)}
      end

    limit = opts.warmup + opts.duration + patience(opts) + @slack
    started = for {node, part} <- parts, do: {node, start(node, part, limit)}
    Conductor.parts(conductor, for({_node, {pid, _monitor}} <- started, do: pid))
    answers = for {node, {_pid, monitor}} <- started, do: await(node, monitor)

    # Not that of one that did not begin because another could not.
    case Enum.find(answers, &match?({:error, %Error{}}, &1)) || :error in answers do
      false ->
        {:ok, answers |> Enum.map(fn {:ok, raw} -> raw end) |> Enum.reduce(&Tally.merge(&2, &1))}

      true ->
        {:error,
         Error.exception(reason: :unknown, message: "the generators could not begin together")}

      error ->
        error
    end
  end

  # As many as leave room for the rest: two of four, one of two.
  def default_lanes, do: System.schedulers_online() |> div(2) |> max(1) |> min(4)

  defp part(opts, pool, target, how, index, n, lanes) do
    %{
      target: target,
      pool: pool,
      request: opts.request,
      arrivals: opts.arrivals,
      rate: if(how[:rate] == :recorded, do: nil, else: how[:rate]),
      seed: opts.seed,
      first: index * lanes,
      count: lanes,
      of: n * lanes,
      concurrency: how[:concurrency] && share(how[:concurrency], index, n),
      think: opts.think,
      start_in: @start_in,
      warmup: opts.warmup * 1_000_000,
      window: opts.window * 1_000_000,
      windows: opts.windows,
      duration: opts.duration * 1_000_000,
      limit: opts.within && round(opts.within * 1_000_000),
      patience: patience(opts) * 1_000_000,
      spin: opts.spin,
      max_in_flight: opts.max_in_flight,
      watcher: how[:watcher],
      coordinator: self()
    }
  end

  defp share(total, index, n), do: div(total, n) + if(index < rem(total, n), do: 1, else: 0)

  # For the last answers: as long as a request may take, and a little.
  defp patience(opts) do
    case GpuSched.Options.infer!(opts.request).timeout do
      :infinity -> 60_000
      ms -> ms + 1_000
    end
  end

  # A process for each, so that the mailbox of the caller stays as it is.
  defp start(node, part, _limit) when node == node(),
    do: spawned(fn -> Generator.run(part) end)

  defp start(node, part, limit) do
    spawned(fn ->
      try do
        :erpc.call(node, Generator, :run, [part], limit)
      rescue
        e in ErlangError -> {:error, failed(e.original, node, limit)}
      end
    end)
  end

  defp failed({:exception, :undef, [{Generator, :run, _, _} | _]}, node, _limit) do
    Error.exception(
      reason: :not_supported,
      message: "#{node} does not have this library, and so cannot generate load"
    )
  end

  defp failed(reason, node, limit), do: Remote.from_erpc(reason, node, limit)

  defp spawned(fun) do
    spawn_monitor(fn -> exit({:ran, fun.()}) end)
  end

  defp await(node, monitor) do
    receive do
      {:DOWN, ^monitor, :process, _pid, {:ran, answer}} ->
        answer

      {:DOWN, ^monitor, :process, _pid, reason} ->
        {:error,
         Error.exception(
           reason: :unknown,
           message: "the generators on #{node} ended: #{inspect(reason, limit: 10)}"
         )}
    end
  end

  @doc false
  def arrivals_name(arrivals) do
    case Options.arrivals(arrivals) do
      {:gamma, cv} -> "gamma, cv #{cv}"
      {:replay, times} -> "replay of #{length(times)} arrivals"
      kind -> Atom.to_string(kind)
    end
  end
end
