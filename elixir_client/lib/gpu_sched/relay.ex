# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Relay do
  # Everything the owner of the port has to do with one other node: a process that sends to a node
  # which has stopped reading is suspended, and this one may be. It watches the owners of requests
  # over there, decodes parts and results, and sends them; or hands them to the process of the stream.
  #
  # What waits here is bounded: the server adds what it hands over to `queued` and hands over no
  # more than its limit, this process takes off what it has sent.
  @moduledoc false
  use GenServer

  alias GpuSched.Local
  alias GpuSched.Relay.Lane

  @type t :: {pid, queued :: :atomics.atomics_ref()}

  @spec start_link(pid) :: t
  def start_link(server) do
    queued = :atomics.new(1, signed: true)
    {:ok, pid} = GenServer.start_link(__MODULE__, {server, queued})
    {pid, queued}
  end

  @spec queued(t) :: integer
  def queued({_pid, queued}), do: :atomics.get(queued, 1)

  # A stream of `owner` to `to` begins; it ends with what is delivered last. Should the server end before
  # that, its receiver is told. An alias is of a node that has this library: see GpuSched.Relay.Lane.
  @spec open(t, reference, pid, pid | reference) :: :ok
  def open({relay, _queued}, ref, owner, to), do: cast(relay, {:open, ref, owner, to})

  @spec watch(t, pid) :: :ok
  def watch({relay, _queued}, pid), do: cast(relay, {:watch, pid})

  @spec unwatch(t, pid) :: :ok
  def unwatch({relay, _queued}, pid), do: cast(relay, {:unwatch, pid})

  # `what` is {:part, payload}, {:done, payload} or {:error, error}.
  @spec deliver(t, {reference, pid | reference, :binary | :list}, tuple, non_neg_integer) :: :ok
  def deliver({relay, queued}, {ref, to, output}, what, bytes) do
    :atomics.add(queued, 1, bytes)
    cast(relay, {:deliver, ref, to, output, what, bytes})
  end

  # Sends what it has and ends. It may be suspended, so that is not waited for.
  @spec stop(t) :: :ok
  def stop({relay, _queued}) do
    Process.unlink(relay)
    cast(relay, :stop)
  end

  defp cast(relay, message) do
    send(relay, message)
    :ok
  end

  @impl true
  def init({server, queued}) do
    Process.flag(:message_queue_data, :off_heap)
    # For terminate/2.
    Process.flag(:trap_exit, true)
    {:ok, %{server: server, queued: queued, watched: %{}, open: %{}, lanes: %{}}}
  end

  @impl true
  def handle_info({:open, ref, owner, to}, state) when is_reference(to) do
    lane = Lane.start(state.server, state.queued, self(), ref, owner, to)
    {:noreply, put_in(put_in(state.open[ref], to).lanes[ref], lane)}
  end

  def handle_info({:open, ref, _owner, to}, state), do: {:noreply, put_in(state.open[ref], to)}

  def handle_info({:watch, pid}, state) do
    if is_map_key(state.watched, pid),
      do: {:noreply, state},
      else: {:noreply, put_in(state.watched[pid], Process.monitor(pid))}
  end

  def handle_info({:unwatch, pid}, state) do
    {monitor, state} = pop_in(state.watched[pid])
    if monitor, do: Process.demonitor(monitor, [:flush])
    {:noreply, state}
  end

  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    send(state.server, {:gs_owner_down, pid})
    {_monitor, state} = pop_in(state.watched[pid])
    {:noreply, state}
  end

  def handle_info({:deliver, ref, _to, output, what, bytes}, state)
      when is_map_key(state.lanes, ref) do
    Lane.deliver(state.lanes[ref], output, what, bytes)
    {:noreply, if(last(what) == :ended, do: forget(state, ref), else: state)}
  end

  def handle_info({:deliver, ref, to, output, what, bytes}, state) do
    state = deliver(state, ref, to, output, what)
    :atomics.sub(state.queued, 1, bytes)
    # Nothing large stays behind in a process that may be idle from now on.
    if bytes > 65_536, do: :erlang.garbage_collect()
    {:noreply, state}
  end

  def handle_info(:stop, state), do: {:stop, :normal, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    error = Local.server_down(reason)
    for {ref, to} <- state.open, do: send(to, {ref, {:error, error}})
    :ok
  end

  # Nothing comes after the end.
  defp deliver(%{open: open} = state, ref, to, output, what) when is_map_key(open, ref) do
    case send_plain(state.server, ref, to, output, what) do
      :more -> state
      :ended -> forget(state, ref)
    end
  end

  defp deliver(state, _ref, _to, _output, _what), do: state

  defp forget(state, ref),
    do: %{state | open: Map.delete(state.open, ref), lanes: Map.delete(state.lanes, ref)}

  @spec last(tuple) :: :more | :ended
  def last({:part, _payload}), do: :more
  def last(_the_end), do: :ended

  # As one message, and whether more of the stream comes.
  @spec send_plain(pid, reference, pid | reference, :binary | :list, tuple) :: :more | :ended
  def send_plain(server, ref, to, output, what) do
    plain = plain(what, output)
    send(to, {ref, plain})

    case {what, plain} do
      # It cannot be read.
      {{:part, _payload}, {:error, _error}} ->
        send(server, {:gs_drop_stream, ref})
        :ended

      _ ->
        last(what)
    end
  end

  defp plain({:part, payload}, output), do: named(:part, Local.part(payload, output))
  defp plain({:done, payload}, output), do: named(:done, Local.finish(payload, output))
  defp plain({:error, error}, _output), do: {:error, error}

  defp named(name, {:ok, map}), do: {name, map}
  defp named(_name, {:error, error}), do: {:error, error}
end
