# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Credit do
  # Those who wait for credit, and credit that was taken for a request which has not come yet,
  # because its caller was told to go on, or writes its tensors. It is given back when the owner dies,
  # and when the request does not come.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1]

  alias GpuSched.{Admission, Error, Owners}
  alias GpuSched.Server.{State, Watch}

  # For how many ticks credit has to be nobody's before it is given back.
  @leak_ticks 5

  @spec grant_waiting(State.t()) :: State.t()
  def grant_waiting(%{waiting: waiting} = state) when map_size(waiting) == 0, do: state
  def grant_waiting(%{status: status} = state) when status != :up, do: state

  # In the order in which they came; those that gave up have left their ticket in the queue.
  def grant_waiting(state) do
    case :queue.out(state.queue) do
      {:empty, _queue} ->
        state

      {{:value, ticket}, queue} ->
        case state.waiting do
          %{^ticket => {to, owner, bytes}} -> grant_one(state, queue, ticket, to, owner, bytes)
          _ -> grant_waiting(%{state | queue: queue})
        end
    end
  end

  defp grant_one(state, queue, ticket, to, owner, bytes) do
    case Admission.take_credit(state.counters, bytes) do
      :ok ->
        State.reply(to, :granted)
        Admission.add_waiting(state.counters, -1)

        # The owner is tracked already: the reservation inherits it.
        grant_waiting(%{
          state
          | queue: queue,
            waiting: Map.delete(state.waiting, ticket),
            reservations: Map.put(state.reservations, ticket, reservation(state, owner, bytes))
        })

      {:error, %{reason: :too_large} = error} ->
        State.reply(to, {:error, error})
        grant_waiting(forget_waiting(%{state | queue: queue}, ticket))

      {:error, _not_yet} ->
        state
    end
  end

  @spec refuse_waiting(State.t(), State.ticket(), tuple) :: State.t()
  def refuse_waiting(state, ticket, {to, _owner, _bytes}) do
    State.reply(to, {:error, Error.exception(reason: :closing)})
    forget_waiting(state, ticket)
  end

  @spec forget_waiting(State.t(), State.ticket()) :: State.t()
  def forget_waiting(state, ticket) do
    case Map.pop(state.waiting, ticket) do
      {nil, _waiting} ->
        state

      {{_to, owner, _bytes}, waiting} ->
        Admission.add_waiting(state.counters, -1)
        %{state | waiting: waiting, owners: Owners.untrack(state.owners, owner)}
    end
  end

  defp reservation(state, owner, bytes),
    do: {owner, bytes, Admission.generation(state.counters), State.now_ms()}

  @spec reserve_for_lease(State.t(), term, pid) :: State.t()
  def reserve_for_lease(state, {:lease, {ticket, bytes}}, owner) do
    if is_map_key(state.reservations, ticket) do
      state
    else
      state = Watch.track(state, owner)

      %{
        state
        | reservations: Map.put(state.reservations, ticket, reservation(state, owner, bytes))
      }
    end
  end

  def reserve_for_lease(state, _kind, _owner), do: state

  # From here it has as long as the lease itself.
  @spec keep_reservation(State.t(), State.ticket()) :: State.t()
  def keep_reservation(state, ticket) do
    case state.reservations do
      %{^ticket => {owner, bytes, _generation, _since}} ->
        put_in(state.reservations[ticket], reservation(state, owner, bytes))

      _ ->
        state
    end
  end

  # Its request has come, which takes the credit over.
  @spec settle(State.t(), State.ticket() | nil, non_neg_integer) :: State.t()
  def settle(state, nil, _bytes), do: state

  def settle(state, ticket, bytes) do
    case state.reservations do
      %{^ticket => {_owner, ^bytes, _generation, _since}} ->
        state

      %{^ticket => {_owner, reserved, _generation, _since}} ->
        :ok = Admission.take_anyway(state.counters, bytes)
        Admission.give(state.counters, 1, reserved)
        state

      _ ->
        Admission.take_anyway(state.counters, bytes)
        state
    end
  end

  @spec lease_valid?(State.t(), State.ticket()) :: boolean
  def lease_valid?(state, ticket) do
    case state.reservations do
      %{^ticket => {_owner, _bytes, generation, _since}} ->
        state.status == :up and generation == Admission.generation(state.counters)

      _ ->
        false
    end
  end

  @spec forget_reservation(State.t(), State.ticket() | nil) :: State.t()
  def forget_reservation(state, nil), do: state

  def forget_reservation(state, ticket) do
    case Map.pop(state.reservations, ticket) do
      {nil, _reservations} ->
        state

      {{owner, _bytes, _generation, _since}, reservations} ->
        %{state | reservations: reservations, owners: Owners.untrack(state.owners, owner)}
    end
  end

  @spec release_reservation(State.t(), State.ticket()) :: State.t()
  def release_reservation(state, ticket) do
    case state.reservations do
      %{^ticket => {_owner, bytes, _generation, _since}} ->
        state = forget_reservation(state, ticket)
        %{state | free_requests: state.free_requests + 1, free_bytes: state.free_bytes + bytes}

      _ ->
        state
    end
  end

  @spec expire_reservations(State.t()) :: State.t()
  def expire_reservations(state) do
    before = State.now_ms() - 60_000

    for {ticket, {_owner, _bytes, _generation, since}} <- state.reservations,
        since < before,
        reduce: state do
      state -> release_reservation(state, ticket)
    end
  end

  # How long until a good part of what is in flight is done, at the rate of the last tick.
  @spec estimate_retry(State.t()) :: State.t()
  def estimate_retry(%{status: :up} = state) do
    {requests, _bytes} = Admission.taken(state.counters)
    ms = div(requests * State.tick_ms(state), 4 * max(state.done, 1))
    Admission.set_retry_after(state.counters, ms |> max(1) |> min(1_000))
    %{state | done: 0}
  end

  def estimate_retry(state), do: state

  # A caller that was killed between taking its credit and sending its request took it along. What is
  # taken and not ours, at the least over a few ticks, belongs to nobody. Where that was wrong, the
  # caller having been asleep for so long, there is less taken than is ours as soon as it sends.
  # Requests that lie in the mailbox are somebody's: while there are messages, nothing is concluded.
  @spec find_leak(State.t()) :: State.t()
  def find_leak(state) do
    {requests, bytes} = Admission.taken(state.counters)
    {our_requests, our_bytes} = credit_in_flight(state)
    over = {requests - our_requests - state.free_requests, bytes - our_bytes - state.free_bytes}

    case {over, state.leak} do
      {{0, 0}, _} ->
        %{state | leak: nil}

      {{r, b}, _} when r < 0 or b < 0 ->
        Admission.give(state.counters, min(r, 0), min(b, 0))
        %{state | leak: nil}

      {over, leak} ->
        if Process.info(self(), :message_queue_len) == {:message_queue_len, 0},
          do: watch_leak(state, over, leak),
          else: state
    end
  end

  defp watch_leak(state, over, nil), do: %{state | leak: {1, over}}

  defp watch_leak(state, {r, b}, {n, {r0, b0}}) when n < @leak_ticks,
    do: %{state | leak: {n + 1, {min(r, r0), min(b, b0)}}}

  # Given back as if a request had ended, so that those who wait for it get it.
  defp watch_leak(state, {r, b}, {_n, {r0, b0}}) do
    free_requests = state.free_requests + min(r, r0)
    free_bytes = state.free_bytes + min(b, b0)
    %{state | leak: nil, free_requests: free_requests, free_bytes: free_bytes}
  end

  defp credit_in_flight(state) do
    sum = fn b, {n, sum} -> {n + 1, sum + b} end

    acc =
      for {_id, entry(bytes: b)} when is_integer(b) <- state.pending,
          reduce: {0, 0},
          do: (acc -> sum.(b, acc))

    for {_t, {_o, b, _g, _s}} <- state.reservations, reduce: acc, do: (acc -> sum.(b, acc))
  end
end
