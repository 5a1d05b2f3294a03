# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Link.Near do
  # This side of a link, and the keeper of all links of this node. A link is opened by whoever first
  # needs it, and ends with the connection, or with the keeper, without whom nobody would find it;
  # callers monitor it, so there is nothing it has to remember.
  #
  # What has not left yet is bounded: callers count it before they send it here. A host that has stopped
  # reading does not suspend this process, which goes on to hear who has given up.
  @moduledoc false
  use GenServer

  alias GpuSched.Link.{Bulk, Far, Pace}
  alias GpuSched.Way

  @table __MODULE__
  @version 4
  # What is gathered into one message.
  @items 256
  @bytes 256 * 1024
  # What callers may have here that has not left, in bytes, as they count it. More than a connection has
  # under way, and little for a laptop.
  @most_waiting 8 * 1_048_576
  # What a request counts beside its body.
  @item_bytes 512
  # A link that has had nothing to do for so long looks whether something is counted all the same.
  @idle_ms 3_000
  # How often a connection that takes nothing is tried again.
  @retry_ms 5
  # For how long a node that has no such thing is not asked again.
  @none_ms 10_000
  @open_ms 5_000

  # Between two continents and back, with something before it.
  @longest_way 1_000_000_000

  def start_link(_arg), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  # `pid` is the process here, `far` that over there; `waiting` has what waits on the link, in bytes, and
  # how long answers are on their way; `pace` is of what is large and goes there.
  @enforce_keys [:pid, :far, :waiting, :pace]
  defstruct [:pid, :far, :waiting, :pace]

  @type t :: %__MODULE__{pid: pid, far: pid, waiting: :atomics.atomics_ref(), pace: Pace.t()}

  # :late where it took longer than `patience` to open one.
  @spec fetch(node, timeout) :: {:ok, t} | :none | :late
  def fetch(node, patience) do
    case :ets.lookup(@table, node) do
      [{_node, _pid, link}] -> {:ok, link}
      [{_node, until}] -> if now() < until, do: :none, else: open(node, patience)
      [] -> open(node, patience)
    end
  rescue
    # The application is not started.
    ArgumentError -> :none
  end

  # Sends the far side an item whose body is that long, unless too much waits already: so much then.
  @spec post(t, non_neg_integer, term) :: :ok | {:full, non_neg_integer}
  def post(%__MODULE__{pid: pid, waiting: waiting}, bytes, item) do
    bytes = bytes + @item_bytes

    case :atomics.add_get(waiting, 1, bytes) do
      now when now <= @most_waiting or now == bytes ->
        send(pid, {:gs_out, bytes, item})
        :ok

      now ->
        :atomics.sub(waiting, 1, bytes)
        {:full, now - bytes}
    end
  end

  # That of small requests to the node and back.
  @spec way(t) :: Way.t()
  def way(%__MODULE__{waiting: waiting}), do: {waiting, 2, @longest_way}

  @spec most_waiting :: pos_integer
  def most_waiting, do: @most_waiting

  # The caller of that request has given up.
  @spec drop(t, reference) :: :ok
  def drop(%__MODULE__{pid: pid}, ref) do
    send(pid, {:gs_out, 0, {:drop, ref}})
    :ok
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
      [{_node, _pid, link}] ->
        {:reply, {:ok, link}, state}

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
  def handle_info({:opened, node, link}, state) do
    :ets.insert(@table, {node, link.pid, link})
    {:noreply, answer(state, node, {:ok, link})}
  end

  def handle_info({:DOWN, _monitor, :process, pid, reason}, state) do
    :ets.match_delete(@table, {:_, pid, :_})

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
    keeping = Process.monitor(keeper)

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
        waiting = :atomics.new(2, signed: true)
        link = %__MODULE__{pid: self(), far: pid, waiting: waiting, pace: Pace.new()}
        send(keeper, {:opened, node, link})
        loop(%{far: pid, keeping: keeping, waiting: waiting}, 0)

      _ ->
        exit(:unsupported)
    end
  end

  # `idle` is what was counted when nothing had been sent for a while; 0 where something was.
  defp loop(link, idle) do
    receive do
      {:gs_out, bytes, item} ->
        gather(link, [{bytes, item}], bytes, @items - 1)
        loop(link, 0)

      other ->
        handle(link, other)
        loop(link, idle)
    after
      @idle_ms -> loop(link, uncount(link, idle))
    end
  end

  # A caller that was killed after it had counted what it was to send has left that behind. It is that
  # where it is the same twice, with nothing sent in between.
  defp uncount(link, idle) do
    case :atomics.get(link.waiting, 1) do
      ^idle when idle != 0 ->
        left(link, [idle])
        0

      counted ->
        counted
    end
  end

  defp handle(_link, {:gs_answers, answers}), do: dispatch(answers)

  defp handle(%{keeping: keeping}, {:DOWN, keeping, :process, _pid, _reason}), do: exit(:normal)

  defp handle(%{far: far}, {:DOWN, _monitor, :process, far, _reason}), do: exit(:noconnection)
  defp handle(_link, _other), do: :ok

  # What is there already; nobody is waited for.
  defp gather(link, out, bytes, n) when n == 0 or bytes > @bytes, do: flush(link, out)

  defp gather(link, out, bytes, n) do
    receive do
      {:gs_out, more, item} -> gather(link, [{more, item} | out], bytes + more, n - 1)
    after
      0 -> flush(link, out)
    end
  end

  # `out` has the last one first.
  defp flush(link, out) do
    unless leaves?(link, out),
      do: out |> hold(%{n: 0, out: :gb_trees.empty(), refs: %{}}) |> wait(link)

    :ok
  end

  defp leaves?(link, out) do
    items = for {_bytes, item} <- :lists.reverse(out), do: item
    left? = not Bulk.busy?(link.far, {:gs_items, items})
    if left?, do: left(link, for({bytes, _item} <- out, do: bytes))
    left?
  end

  defp left(link, bytes), do: :atomics.sub(link.waiting, 1, Enum.sum(bytes))

  # ---- while the connection takes nothing

  # What is held is a tree from numbers that rise to what was to be sent, and for each request the number
  # of its own: who gives up a request that has not left takes it back, and nothing of it is sent.
  defp hold(out, held), do: :lists.foldr(&keep/2, held, out)

  defp keep({_bytes, item} = one, held) do
    n = held.n + 1

    %{
      held
      | n: n,
        out: :gb_trees.insert(n, one, held.out),
        refs: Map.put(held.refs, elem(item, 1), n)
    }
  end

  # Answers may come all the while; they do not put off the next try.
  defp wait(held, link), do: wait(held, link, now() + @retry_ms)

  defp wait(held, link, again) do
    case again - now() do
      ms when ms > 0 -> hear(held, link, again, ms)
      _ -> retry(held, link)
    end
  end

  defp hear(held, link, again, ms) do
    receive do
      {:gs_out, _bytes, {:drop, ref} = item} ->
        held |> give_up(ref, item, link) |> wait(link, again)

      {:gs_out, bytes, item} ->
        {bytes, item} |> keep(held) |> wait(link, again)

      other ->
        handle(link, other)
        wait(held, link, again)
    after
      ms -> retry(held, link)
    end
  end

  defp give_up(held, ref, item, link) do
    case held.refs do
      %{^ref => n} ->
        {{bytes, _item}, out} = :gb_trees.take(n, held.out)
        left(link, [bytes])
        %{held | out: out, refs: Map.delete(held.refs, ref)}

      # It has left.
      _ ->
        keep({0, item}, held)
    end
  end

  # In the sizes in which they are gathered otherwise.
  defp retry(held, link) do
    {now, later} = cut(held.out, 0, @items, [])

    cond do
      now == [] ->
        :ok

      leaves?(link, now) ->
        refs = for {_bytes, item} <- now, do: elem(item, 1)
        retry(%{held | out: later, refs: Map.drop(held.refs, refs)}, link)

      true ->
        wait(held, link)
    end
  end

  # The first of them, the last one first; and the rest.
  defp cut(out, sum, n, now) do
    if n > 0 and sum <= @bytes and not :gb_trees.is_empty(out) do
      {_n, {bytes, _item} = one, rest} = :gb_trees.take_smallest(out)
      cut(rest, sum + bytes, n - 1, [one | now])
    else
      {now, out}
    end
  end

  defp dispatch([]), do: :ok

  defp dispatch([{ref, answer} | rest]) do
    send(ref, {ref, answer})
    dispatch(rest)
  end
end
