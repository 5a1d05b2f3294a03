# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Admission do
  # The credit of a scheduler, counted where the callers are: a request takes its part before
  # anything is sent, so neither the port's buffer nor the mailbox of its owner can grow beyond it.
  # The owner gives it back when the request has ended, whoever is still there to hear of it.
  #
  # The array also tells callers what else changes: the state of the port, its limits, its clock.
  @moduledoc false

  alias GpuSched.{Error, Way}

  @state 1
  @requests 2
  @bytes 3
  @max_requests 4
  @max_bytes 5
  @waiting 6
  @retry_after 7
  @lease_min 8
  @lease_max 9
  @max_frame 10
  @clock_delta 11
  @next_id 12
  @generation 13
  @max_values 14
  @refused 15
  @way 16
  @slots 16

  # A busy BEAM is late by milliseconds; what takes longer is not the way.
  @longest_way 10_000_000

  @states [starting: 0, up: 1, down: 2, closing: 3]

  @type ref :: :atomics.atomics_ref()

  @spec new :: ref
  def new, do: :atomics.new(@slots, signed: true)

  # For what is encoded here and admitted elsewhere.
  @spec unlimited :: ref
  def unlimited do
    ref = new()
    for slot <- [@max_frame, @max_values], do: :atomics.put(ref, slot, Bitwise.bsl(1, 60))
    ref
  end

  for {name, value} <- @states do
    defp state_value(unquote(name)), do: unquote(value)
    defp state_name(unquote(value)), do: unquote(name)
  end

  def set_state(ref, state), do: :atomics.put(ref, @state, state_value(state))
  def state(ref), do: state_name(:atomics.get(ref, @state))

  # What the hello said.
  def set_limits(ref, limits) do
    :atomics.put(ref, @max_requests, limits.requests)
    :atomics.put(ref, @max_bytes, limits.bytes)
    :atomics.put(ref, @lease_min, limits.lease_min)
    :atomics.put(ref, @lease_max, limits.lease_max)
    :atomics.put(ref, @max_frame, limits.max_frame)
    :atomics.put(ref, @max_values, limits.max_values)
    :atomics.put(ref, @clock_delta, limits.clock_delta)
    :atomics.add(ref, @generation, 1)
  end

  # 0: there are no leases.
  def lease_min(ref), do: :atomics.get(ref, @lease_min)
  def lease_max(ref), do: :atomics.get(ref, @lease_max)
  def max_requests(ref), do: :atomics.get(ref, @max_requests)
  def max_bytes(ref), do: :atomics.get(ref, @max_bytes)
  def max_frame(ref), do: :atomics.get(ref, @max_frame)
  def max_values(ref), do: :atomics.get(ref, @max_values)
  def generation(ref), do: :atomics.get(ref, @generation)

  # Now on this node's clock, and a time of it on the port's. Both are CLOCK_MONOTONIC, which
  # Erlang's own monotonic time is not: that is bent towards the system time.
  def now, do: :os.perf_counter(:nanosecond)
  def port_time(ref, time), do: max(time + :atomics.get(ref, @clock_delta), 0)

  # By when a request has to be done over there, on the port's clock, for its answer to be with the
  # caller at `deadline`.
  @spec port_deadline(ref, integer | :infinity) :: non_neg_integer | nil
  def port_deadline(_ref, :infinity), do: nil
  def port_deadline(ref, deadline), do: port_time(ref, ref |> way() |> Way.due(deadline))

  # That of answers to callers on this node.
  @spec way(ref) :: Way.t()
  def way(ref), do: {ref, @way, @longest_way}

  # A message id that was not used for the last 2^32 requests.
  def next_id(ref), do: Bitwise.band(:atomics.add_get(ref, @next_id, 1), 0xFFFFFFFF)

  @spec take(ref, non_neg_integer) :: :ok | {:error, Error.t()}
  def take(ref, bytes) do
    cond do
      :atomics.get(ref, @state) != 1 -> {:error, not_up(ref)}
      # Those who wait come first.
      :atomics.get(ref, @waiting) > 0 -> {:error, overloaded(ref, "others are waiting for it")}
      true -> take_credit(ref, bytes)
    end
  end

  # Whether a request of so many bytes would be taken now, were the `coming` bytes of others there
  # already; nothing is taken. Until there are limits, nothing is too large.
  @spec foresee(ref, non_neg_integer, non_neg_integer) :: :ok | {:error, Error.t()}
  def foresee(ref, bytes, coming) do
    limit = max_bytes(ref)
    {requests, taken} = taken(ref)

    cond do
      limit > 0 and bytes > limit ->
        {:error, beyond_credit(bytes, limit)}

      :atomics.get(ref, @state) != 1 ->
        {:error, not_up(ref)}

      :atomics.get(ref, @waiting) > 0 ->
        {:error, overloaded(ref, "others are waiting for it")}

      requests >= max_requests(ref) ->
        {:error, overloaded(ref, "#{max_requests(ref)} requests are in flight")}

      bytes + coming + taken > limit ->
        what = "#{bytes} bytes more do not fit in the #{limit} in flight and on their way here"
        {:error, overloaded(ref, what)}

      true ->
        :ok
    end
  end

  # For the owner of the port, on behalf of one that waits.
  @spec take_credit(ref, non_neg_integer) :: :ok | {:error, Error.t()}
  def take_credit(ref, bytes) do
    if :atomics.add_get(ref, @requests, 1) > :atomics.get(ref, @max_requests) do
      :atomics.sub(ref, @requests, 1)
      {:error, overloaded(ref, "#{:atomics.get(ref, @max_requests)} requests are in flight")}
    else
      take_bytes(ref, bytes)
    end
  end

  defp take_bytes(ref, bytes) do
    limit = :atomics.get(ref, @max_bytes)

    if :atomics.add_get(ref, @bytes, bytes) > limit do
      give(ref, 1, bytes)

      if bytes > limit,
        do: {:error, beyond_credit(bytes, limit)},
        else:
          {:error, overloaded(ref, "#{bytes} bytes more do not fit in the #{limit} in flight")}
    else
      :ok
    end
  end

  @spec give(ref, non_neg_integer, non_neg_integer) :: :ok
  def give(ref, requests, bytes) do
    :atomics.sub(ref, @requests, requests)
    :atomics.sub(ref, @bytes, bytes)
  end

  # Taken without asking: for what was admitted before.
  def take_anyway(ref, bytes) do
    :atomics.add(ref, @requests, 1)
    :atomics.add(ref, @bytes, bytes)
  end

  def taken(ref), do: {:atomics.get(ref, @requests), :atomics.get(ref, @bytes)}

  # How many wait; answers the number with this one.
  def add_waiting(ref, n), do: :atomics.add_get(ref, @waiting, n)

  # How many were refused for want of credit.
  def count_refused(ref), do: :atomics.add(ref, @refused, 1)
  def refused(ref), do: :atomics.get(ref, @refused)

  def set_retry_after(ref, ms), do: :atomics.put(ref, @retry_after, ms)

  defp not_up(ref) do
    case state(ref) do
      :closing -> Error.exception(reason: :closing)
      state -> unavailable(state, retry_after(ref))
    end
  end

  def unavailable(:starting, ms) do
    Error.exception(
      reason: :unavailable,
      message: "sched-port is starting; come back later, or wait with unavailable: :wait",
      retry_after_ms: ms
    )
  end

  def unavailable(_down, ms) do
    Error.exception(
      reason: :unavailable,
      message:
        "sched-port ended and is being restarted; come back later, or wait with " <>
          "unavailable: :wait",
      retry_after_ms: ms
    )
  end

  def overloaded(ref, why) do
    Error.exception(
      reason: :overloaded,
      message:
        "the credit of the scheduler is used up: #{why}; come back later, or wait with " <>
          "overload: :wait",
      retry_after_ms: retry_after(ref)
    )
  end

  defp beyond_credit(bytes, limit) do
    Error.exception(
      reason: :too_large,
      message:
        "the request holds #{bytes} bytes, and the scheduler takes #{limit} altogether " <>
          "(the option arena_bytes of sched-port)"
    )
  end

  defp retry_after(ref), do: max(:atomics.get(ref, @retry_after), 1)
end
