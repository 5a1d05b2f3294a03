# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Server.Overload do
  # That callers are refused for want of credit is seen here, since they do not get as far as the port;
  # that others are refused there, the port tells.
  @moduledoc false

  alias GpuSched.{Admission, Events}
  alias GpuSched.Server.State

  # So long nobody may be refused before it is over.
  @quiet_ms 1_000

  # Called at each tick.
  @spec look(State.t()) :: State.t()
  def look(state) do
    refused = Admission.refused(state.counters)
    now = State.now_ms()

    case state.overload do
      nil when refused > state.refused ->
        tell(state, "begun", refused - state.refused)
        %{state | overload: {state.refused, now}, refused: refused}

      {since, _last} when refused > state.refused ->
        %{state | overload: {since, now}, refused: refused}

      {since, last} when now - last >= @quiet_ms ->
        tell(state, "over", refused - since)
        %{state | overload: nil}

      _ ->
        state
    end
  end

  defp tell(state, what, n) do
    Events.overload(state.ctx.events, self(), %{
      "state" => what,
      "refused" => n,
      "at" => "credit"
    })
  end
end
