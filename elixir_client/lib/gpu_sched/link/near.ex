# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Link.Near do
  # This side of a link, and the keeper of all links of this node. A link is opened by whoever first
  # needs it, and ends with the connection; callers monitor it, so there is nothing it has to remember.
  @moduledoc false
  use GenServer

  alias GpuSched.Link.Far

  @table __MODULE__
  @version 1
  # What is gathered into one message.
  @items 256
  @bytes 256 * 1024
  # For how long a node that has no such thing is not asked again.
  @none_ms 10_000
  @open_ms 5_000

  def start_link(_arg), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  # :late where it took longer than `patience` to open one.
  @spec fetch(node, timeout) :: {:ok, pid} | :none | :late
  def fetch(node, patience) do
    case :ets.lookup(@table, node) do
      [{_node, pid}] when is_pid(pid) -> {:ok, pid}
      [{_node, until}] -> if now() < until, do: :none, else: open(node, patience)
      [] -> open(node, patience)
    end
  rescue
    # The application is not started.
    ArgumentError -> :none
  end

  defp open(node, patience) do
    GenServer.call(__MODULE__, {:open, node}, min(patience, @open_ms + 1_000))
  catch
    :exit, {:timeout, _} -> if patience < @open_ms + 1_000, do: :late, else: :none
    :exit, _ -> :none
  end

  # ---- the keeper

  @impl true
  def init(_arg) do
    :ets.new(@table, [:named_table, read_concurrency: true])
    {:ok, %{opening: %{}}}
  end

  @impl true
  def handle_call({:open, node}, from, %{opening: opening} = state) do
    case :ets.lookup(@table, node) do
      [{_node, pid}] when is_pid(pid) ->
        {:reply, {:ok, pid}, state}

      _ when is_map_key(opening, node) ->
        {:noreply,
         update_in(state.opening[node], fn {pid, waiting} -> {pid, [from | waiting]} end)}

      _ ->
        keeper = self()
        {pid, _monitor} = spawn_monitor(fn -> begin(keeper, node) end)
        {:noreply, put_in(state.opening[node], {pid, [from]})}
    end
  end

  @impl true
  def handle_info({:opened, node, pid}, state) do
    :ets.insert(@table, {node, pid})
    {:noreply, answer(state, node, {:ok, pid})}
  end

  def handle_info({:DOWN, _monitor, :process, pid, reason}, state) do
    :ets.match_delete(@table, {:_, pid})

    case Enum.find(state.opening, fn {_node, {opening, _waiting}} -> opening == pid end) do
      {node, _} ->
        # Of a node that cannot be reached that is said by :erpc, and it may be there soon.
        if reason == :unsupported, do: :ets.insert(@table, {node, now() + @none_ms})
        {:noreply, answer(state, node, :none)}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp answer(state, node, what) do
    {{_pid, waiting}, opening} = Map.pop!(state.opening, node)
    for from <- waiting, do: GenServer.reply(from, what)
    %{state | opening: opening}
  end

  defp now, do: :erlang.monotonic_time(:millisecond)

  # ---- a link

  defp begin(keeper, node) do
    Process.flag(:message_queue_data, :off_heap)

    far =
      try do
        :erpc.call(node, Far, :start, [@version, self()], @open_ms)
      catch
        # One that does not answer in time may have it all the same.
        :error, {:erpc, reason} when reason in [:noconnection, :timeout] -> exit(:noconnection)
        _kind, _reason -> exit(:unsupported)
      end

    case far do
      {:ok, pid} ->
        Process.monitor(pid)
        send(keeper, {:opened, node, self()})
        loop(pid)

      _ ->
        exit(:unsupported)
    end
  end

  defp loop(far) do
    receive do
      {:gs_out, bytes, item} -> gather(far, [item], bytes, @items - 1)
      {:gs_answers, answers} -> dispatch(answers)
      {:DOWN, _monitor, :process, ^far, _reason} -> exit(:noconnection)
      _other -> :ok
    end

    loop(far)
  end

  # What is there already; nobody is waited for.
  defp gather(far, items, bytes, n) when n == 0 or bytes > @bytes, do: flush(far, items)

  defp gather(far, items, bytes, n) do
    receive do
      {:gs_out, more, item} -> gather(far, [item | items], bytes + more, n - 1)
    after
      0 -> flush(far, items)
    end
  end

  defp flush(far, items) do
    send(far, {:gs_items, :lists.reverse(items)})
    :ok
  end

  defp dispatch([]), do: :ok

  defp dispatch([{ref, answer} | rest]) do
    send(ref, {ref, answer})
    dispatch(rest)
  end
end
