# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.JobLink do
  # What the owner of the port does about jobs: it hands what it hears of them to the table, and
  # cancels those whose owner is gone, where they are to end with it.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1]

  alias GpuSched.{Msgpack, Owners, Protocol}
  alias GpuSched.Jobs.Table
  alias GpuSched.Server.{Lifecycle, State, Watch}

  # The port took it in, or did not. The caller gets its id. Where nobody waits for that any more
  # nobody will ever know it: the job is cancelled.
  @spec submitted(State.t(), State.entry(), boolean, binary) :: {State.t(), binary}
  def submitted(state, entry(to: to, owner: owner), link?, payload) do
    case Protocol.result(payload) do
      {:ok, %{"job" => number}} when is_integer(number) and to == nil ->
        {cancel(state, number), payload}

      {:ok, %{"job" => number}} when is_integer(number) ->
        id = Table.submitted(state.ctx.jobs, number)
        state = if link?, do: link(state, number, owner), else: state
        {state, Protocol.answer(id)}

      {:ok, _other} ->
        {Lifecycle.give_port_up(state, "it answered a submit without a job"), payload}

      {:error, _refused} ->
        {state, payload}
    end
  end

  # The owner is watched as long as the job lives.
  defp link(state, number, owner) do
    state = Watch.track(state, owner)
    %{state | linked: Map.put(state.linked, number, owner)}
  end

  defp cancel(state, number) do
    params = [Msgpack.map_header(1), Msgpack.str("job"), Msgpack.int(number)]
    Lifecycle.own_call(state, "cancel_job", 1, params, :cancel_job)
  end

  @spec event(State.t(), map) :: State.t()
  def event(state, event) do
    Table.event(state.ctx.jobs, event)
    if event["state"] == "ended", do: unlink(state, event["job"]), else: state
  end

  defp unlink(state, number) do
    case Map.pop(state.linked, number) do
      {nil, _linked} -> state
      {owner, linked} -> %{state | linked: linked, owners: Owners.untrack(state.owners, owner)}
    end
  end

  # It will hear of their ends, and then let go of them.
  @spec owners_down(State.t(), %{pid => true}) :: State.t()
  def owners_down(state, dead) do
    for {number, owner} <- state.linked, is_map_key(dead, owner), reduce: state do
      state -> cancel(%{state | linked: Map.delete(state.linked, number)}, number)
    end
  end

  @spec lost(State.t(), String.t()) :: State.t()
  def lost(state, why) do
    Table.lost(state.ctx.jobs, why)
    Enum.reduce(Map.keys(state.linked), state, fn number, state -> unlink(state, number) end)
  end
end
