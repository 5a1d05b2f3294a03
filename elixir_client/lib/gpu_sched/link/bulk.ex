# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Link.Bulk do
  # Something large on its way from one process to another, in pieces under credit: so many bytes are
  # under way as keep the connection busy, and no more, because whatever else goes over it waits behind
  # them. It is bytes, and stays in pieces: a term would be copied once more to be made into one.
  #
  # Neither side is suspended by a connection that takes nothing any more: a caller has a deadline, and
  # looks after it. What could not be sent is kept, and sent by retry/1, a few ms later.
  @moduledoc false

  @piece 256 * 1024
  # On a short way two megabytes keep it busy; on a long one it takes as much as it holds: what comes
  # through in a round trip, twice.
  @least 2 * 1_048_576
  @most 64 * 1_048_576

  # After so many ms.
  @retry_ms 5

  @spec retry_ms :: pos_integer
  def retry_ms, do: @retry_ms

  # Whether the connection takes nothing more.
  @spec busy?(pid | reference, term) :: boolean
  defp busy?(to, message), do: :erlang.send(to, message, [:nosuspend]) == :nosuspend

  # ---- the sending side

  defstruct [
    :to,
    :tag,
    :since,
    pieces: [],
    size: 0,
    window: @least,
    flying: 0,
    stuck?: false,
    sent: :queue.new(),
    least_us: nil,
    rate: 0.0
  ]

  @type t :: %__MODULE__{}

  # No piece has bytes of two of the binaries.
  @spec new([binary]) :: t
  def new(binaries), do: %__MODULE__{pieces: cut(binaries), size: IO.iodata_length(binaries)}

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
  def start(bulk, to, tag), do: push(%{bulk | to: to, tag: tag, since: micros()})

  # So many bytes have arrived over there.
  @spec acked(t, pos_integer) :: t
  def acked(bulk, bytes) do
    now = micros()
    {bulk, took} = settle(bulk, bytes, now)
    push(%{bulk | flying: bulk.flying - bytes} |> measure(bytes, took, now))
  end

  defp settle(bulk, bytes, now) do
    {{:value, {^bytes, at}}, sent} = :queue.out(bulk.sent)
    {%{bulk | sent: sent}, max(now - at, 1)}
  end

  defp measure(bulk, bytes, took, now) do
    since = max(now - bulk.since, 1)
    rate = 0.75 * bulk.rate + 0.25 * (bytes / since)
    least = min(bulk.least_us || took, took)
    window = round(2 * rate * least)
    %{bulk | since: now, rate: rate, least_us: least, window: window |> max(@least) |> min(@most)}
  end

  defp push(%{pieces: []} = bulk), do: %{bulk | stuck?: false}

  defp push(%{flying: flying, window: window} = bulk) when flying >= window,
    do: %{bulk | stuck?: false}

  defp push(%{pieces: [piece | pieces]} = bulk) do
    if busy?(bulk.to, {bulk.tag, {:gs_piece, piece}}) do
      %{bulk | stuck?: true}
    else
      size = byte_size(piece)
      sent = :queue.in({size, micros()}, bulk.sent)
      push(%{bulk | pieces: pieces, flying: bulk.flying + size, sent: sent})
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

    if size >= missing,
      do: {:done, :lists.reverse(pieces)},
      else: {:more, %{receiver | missing: missing - size, pieces: pieces}}
  end

  defp acknowledge(%{owed: []} = receiver), do: receiver

  defp acknowledge(%{owed: [size | owed]} = receiver) do
    if busy?(receiver.to, {receiver.tag, {:gs_ack, size}}),
      do: receiver,
      else: acknowledge(%{receiver | owed: owed})
  end

  # ---- either side

  # Whether something is to be sent again.
  @spec stuck?(t | receiver | nil) :: boolean
  def stuck?(nil), do: false
  def stuck?(%__MODULE__{stuck?: stuck?}), do: stuck?
  def stuck?(%{owed: owed}), do: owed != []

  @spec retry(t | receiver | nil) :: t | receiver | nil
  def retry(%__MODULE__{stuck?: true} = bulk), do: push(bulk)
  def retry(%{owed: [_ | _]} = receiver), do: acknowledge(receiver)
  def retry(other), do: other

  defp micros, do: :erlang.monotonic_time(:microsecond)
end
