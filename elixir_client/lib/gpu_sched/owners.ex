# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Owners do
  # The owners of what is in flight, each with how it is watched and how much it has under way. A
  # watch outlives the request that began it: a process that makes one request after the other is
  # watched once. Those that have been idle for a while are let go by sweep/1.
  @moduledoc false

  @typep watch :: reference | :relay
  @type t :: %{pid => {watch, non_neg_integer} | {watch, 0, :idle}}

  # One more of `owner`; `watch` is called for one that is new. nil is nobody's.
  @spec track(t, pid | nil, (pid -> watch)) :: t
  def track(owners, nil, _watch), do: owners

  def track(owners, owner, watch) do
    case owners do
      %{^owner => {how, count}} -> %{owners | owner => {how, count + 1}}
      %{^owner => {how, 0, :idle}} -> %{owners | owner => {how, 1}}
      _ -> Map.put(owners, owner, {watch.(owner), 1})
    end
  end

  @spec untrack(t, pid | nil) :: t
  def untrack(owners, owner) do
    case owners do
      %{^owner => {how, count}} when count > 0 -> %{owners | owner => {how, count - 1}}
      _ -> owners
    end
  end

  # One that died: how much it had under way.
  @spec drop(t, pid) :: {non_neg_integer, t}
  def drop(owners, owner) do
    case Map.pop(owners, owner) do
      {nil, owners} -> {0, owners}
      {watched, owners} -> {elem(watched, 1), owners}
    end
  end

  # Those that were idle at the last sweep already are let go, and answered where somebody else
  # has to stop watching.
  @spec sweep(t) :: {[{pid, watch}], t}
  def sweep(owners) do
    Enum.reduce(owners, {[], owners}, fn
      {pid, {how, 0, :idle}}, {gone, owners} ->
        if is_reference(how), do: Process.demonitor(how, [:flush])
        {[{pid, how} | gone], Map.delete(owners, pid)}

      {pid, {how, 0}}, {gone, owners} ->
        {gone, %{owners | pid => {how, 0, :idle}}}

      _, acc ->
        acc
    end)
  end

  @spec on(t, node) :: [pid]
  def on(owners, node), do: for({pid, _} <- owners, node(pid) == node, do: pid)

  # Of those that have something under way, how much, by their nodes.
  @spec counts(t) :: [{node, [pos_integer]}]
  def counts(owners) do
    busy = for {pid, watched} <- owners, elem(watched, 1) > 0, do: {node(pid), elem(watched, 1)}
    busy |> Enum.group_by(&elem(&1, 0), &elem(&1, 1)) |> Enum.sort()
  end

  @spec nodes(t) :: [node]
  def nodes(owners), do: for({pid, _} <- owners, node(pid) != node(), uniq: true, do: node(pid))
end
