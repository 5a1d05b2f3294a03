# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Web.Cache do
  # What was answered a moment ago, for everybody who asks now: many who look at the page cost the
  # scheduler no more than one who asks every `fresh_ms`.
  @moduledoc false

  @spec new(non_neg_integer) :: :ets.table()
  def new(fresh_ms) do
    table = :ets.new(:gpu_sched_web, [:public, :set])
    :ets.insert(table, {:fresh_ms, fresh_ms})
    table
  end

  # `make` answers {:ok, value}, which is kept, or what is not.
  @spec fetch(:ets.table(), term, integer, (() -> {:ok, term} | term)) :: {:ok, term} | term
  def fetch(table, key, now_ms, make) do
    [fresh_ms: fresh_ms] = :ets.lookup(table, :fresh_ms)

    case :ets.lookup(table, key) do
      [{^key, at, value}] when now_ms - at < fresh_ms -> {:ok, value}
      _old -> keep(table, key, now_ms, make.())
    end
  end

  defp keep(table, key, now_ms, {:ok, value}) do
    :ets.insert(table, {key, now_ms, value})
    {:ok, value}
  end

  defp keep(_table, _key, _now_ms, other), do: other
end
