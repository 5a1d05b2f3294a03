# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Jobs.Watcher do
  # Sends the events of one job to one subscriber, wherever that is: what becomes of the job is read
  # from the table when there is time to send it, so whoever is slow gets the latest. A process that
  # sends to a node which has stopped reading is suspended; this one may be, and nobody waits for it.
  # The end of the job comes in a message of its own, and is always sent.
  @moduledoc false

  alias GpuSched.Error
  alias GpuSched.Jobs.Table

  # How often progress is told at most.
  @pause_ms 100
  # A subscriber with so many messages before it has enough to do.
  @busy 64
  @ask_ms 5_000

  # `poked` is 1 while a poke is in its mailbox: there is at most one.
  @type t :: {pid, poked :: :atomics.atomics_ref()}

  # It ends with `owner`: the subscriber, or whose alias that is.
  @spec start(:ets.tid(), pos_integer, pid | reference, :plain | reference, pid, map) :: t
  def start(table, number, to, tag, owner, row) do
    poked = :atomics.new(1, [])
    server = self()

    state = %{
      table: table,
      number: number,
      to: to,
      tag: tag,
      owner: owner,
      id: row["job"],
      server: server,
      poked: poked,
      last: nil
    }

    {spawn(fn -> init(state, row) end), poked}
  end

  @spec poke(t) :: :ok
  def poke({pid, poked}) do
    if :atomics.exchange(poked, 1, 1) == 0, do: send(pid, :poke)
    :ok
  end

  @spec final(t, map) :: :ok
  def final({pid, _poked}, row), do: tell(pid, {:final, row})

  @spec stop(t) :: :ok
  def stop({pid, _poked}), do: tell(pid, :stop)

  # Of a job that has ended already.
  @spec once(pid | reference, :plain | reference, map) :: :ok
  def once(to, tag, row) do
    spawn(fn -> deliver(%{to: to, tag: tag, id: row["job"]}, final_event(row)) end)
    :ok
  end

  defp tell(pid, message) do
    send(pid, message)
    :ok
  end

  # ---- the process

  defp init(state, row) do
    Process.monitor(state.server)
    Process.monitor(state.owner)
    state |> progress(row) |> loop()
  end

  defp loop(%{server: server} = state) do
    receive do
      :poke -> poked(state)
      message -> other(message, server, state)
    end
  end

  # There is something new: it is told unless that was just done, or there is too much already.
  defp poked(state) do
    :atomics.put(state.poked, 1, 0)

    case live(state) do
      {:ok, row} ->
        if busy?(state.to), do: rest(state, true), else: state |> progress(row) |> rest(false)

      # Its end is in the mailbox.
      :error ->
        loop(state)
    end
  end

  defp live(state) do
    case :ets.lookup(state.table, state.number) do
      [{_number, :live, row}] -> {:ok, row}
      _ -> :error
    end
  rescue
    # The table has gone.
    ArgumentError -> :error
  end

  # For a moment nothing but the end is looked at.
  defp rest(%{server: server} = state, again?) do
    receive do
      {:final, _row} = message -> other(message, server, state)
      :stop -> :ok
      {:DOWN, _, :process, _, _} = message -> other(message, server, state)
    after
      @pause_ms -> if again?, do: poked(state), else: loop(state)
    end
  end

  defp other({:final, row}, _server, state), do: deliver(state, final_event(row))
  defp other(:stop, _server, _state), do: :ok

  defp other({:DOWN, _monitor, :process, server, reason}, server, state),
    do: deliver(state, {:error, Table.gone(reason)})

  defp other({:DOWN, _monitor, :process, _to, _reason}, server, state) do
    send(server, {:watcher_done, state.number, state.to})
    :ok
  end

  defp other(_message, _server, state), do: loop(state)

  defp progress(%{last: last} = state, row) do
    case Map.take(row, ["state", "done", "total", "message", "devices"]) do
      ^last ->
        state

      now ->
        deliver(state, {:progress, now})
        %{state | last: now}
    end
  end

  defp final_event(row) do
    case Table.outcome(row) do
      {:ok, result} -> {:done, result}
      {:error, %Error{} = error} -> {:error, error}
    end
  end

  defp deliver(%{to: to, tag: :plain, id: id}, event), do: send(to, {:gpu_sched, id, event})
  defp deliver(%{to: to, tag: tag}, event), do: send(to, {tag, event})

  # Whether its mailbox is full. Of an alias it cannot be known.
  defp busy?(to) when is_reference(to), do: false
  defp busy?(to) when node(to) == node(), do: to |> Process.info(:message_queue_len) |> long?()

  defp busy?(to) do
    args = [to, :message_queue_len]
    long?(:erpc.call(node(to), :erlang, :process_info, args, @ask_ms))
  catch
    # It cannot be asked, so it is not told either; where it is gone, that comes as a DOWN.
    _kind, _reason -> true
  end

  defp long?({:message_queue_len, n}), do: n >= @busy
  defp long?(_gone), do: false
end
