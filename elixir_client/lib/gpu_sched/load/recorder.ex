# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Recorder do
  # A histogram that many processes add to at once, for as long as a run takes: its buckets are
  # counters in memory that they share. What is beyond the range is counted in the last bucket, and
  # its exact value still in the sum and the extremes.
  @moduledoc false

  import Bitwise

  alias GpuSched.Load.Histogram

  # 73 minutes, in nanoseconds.
  @beyond 1 <<< 42
  @last 35 * 128 + 255

  @sum 1
  @max 2
  # The least, counted from the top, so that nothing yet is 0.
  @min 3
  @top (1 <<< 62) - 1

  @type t :: {:counters.counters_ref(), :atomics.atomics_ref()}

  @spec new :: t
  def new, do: {:counters.new(@last + 1, [:atomics]), :atomics.new(3, signed: true)}

  @spec record(t, integer) :: :ok
  def record({counts, extremes}, value) do
    value = max(value, 0)
    index = if value < @beyond, do: Histogram.index(value), else: @last
    :counters.add(counts, index + 1, 1)
    :atomics.add(extremes, @sum, value)
    raise_to(extremes, @max, value)
    raise_to(extremes, @min, @top - value)
  end

  defp raise_to(extremes, slot, value) do
    case :atomics.get(extremes, slot) do
      now when now >= value -> :ok
      now -> exchange(extremes, slot, now, value)
    end
  end

  defp exchange(extremes, slot, now, value) do
    case :atomics.compare_exchange(extremes, slot, now, value) do
      :ok -> :ok
      other when other >= value -> :ok
      other -> exchange(extremes, slot, other, value)
    end
  end

  # What it holds; consistent once nobody adds any more.
  @spec read(t) :: Histogram.t()
  def read({counts, extremes}) do
    buckets = for index <- 0..@last, n = :counters.get(counts, index + 1), n > 0, do: {index, n}

    case buckets do
      [] ->
        Histogram.new()

      _ ->
        %Histogram{
          counts: Map.new(buckets),
          count: buckets |> Enum.map(&elem(&1, 1)) |> Enum.sum(),
          sum: :atomics.get(extremes, @sum),
          min: @top - :atomics.get(extremes, @min),
          max: :atomics.get(extremes, @max)
        }
    end
  end
end
