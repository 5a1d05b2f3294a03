# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Jobs.Bar do
  # A progress bar for a shell. It is drawn where the caller's group leader is: of a laptop that calls
  # through :erpc, on the laptop. What is no terminal gets a line now and then.
  @moduledoc false

  alias GpuSched.{Context, Error, Local}
  alias GpuSched.Jobs.{Id, Table}

  @widest 120
  @width 24

  @spec run(Context.t(), pos_integer, timeout) :: {:ok, map} | {:error, Error.t()}
  def run(ctx, number, timeout) do
    tag = make_ref()
    to = :erlang.alias([:explicit_unalias])
    monitor = Process.monitor(ctx.jobs.pid)

    try do
      with :ok <- Table.subscribe(ctx.jobs, number, to, tag) do
        bar = %{
          id: Id.format(ctx.jobs.label, number),
          tag: tag,
          monitor: monitor,
          started: nil,
          shown: nil,
          columns: columns(),
          deadline: Local.deadline(timeout),
          timeout: timeout
        }

        loop(bar)
      end
    after
      :erlang.unalias(to)
      Process.demonitor(monitor, [:flush])
      Table.unsubscribe(ctx.jobs, number, to)
      Local.flush(tag)
    end
  end

  defp loop(%{tag: tag, monitor: monitor} = bar) do
    receive do
      {^tag, {:progress, progress}} -> bar |> draw(progress) |> loop()
      {^tag, {:done, result}} -> over(bar, "done", {:ok, result})
      {^tag, {:error, error}} -> over(bar, "#{error.reason}: #{error.message}", {:error, error})
      {:DOWN, ^monitor, :process, _pid, reason} -> lost(bar, reason)
    after
      Local.remaining(bar.deadline) ->
        message = "the job was not done after #{bar.timeout} ms, and goes on"
        error = Error.exception(reason: :deadline_exceeded, message: message)
        over(bar, message, {:error, error})
    end
  end

  # Its last events are in the mailbox, or not.
  defp lost(%{tag: tag} = bar, reason) do
    receive do
      {^tag, {:error, error}} -> over(bar, error.message, {:error, error})
      {^tag, {:done, result}} -> over(bar, "done", {:ok, result})
    after
      0 -> over(bar, "the scheduler ended", {:error, Table.gone(reason)})
    end
  end

  defp over(%{columns: nil} = bar, text, outcome) do
    IO.puts("#{bar.id} #{text}")
    outcome
  end

  defp over(bar, text, outcome) do
    if bar.shown, do: IO.write("\n")
    IO.puts("#{bar.id} #{text}")
    outcome
  end

  defp columns do
    case :io.columns() do
      {:ok, n} -> min(n - 1, @widest)
      {:error, _no_terminal} -> nil
    end
  end

  # ---- one line

  defp draw(bar, progress) do
    bar =
      if bar.started == nil and progress["state"] == "running",
        do: %{bar | started: System.monotonic_time(:millisecond)},
        else: bar

    line = line(bar, progress)

    cond do
      bar.columns != nil ->
        IO.write("\r" <> String.pad_trailing(line, bar.columns))
        %{bar | shown: line}

      worth_a_line?(bar.shown, progress) ->
        IO.puts(line)
        %{bar | shown: mark(progress)}

      true ->
        bar
    end
  end

  # Where lines stay, one for each tenth is enough, or before there are such for each state.
  defp worth_a_line?(shown, progress), do: shown != mark(progress)

  defp mark(%{"done" => done, "total" => total}) when total > 0, do: div(10 * done, total)
  defp mark(progress), do: progress["state"]

  @doc false
  @spec line(map, map) :: String.t()
  def line(%{id: id} = bar, %{"done" => done, "total" => total} = progress) when total > 0 do
    share = min(done / total, 1.0)
    text = [" ", percent(share), count(done, total), left(bar, share), message(progress)]
    fit(IO.iodata_to_binary(["#{id} ", bar(share, @width) | text]), bar.columns)
  end

  def line(%{id: id, columns: columns}, progress),
    do: fit("#{id} #{progress["state"]}#{message(progress)}", columns)

  defp fit(text, nil), do: text
  defp fit(text, columns), do: String.slice(text, 0, columns)

  defp bar(share, width) do
    full = trunc(share * width)
    tip = if full < width, do: ">", else: ""
    "[" <> String.pad_trailing(String.duplicate("=", full) <> tip, width) <> "]"
  end

  defp percent(share), do: String.pad_leading("#{trunc(share * 100)}", 3) <> "%"
  defp count(done, total), do: " #{done}/#{total}"

  defp left(%{started: nil}, _share), do: ""
  defp left(_bar, share) when share <= 0.02 or share >= 1.0, do: ""

  defp left(%{started: started}, share) do
    ms = System.monotonic_time(:millisecond) - started
    " #{span(div(trunc(ms * (1.0 - share) / share) + 999, 1000))} left"
  end

  defp span(s) when s < 120, do: "#{s} s"
  defp span(s) when s < 7_200, do: "#{div(s, 60)} min"
  defp span(s), do: "#{div(s, 3_600)} h"

  defp message(%{"message" => text}) when text not in [nil, ""], do: " " <> text
  defp message(_progress), do: ""
end
