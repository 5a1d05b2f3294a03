# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Protocol do
  # Messages as docs/protocol.md has them: made, and told apart without decoding what they carry.
  @moduledoc false

  alias GpuSched.{Error, Msgpack}

  @version 1

  # A result beyond this has its small strings copied.
  @detach_above 4 * 1024
  def version, do: @version

  # ---- to the port

  # `params` are the encoded elements of the array, `n` of them.
  @spec request(non_neg_integer, String.t(), non_neg_integer, iodata) :: iodata
  def request(id, method, n, params),
    do: [<<0x94, 0x00, 0xCE, id::32, Msgpack.str(method)::binary, 0x90 + n>> | params]

  # The head of an infer with a map of `n` entries, whose deadline (nil: none) is the first.
  @spec infer_head(non_neg_integer, non_neg_integer, non_neg_integer | nil) :: binary
  def infer_head(id, n, nil), do: <<0x94, 0x00, 0xCE, id::32, 0xA5, "infer", 0x91, 0x80 + n>>

  def infer_head(id, n, deadline) do
    <<0x94, 0x00, 0xCE, id::32, 0xA5, "infer", 0x91, 0x81 + n, 0xA8, "deadline", 0xCF,
      deadline::64>>
  end

  # The same request under another id.
  @spec put_id(iodata, non_neg_integer) :: iodata
  def put_id(<<0x94, 0x00, 0xCE, _::32, rest::binary>>, id),
    do: <<0x94, 0x00, 0xCE, id::32, rest::binary>>

  def put_id([head | rest], id), do: [put_id(head, id) | rest]

  def cancel(id), do: <<0x93, 0x02, 0xA6, "cancel", 0x91, 0xCE, id::32>>

  def grant(id, n) do
    n = min(n, 0xFFFFFFFF)
    <<0x93, 0x02, 0xA5, "grant", 0x92, 0xCE, id::32, 0xCE, n::32>>
  end

  def lease_release(lease),
    do: <<0x93, 0x02, 0xAD, "lease_release", 0x91, Msgpack.int(lease)::binary>>

  def lease_write(lease, offset, bytes) do
    [
      <<0x93, 0x02, 0xAB, "lease_write", 0x93, Msgpack.int(lease)::binary,
        Msgpack.int(offset)::binary>>
      | Msgpack.bin(bytes)
    ]
  end

  # ---- from the port

  @type message ::
          {:response, id :: non_neg_integer, payload :: binary, rest :: binary}
          | {:part, id :: non_neg_integer, payload :: binary, rest :: binary}
          | {:notification, method :: binary, params :: binary, rest :: binary}
          | :end
          | {:error, String.t()}

  # The first message of a frame. The payload of a response is its error and its result, one after
  # the other; that of a part is its map.
  @spec next(binary) :: message
  def next(<<>>), do: :end

  def next(<<0x94, 0x01, rest::binary>>) do
    with {id, rest} <- id(rest),
         after_error when is_binary(after_error) <- Msgpack.skip(rest),
         after_result when is_binary(after_result) <- Msgpack.skip(after_error) do
      {:response, id, before(rest, after_result), after_result}
    else
      :error -> {:error, "a response that is cut short or misshapen"}
    end
  end

  def next(<<0x93, 0x02, 0xA4, "part", 0x92, rest::binary>>) do
    with {id, rest} <- id(rest),
         after_map when is_binary(after_map) <- Msgpack.skip(rest) do
      {:part, id, before(rest, after_map), after_map}
    else
      :error -> {:error, "a part that is cut short or misshapen"}
    end
  end

  def next(<<0x93, 0x02, rest::binary>>) do
    with {:ok, method, params} when is_binary(method) <- Msgpack.decode(rest),
         after_params when is_binary(after_params) <- Msgpack.skip(params) do
      {:notification, method, before(params, after_params), after_params}
    else
      _ -> {:error, "a notification that is cut short or misshapen"}
    end
  end

  def next(_other), do: {:error, "something that is not a message"}

  defp id(<<id, rest::binary>>) when id < 0x80, do: {id, rest}
  defp id(<<0xCC, id, rest::binary>>), do: {id, rest}
  defp id(<<0xCD, id::16, rest::binary>>), do: {id, rest}
  defp id(<<0xCE, id::32, rest::binary>>), do: {id, rest}
  defp id(_other), do: :error

  defp before(binary, rest), do: binary_part(binary, 0, byte_size(binary) - byte_size(rest))

  # What a response's payload says.
  @spec result(binary) :: {:ok, term} | {:error, Error.t()}
  def result(<<0xC0, result::binary>> = payload) do
    case Msgpack.decode(result) do
      {:ok, term, ""} -> {:ok, detached(term, payload)}
      {:ok, _term, _more} -> misread("bytes after the result")
      {:error, what} -> misread(what)
    end
  end

  def result(payload) do
    case Msgpack.decode(payload) do
      {:ok, error, _nil} -> {:error, Error.from_wire(error)}
      {:error, what} -> misread(what)
    end
  end

  # The map of a part.
  @spec part(binary) :: {:ok, map} | {:error, Error.t()}
  def part(payload) do
    case Msgpack.decode(payload) do
      {:ok, %{} = part, ""} -> {:ok, detached(part, payload)}
      {:ok, _term, _more} -> misread("a part that is not a map")
      {:error, what} -> misread(what)
    end
  end

  # Its names must not keep alive what is large.
  defp detached(term, payload) when byte_size(payload) > @detach_above, do: Msgpack.detach(term)
  defp detached(term, _payload), do: term

  # The payload of a response that has this result: for what is answered otherwise than the port did.
  @spec answer(String.t()) :: binary
  def answer(text), do: <<0xC0, Msgpack.str(text)::binary>>

  @spec success?(binary) :: boolean
  def success?(<<0xC0, _::binary>>), do: true
  def success?(_payload), do: false

  defp misread(what) do
    {:error,
     Error.exception(
       reason: :protocol_error,
       message: "the answer of sched-port cannot be read: it holds #{what}"
     )}
  end

  # ---- the hello

  # Where it does not say how many values a frame may hold.
  @max_values 4 * 1024 * 1024

  @type hello :: %{
          version: String.t(),
          pid: non_neg_integer,
          requests: pos_integer,
          bytes: pos_integer,
          lease_min: non_neg_integer,
          lease_max: non_neg_integer,
          max_frame: pos_integer,
          max_values: pos_integer,
          gather: pos_integer,
          clock_delta: integer
        }

  # `now` is when it came, on this node's clock.
  @spec hello(binary, integer) :: {:ok, hello} | {:error, String.t()}
  def hello(params, now) do
    with {:ok, [%{"protocol" => @version} = map], ""} <- Msgpack.decode(params),
         %{"pid" => pid, "clock_ns" => clock, "max_frame_bytes" => frame} <- map,
         %{"credit" => %{"requests" => requests, "bytes" => bytes}} <- map,
         values = Map.get(map, "max_values", @max_values),
         numbers = [pid, clock, frame, values, requests, bytes],
         true <- Enum.all?(numbers, &(is_integer(&1) and &1 > 0)) do
      {lease_min, lease_max} = leases(map["lease_bytes"])

      {:ok,
       %{
         version: to_string(map["version"]),
         pid: pid,
         requests: min(requests, 1_000_000_000),
         bytes: min(bytes, Bitwise.bsl(1, 60)),
         lease_min: lease_min,
         lease_max: lease_max,
         max_frame: frame,
         max_values: values,
         # A frame of so many bytes cannot hold too many values, whatever is gathered in it: one that
         # is refused takes all requests in it along.
         gather: min(frame, values),
         clock_delta: clock_delta(clock, now)
       }}
    else
      {:ok, [%{"protocol" => other}], _} when other != @version ->
        {:error,
         "it speaks version #{inspect(other)} of the protocol, and this client #{@version}: " <>
           "build the two from the same source (mix gpu_sched.build)"}

      {:error, what} ->
        {:error, "its hello holds #{what}"}

      _ ->
        {:error, "its hello lacks a field, or has one that is not acceptable"}
    end
  end

  defp leases(%{"min" => min, "max" => max})
       when is_integer(min) and is_integer(max) and min > 0 and max >= min,
       do: {min, min(max, Bitwise.bsl(1, 60))}

  defp leases(_none), do: {0, 0}

  # The two clocks are the same one unless a time namespace stands between them: what is seen then
  # is how long the hello took, and taking that for an offset would shorten every deadline.
  defp clock_delta(clock, now) do
    case clock - now do
      delta when delta <= 0 and delta > -10_000_000_000 -> 0
      delta -> delta
    end
  end
end
