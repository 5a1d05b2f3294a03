# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Events.Pump do
  # Hands the events of a scheduler to one subscriber, on whatever node that is. A process that sends to
  # a node which has stopped reading is suspended; this one may be.
  #
  # What waits is bounded on both sides: of what is not sent yet, so much is kept, and nothing is sent to
  # a mailbox that holds so much already. What had no room is counted, and the number told.
  @moduledoc false

  @most_waiting 1_000
  @most_in_mailbox 1_000
  # A mailbox on another node is looked at before every so many.
  @ask_every 64
  @ask_ms 5_000
  @pause_ms 100

  # `waiting` counts what is in its own mailbox, `missed` what had no room there.
  @type t :: {pid, :atomics.atomics_ref()}

  @waiting 1
  @missed 2

  @spec start(pid, String.t()) :: t
  def start(to, source) do
    counters = :atomics.new(2, [])
    hub = self()
    {spawn(fn -> init(to, source, counters, hub) end), counters}
  end

  # From the hub alone.
  @spec offer(t, term) :: :ok
  def offer({pid, counters}, event) do
    if :atomics.get(counters, @waiting) < @most_waiting do
      # What was missed came before this.
      case :atomics.exchange(counters, @missed, 0) do
        0 -> :ok
        n -> hand(pid, counters, {:missed, n})
      end

      hand(pid, counters, event)
    else
      :atomics.add(counters, @missed, 1)
    end
  end

  defp hand(pid, counters, event) do
    :atomics.add(counters, @waiting, 1)
    send(pid, {:event, event})
    :ok
  end

  @spec stop(t) :: :ok
  def stop({pid, _counters}), do: tell(pid, :stop)

  # It ends when it has sent what it has.
  @spec finish(t) :: :ok
  def finish({pid, _counters}), do: tell(pid, :finish)

  defp tell(pid, message) do
    send(pid, message)
    :ok
  end

  # ---- the process

  defp init(to, source, counters, hub) do
    Process.flag(:message_queue_data, :off_heap)
    monitor = Process.monitor(to)
    hub_monitor = Process.monitor(hub)

    loop(%{
      to: to,
      source: source,
      counters: counters,
      hub: hub,
      monitor: monitor,
      hub_monitor: hub_monitor,
      until_asked: 0
    })
  end

  defp loop(state) do
    receive do
      {:event, event} -> state |> room() |> deliver(event)
      message -> other(message, state)
    end
  end

  defp other(:stop, _state), do: :ok
  defp other(:finish, _state), do: :ok

  defp other({:DOWN, monitor, :process, to, _reason}, %{monitor: monitor} = state) do
    send(state.hub, {:pump_done, to})
    :ok
  end

  # It had no time to say so.
  defp other({:DOWN, monitor, :process, _hub, reason}, %{hub_monitor: monitor} = state) do
    text = "the scheduler ended: #{inspect(reason, limit: 8)}"
    emit(state, {:port, %{"state" => "stopped", "reason" => text}})
    :ok
  end

  defp other(_message, state), do: loop(state)

  defp deliver(:over, _event), do: :ok

  defp deliver(state, event) do
    emit(state, event)

    # Nothing may come after this by which it would be told.
    if :atomics.sub_get(state.counters, @waiting, 1) == 0 do
      case :atomics.exchange(state.counters, @missed, 0) do
        0 -> :ok
        n -> emit(state, {:missed, n})
      end
    end

    loop(state)
  end

  defp emit(%{to: to, source: source}, event), do: send(to, {:gpu_sched, source, event})

  # Waits until there is room in the subscriber's mailbox; :over where it is gone meanwhile.
  defp room(%{to: to} = state) when node(to) == node() do
    if long?(Process.info(to, :message_queue_len)), do: rest(state), else: state
  end

  defp room(%{until_asked: n} = state) when n > 0, do: %{state | until_asked: n - 1}

  defp room(state) do
    if far_too_long?(state.to), do: rest(state), else: %{state | until_asked: @ask_every}
  end

  defp rest(%{monitor: monitor} = state) do
    receive do
      :stop ->
        :over

      {:DOWN, ^monitor, :process, _to, _reason} = message ->
        :ok = other(message, state)
        :over
    after
      @pause_ms -> room(%{state | until_asked: 0})
    end
  end

  defp far_too_long?(to) do
    args = [to, :message_queue_len]
    long?(:erpc.call(node(to), :erlang, :process_info, args, @ask_ms))
  catch
    # It cannot be asked, so it is not told either; where it is gone, that comes as a DOWN.
    _kind, _reason -> true
  end

  defp long?({:message_queue_len, n}), do: n >= @most_in_mailbox
  defp long?(_gone), do: false
end
