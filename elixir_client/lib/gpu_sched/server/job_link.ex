# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.JobLink do
  # What the owner of the port does about jobs: it hands what it hears of them to the table, and
  # cancels those whose owner is gone, where they are to end with it.
  @moduledoc false

  import GpuSched.Server.State, only: [entry: 1]

  alias GpuSched.{Msgpack, Owners, Protocol}
  alias GpuSched.Jobs.Table
  alias GpuSched.Server.{Lifecycle, State, Watch}

  # The port took it in. Where nobody waits for its id any more nobody will ever know it: it is
  # cancelled.
  @spec submitted(State.t(), State.entry(), pos_integer, boolean, binary) :: State.t()
  def submitted(state, entry(to: to, owner: owner), number, link?, payload) do
    {:ok, %{"job" => port_id}} = Protocol.result(payload)

    cond do
      is_nil(to) -> cancel(state, port_id)
      link? -> state |> known(number, port_id) |> link(port_id, owner)
      true -> known(state, number, port_id)
    end
  end

  defp known(state, number, port_id) do
    Table.submitted(state.ctx.jobs, number, port_id)
    state
  end

  # The owner is watched as long as the job lives.
  defp link(state, port_id, owner) do
    state = Watch.track(state, owner)
    %{state | linked: Map.put(state.linked, port_id, owner)}
  end

  defp cancel(state, port_id) do
    params = [Msgpack.map_header(1), Msgpack.str("job"), Msgpack.int(port_id)]
    Lifecycle.own_call(state, "cancel_job", 1, params, :cancel_job)
  end

  @spec event(State.t(), map) :: State.t()
  def event(state, event) do
    Table.event(state.ctx.jobs, event)
    if event["state"] == "ended", do: unlink(state, event["job"]), else: state
  end

  defp unlink(state, port_id) do
    case Map.pop(state.linked, port_id) do
      {nil, _linked} -> state
      {owner, linked} -> %{state | linked: linked, owners: Owners.untrack(state.owners, owner)}
    end
  end

  # It will hear of their ends, and then let go of them.
  @spec owners_down(State.t(), %{pid => true}) :: State.t()
  def owners_down(state, dead) do
    for {port_id, owner} <- state.linked, is_map_key(dead, owner), reduce: state do
      state -> cancel(%{state | linked: Map.delete(state.linked, port_id)}, port_id)
    end
  end

  @spec lost(State.t(), String.t()) :: State.t()
  def lost(state, why) do
    Table.lost(state.ctx.jobs, why)
    Enum.reduce(Map.keys(state.linked), state, fn port_id, state -> unlink(state, port_id) end)
  end
end
