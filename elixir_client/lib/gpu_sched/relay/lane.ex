# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Relay.Lane do
  # One stream on its way to a node that has this library: what is large goes in pieces, as a body does,
  # so that whatever else goes to that node need not wait for all of it. A process for each stream, as its
  # consumer takes the pieces when it likes, and all of a stream comes from one process, in order.
  @moduledoc false

  alias GpuSched.Link.{Bulk, Pace}
  alias GpuSched.Relay

  # What is larger goes in pieces.
  @bulk_above 1_048_576

  # The stream `ref` of `owner` goes to the alias `to`. What has been sent is taken off `queued`.
  @spec start(pid, :atomics.atomics_ref(), pid, reference, pid, reference) :: pid
  def start(server, queued, relay, ref, owner, to) do
    spawn(fn ->
      Process.flag(:message_queue_data, :off_heap)

      loop(%{
        server: server,
        queued: queued,
        ref: ref,
        to: to,
        relay: Process.monitor(relay),
        owner: Process.monitor(owner),
        pace: Pace.new(),
        gone?: false,
        n: 0
      })
    end)
  end

  @spec deliver(pid, atom, tuple, non_neg_integer) :: :ok
  def deliver(lane, output, what, bytes) do
    send(lane, {:deliver, output, what, bytes})
    :ok
  end

  # Until the end of the stream. One whose owner died has an end too, which nobody gets.
  defp loop(%{relay: relay, owner: owner} = state) do
    receive do
      {:deliver, output, what, bytes} ->
        {go_on, state} = pass(state, output, what)
        :atomics.sub(state.queued, 1, bytes)
        # Nothing large stays behind in a process that may be idle from now on.
        if bytes > 65_536, do: :erlang.garbage_collect()
        if go_on == :more, do: loop(state)

      {:DOWN, ^relay, :process, _pid, _reason} ->
        :ok

      {:DOWN, ^owner, :process, _pid, _reason} ->
        loop(%{state | gone?: true})

      # Of the last pieces of something, for which nobody waited.
      {_tag, {:gs_ack, _bytes}} ->
        loop(state)
    end
  end

  defp pass(%{gone?: true} = state, _output, what), do: {Relay.last(what), state}

  defp pass(state, _output, {kind, payload})
       when is_binary(payload) and byte_size(payload) > @bulk_above do
    %{ref: ref, to: to, n: n} = state
    # By which the acknowledgements of this one are told from those of others.
    tag = {ref, n}
    send(to, {ref, {:gs_bulk, self(), tag, kind, byte_size(payload)}})
    bulk = [payload] |> Bulk.new(state.pace) |> Bulk.start(to, ref)
    {Relay.last({kind, payload}), push(%{state | n: n + 1}, bulk, tag)}
  end

  defp pass(state, output, what),
    do: {Relay.send_plain(state.server, state.ref, state.to, output, what), state}

  # Until all has been sent: a consumer that has all of it may have no way to say so.
  defp push(state, %{pieces: []}, _tag), do: state

  defp push(%{relay: relay, owner: owner} = state, bulk, tag) do
    receive do
      {^tag, {:gs_ack, bytes}} -> push(state, Bulk.acked(bulk, bytes), tag)
      {:DOWN, ^relay, :process, _pid, _reason} -> exit(:normal)
      {:DOWN, ^owner, :process, _pid, _reason} -> %{state | gone?: true}
    after
      Bulk.pause(bulk) -> push(state, Bulk.retry(bulk), tag)
    end
  end
end
