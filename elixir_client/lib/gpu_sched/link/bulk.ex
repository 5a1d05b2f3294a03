# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Link.Bulk do
  # Something large on its way from one process to another, in pieces under credit: so many bytes are
  # under way as keep the connection busy, and no more, because whatever else goes over it waits behind
  # them; how many is what GpuSched.Link.Pace knows. It is bytes, and stays in pieces: a term would be
  # copied once more to be made into one.
  #
  # Neither side is suspended by a connection that takes nothing any more: a caller has a deadline, and
  # looks after it. What could not be sent is kept, and sent by retry/1 after pause/1.
  @moduledoc false

  alias GpuSched.Link.Pace

  @piece 256 * 1024

  # A connection that took something a ms ago takes more soon; one that does not may stand still.
  @shortest_ms 1
  @longest_ms 16

  # Whether the connection takes nothing more. Where there is none any more the message is gone, and its
  # sender will hear of that.
  @spec busy?(pid | reference, term) :: boolean
  def busy?(to, message), do: :erlang.send(to, message, [:nosuspend, :noconnect]) == :nosuspend

  # ---- the sending side

  # `limit`: so much may be under way until it is said that it is taken. `all` has what may have to be
  # sent again till then. `delivered`: what has been acknowledged; `sent` has, for each piece that was
  # not, its size, when it was sent and what had been delivered by then. `rate`: the highest of those at
  # which what was under way together came through, in bytes per µs.
  defstruct [
    :pace,
    :to,
    :tag,
    :limit,
    :all,
    kind: :gs_piece,
    pieces: [],
    size: 0,
    window: 0,
    flying: 0,
    delivered: 0,
    pause: :infinity,
    quiet?: false,
    sent: :queue.new(),
    rate: 0.0
  ]

  @type t :: %__MODULE__{}

  # No piece has bytes of two of the binaries.
  @spec new([binary], Pace.t()) :: t
  def new(binaries, pace),
    do: %__MODULE__{pace: pace, pieces: cut(binaries), size: IO.iodata_length(binaries)}

  @spec size(t) :: non_neg_integer
  def size(bulk), do: bulk.size

  defp cut([]), do: []

  defp cut([binary | rest]) when byte_size(binary) > @piece do
    <<piece::binary-size(@piece), more::binary>> = binary
    [piece | cut([more | rest])]
  end

  defp cut([binary | rest]), do: [binary | cut(rest)]

  # The receiver is there: what the credit allows is sent, as {tag, {:gs_piece, piece}}.
  @spec start(t, pid | reference, term) :: t
  def start(bulk, to, tag), do: bulk |> begin(to, tag) |> push()

  # The receiver may refuse it. As much is sent as may well be for nothing, as {tag, {:gs_early, piece}}.
  @spec start_early(t, pid | reference, term) :: t
  def start_early(bulk, to, tag) do
    bulk = begin(bulk, to, tag)
    push(%{bulk | kind: :gs_early, limit: Pace.early(bulk.pace), all: bulk.pieces})
  end

  defp begin(bulk, to, tag) do
    quiet? = Pace.quiet?(bulk.pace, micros())
    %{bulk | to: to, tag: tag, window: Pace.window(bulk.pace), quiet?: quiet?}
  end

  # It is taken: with what came early, or from its beginning, as it had to wait.
  @spec ready(t, :now | :later) :: t
  def ready(bulk, :now) do
    Pace.taken(bulk.pace, true)
    push(%{bulk | kind: :gs_piece, limit: nil, all: nil})
  end

  def ready(bulk, :later) do
    Pace.taken(bulk.pace, false)

    push(%{
      bulk
      | kind: :gs_piece,
        limit: nil,
        all: nil,
        pieces: bulk.all,
        flying: 0,
        sent: :queue.new()
    })
  end

  # It is not.
  @spec refused(t) :: :ok
  def refused(%__MODULE__{all: nil}), do: :ok
  def refused(bulk), do: Pace.taken(bulk.pace, false)

  # So many bytes have arrived over there.
  @spec acked(t, pos_integer) :: t
  def acked(bulk, bytes) do
    {{:value, {^bytes, at, before}}, sent} = :queue.out(bulk.sent)
    now = micros()
    took = max(now - at, 1)
    least = Pace.measured(bulk.pace, took, bulk.quiet?, now)
    delivered = bulk.delivered + bytes
    rate = max(bulk.rate, (delivered - before) / took)

    bulk = %{
      bulk
      | sent: sent,
        flying: bulk.flying - bytes,
        delivered: delivered,
        quiet?: false,
        rate: rate,
        window: max(bulk.window, Pace.enough(rate, least))
    }

    if done?(bulk), do: Pace.learn(bulk.pace, Pace.enough(rate, least), bulk.size)
    push(bulk)
  end

  defp push(bulk), do: push(bulk, bulk.flying)

  # `before`: so much was under way when it began, which tells whether the connection took anything.
  defp push(%{pieces: []} = bulk, _before), do: %{bulk | pause: :infinity}

  # A limit that is not there is more than every number.
  defp push(%{flying: flying, window: window, limit: limit} = bulk, _before)
       when flying >= window or flying >= limit,
       do: %{bulk | pause: :infinity}

  defp push(%{pieces: [piece | pieces]} = bulk, before) do
    if busy?(bulk.to, {bulk.tag, {bulk.kind, piece}}) do
      if bulk.flying == before and bulk.pause != :infinity,
        do: %{bulk | pause: min(2 * bulk.pause, @longest_ms)},
        else: %{bulk | pause: @shortest_ms}
    else
      size = byte_size(piece)
      sent = :queue.in({size, micros(), bulk.delivered}, bulk.sent)
      push(%{bulk | pieces: pieces, flying: bulk.flying + size, sent: sent}, before)
    end
  end

  @spec done?(t) :: boolean
  def done?(bulk), do: bulk.pieces == [] and bulk.flying == 0

  # ---- the receiving side

  # What is `owed` has arrived, and could not be acknowledged yet.
  @type receiver :: %{
          to: pid | reference,
          tag: term,
          missing: integer,
          pieces: [binary],
          owed: [pos_integer]
        }

  # What arrived is acknowledged to `to`, as {tag, {:gs_ack, bytes}}.
  @spec receiver(pid | reference, term, pos_integer) :: receiver
  def receiver(to, tag, size), do: %{to: to, tag: tag, missing: size, pieces: [], owed: []}

  @spec take(receiver, binary) :: {:more, receiver} | {:done, [binary]}
  def take(%{missing: missing, pieces: pieces} = receiver, piece) do
    size = byte_size(piece)
    receiver = acknowledge(%{receiver | owed: receiver.owed ++ [size]})
    pieces = [piece | pieces]

    if size >= missing do
      settle(receiver)
      {:done, :lists.reverse(pieces)}
    else
      {:more, %{receiver | missing: missing - size, pieces: pieces}}
    end
  end

  # Nobody calls retry/1 any more; the other side waits for what is owed.
  defp settle(%{owed: []}), do: :ok

  defp settle(%{to: to, tag: tag, owed: owed}),
    do: spawn(fn -> for size <- owed, do: send(to, {tag, {:gs_ack, size}}) end)

  defp acknowledge(%{owed: []} = receiver), do: receiver

  defp acknowledge(%{owed: [size | owed]} = receiver) do
    if busy?(receiver.to, {receiver.tag, {:gs_ack, size}}),
      do: receiver,
      else: acknowledge(%{receiver | owed: owed})
  end

  # ---- either side

  # After how many ms something is to be sent again.
  @spec pause(t | receiver | nil) :: timeout
  def pause(nil), do: :infinity
  def pause(%__MODULE__{pause: pause}), do: pause
  def pause(%{owed: []}), do: :infinity
  def pause(_receiver), do: @longest_ms

  @spec retry(t | receiver | nil) :: t | receiver | nil
  def retry(%__MODULE__{pause: pause} = bulk) when pause != :infinity, do: push(bulk)
  def retry(%{owed: [_ | _]} = receiver), do: acknowledge(receiver)
  def retry(other), do: other

  defp micros, do: :erlang.monotonic_time(:microsecond)
end
