# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Web.Cache do
  # What was answered a moment ago, for everybody who asks now: many who look at the page cost the
  # scheduler as much as two a second.
  @moduledoc false

  @fresh_ms 500

  @spec new :: :ets.table()
  def new, do: :ets.new(:gpu_sched_web, [:public, :set])

  # `make` answers {:ok, value}, which is kept, or what is not.
  @spec fetch(:ets.table(), term, integer, (() -> {:ok, term} | term)) :: {:ok, term} | term
  def fetch(table, key, now_ms, make) do
    case :ets.lookup(table, key) do
      [{^key, at, value}] when now_ms - at < @fresh_ms -> {:ok, value}
      _old -> keep(table, key, now_ms, make.())
    end
  end

  defp keep(table, key, now_ms, {:ok, value}) do
    :ets.insert(table, {key, now_ms, value})
    {:ok, value}
  end

  defp keep(_table, _key, _now_ms, other), do: other
end
