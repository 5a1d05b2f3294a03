# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Many do
  # One request for each element of an enumerable, a bounded number of them in flight, all from the
  # process that enumerates. On this node they are sent without a process between; to another node
  # each is a GpuSched.Async.
  @moduledoc false

  alias GpuSched.{Async, Local, Options, Request, Resolve}

  # `order` has the references in the order of the inputs, which is that of their deadlines;
  # `flying` what is in flight, `done` the results that wait for their turn.
  defstruct [:server, :model, :opts, next: 0, order: :queue.new(), flying: %{}, done: %{}]

  @spec new(GenServer.server(), term, Enumerable.t(), Options.t()) :: Enumerable.t()
  def new(server, model, enumerable, opts) do
    Stream.transform(
      enumerable,
      fn -> %__MODULE__{server: server, model: model, opts: opts} end,
      &add/2,
      &finish/1,
      &cancel/1
    )
  end

  defp add(inputs, state) do
    state = begin(state, inputs)
    if full?(state), do: emit(wait(state)), else: emit(poll(state))
  end

  # Results that wait for their turn are memory as well.
  defp full?(state),
    do: map_size(state.flying) + map_size(state.done) >= state.opts.max_concurrency

  defp begin(state, inputs) do
    index = state.next
    state = %{state | next: index + 1}

    case start(state, inputs) do
      {:ok, request} ->
        %{
          state
          | flying: Map.put(state.flying, request.ref, {index, request}),
            order: :queue.in({index, request.ref}, state.order)
        }

      {:error, error} ->
        finished = {:error, error}

        %{
          state
          | done: Map.put(state.done, index, finished),
            order: :queue.in({index, nil}, state.order)
        }
    end
  end

  defp start(%{server: :any, model: model, opts: opts}, inputs),
    do: {:ok, Async.start(:any, model, inputs, opts)}

  defp start(%{server: server, model: model, opts: opts}, inputs) do
    case Resolve.server(server) do
      {:local, ctx} -> Local.begin(ctx, model, inputs, opts)
      {:remote, _node, _name} -> {:ok, Async.start(server, model, inputs, opts)}
      {:error, error} -> {:error, error}
    end
  end

  # Takes what has come; waits for nothing.
  defp poll(state) do
    case take(state, 0) do
      {:ok, state} -> poll(state)
      :nothing -> state
    end
  end

  # Until something can be emitted.
  defp wait(state) do
    if ready?(state) do
      state
    else
      case take(state, next_deadline(state)) do
        {:ok, state} -> wait(state)
        :nothing -> wait(expire(state))
      end
    end
  end

  defp take(%{flying: flying} = state, timeout) do
    receive do
      {ref, payload} when is_map_key(flying, ref) ->
        {:ok, arrived(state, ref, payload)}

      {:DOWN, ref, :process, _, reason} when is_map_key(flying, ref) ->
        {:ok, died(state, ref, reason)}
    after
      timeout -> :nothing
    end
  end

  defp arrived(state, ref, payload) do
    {{index, request}, flying} = Map.pop!(state.flying, ref)
    %{state | flying: flying, done: Map.put(state.done, index, result(request, payload))}
  end

  defp result(%Local{} = request, payload) do
    Local.close(request)
    Local.finish(payload, request.output)
  end

  defp result(%Request{}, result), do: result

  defp died(state, ref, reason) do
    {{index, request}, flying} = Map.pop!(state.flying, ref)
    if match?(%Local{}, request), do: Local.close(request)

    %{
      state
      | flying: flying,
        done: Map.put(state.done, index, {:error, Local.server_down(reason)})
    }
  end

  # An async ends by itself when its time is over.
  defp next_deadline(state) do
    case oldest(state) do
      {_index, %Local{deadline: deadline}} -> Local.remaining(deadline)
      _ -> :infinity
    end
  end

  defp expire(state) do
    case oldest(state) do
      {index, %Local{} = request} ->
        Local.cancel(request)
        error = {:error, Local.timed_out(state.opts.timeout)}

        %{
          state
          | flying: Map.delete(state.flying, request.ref),
            done: Map.put(state.done, index, error)
        }

      _ ->
        state
    end
  end

  defp oldest(%{order: order, flying: flying}) do
    case :queue.out(order) do
      {{:value, {_index, ref}}, rest} ->
        Map.get(flying, ref) || oldest(%{order: rest, flying: flying})

      {:empty, _} ->
        nil
    end
  end

  defp ready?(%{opts: %{ordered: false}, done: done}), do: map_size(done) > 0

  defp ready?(%{order: order, done: done}) do
    case :queue.peek(order) do
      {:value, {index, _ref}} -> is_map_key(done, index)
      :empty -> true
    end
  end

  # What can be emitted now.
  defp emit(state), do: emit(state, [])

  defp emit(%{opts: %{ordered: false}} = state, []) do
    results = for {index, result} <- state.done, do: {index, result}
    {results, trim(%{state | done: %{}})}
  end

  defp emit(state, acc) do
    with {:value, {index, _ref}} <- :queue.peek(state.order),
         {:ok, result} <- Map.fetch(state.done, index) do
      state = %{state | order: :queue.drop(state.order), done: Map.delete(state.done, index)}
      emit(state, [result | acc])
    else
      _ -> {:lists.reverse(acc), state}
    end
  end

  # Without an order, the queue is there for the deadlines alone.
  defp trim(state) do
    case :queue.peek(state.order) do
      {:value, {_index, ref}} when not is_map_key(state.flying, ref) ->
        trim(%{state | order: :queue.drop(state.order)})

      _ ->
        state
    end
  end

  # The inputs are at their end: what is still in flight, as it comes. cancel/1 gets the state as it
  # is here and cancels everything in it afterwards; for a request that has ended that does nothing.
  defp finish(state) do
    rest =
      Stream.unfold(state, fn state ->
        if map_size(state.flying) + map_size(state.done) == 0 do
          nil
        else
          emit(wait(state))
        end
      end)

    {Stream.flat_map(rest, & &1), state}
  end

  defp cancel(state) do
    Enum.each(state.flying, fn
      {_ref, {_index, %Local{} = request}} -> Local.cancel(request)
      {_ref, {_index, %Request{} = request}} -> Async.cancel(request)
    end)
  end
end
