# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Histogram do
  @moduledoc """
  How often which value came, of non-negative integers over any range, with a bounded relative
  error; two of them can be merged without losing anything.

  A value below 128 has a bucket of its own. Above, each power of two is divided into 128 buckets of
  equal width: those from 2^k to 2^(k+1) are 2^(k-7) wide. A bucket is reported as the value in its
  middle, so whatever is read off, except for `min`, `max` and the mean, which are exact, is wrong by
  at most 1/256 of itself (0.4 %) and by nothing below 128. A bucket's number is

      v                               where v < 128
      128 * e + floor(v / 2^e)        where 2^(e+7) <= v < 2^(e+8)

  Only buckets that hold something are kept. Which unit the values have is up to the user: those of
  `GpuSched.Load` are nanoseconds.

      iex> alias GpuSched.Load.Histogram
      iex> a = Enum.reduce(1..1_000, Histogram.new(), &Histogram.add(&2, &1))
      iex> b = Histogram.add(Histogram.new(), 1_000_000, 10)
      iex> both = Histogram.merge(a, b)
      iex> {both.count, both.max, Histogram.percentile(both, 50)}
      {1010, 1000000, 504}
  """

  import Bitwise

  @bits 7
  @sub 128

  defstruct counts: %{}, count: 0, sum: 0, min: nil, max: nil

  @type t :: %__MODULE__{
          counts: %{non_neg_integer => pos_integer},
          count: non_neg_integer,
          sum: non_neg_integer,
          min: non_neg_integer | nil,
          max: non_neg_integer | nil
        }

  @doc "An empty one."
  @spec new :: t
  def new, do: %__MODULE__{}

  @doc "With a value, or `n` times that value, more."
  @spec add(t, non_neg_integer, non_neg_integer) :: t
  def add(histogram, value, n \\ 1)
  def add(%__MODULE__{} = h, _value, 0), do: h

  def add(%__MODULE__{} = h, value, n)
      when is_integer(value) and value >= 0 and is_integer(n) and n > 0 do
    %__MODULE__{
      counts: Map.update(h.counts, index(value), n, &(&1 + n)),
      count: h.count + n,
      sum: h.sum + value * n,
      min: least(h.min, value),
      max: most(h.max, value)
    }
  end

  @doc "What both hold."
  @spec merge(t, t) :: t
  def merge(%__MODULE__{} = a, %__MODULE__{} = b) do
    %__MODULE__{
      counts: Map.merge(a.counts, b.counts, fn _index, n, m -> n + m end),
      count: a.count + b.count,
      sum: a.sum + b.sum,
      min: least(a.min, b.min),
      max: most(a.max, b.max)
    }
  end

  @doc "What all of a list hold."
  @spec merge([t]) :: t
  def merge(histograms) when is_list(histograms), do: Enum.reduce(histograms, new(), &merge/2)

  @doc """
  The value that `percent` of the values do not exceed (the nearest rank); `nil` where there is none.
  """
  @spec percentile(t, number) :: non_neg_integer | nil
  def percentile(%__MODULE__{count: 0}, _percent), do: nil
  def percentile(%__MODULE__{min: min}, percent) when percent <= 0, do: min
  def percentile(%__MODULE__{max: max}, percent) when percent >= 100, do: max

  def percentile(%__MODULE__{} = h, percent) do
    [value] = percentiles(h, [percent])
    value
  end

  @doc "Several percentiles, of a list that ascends."
  @spec percentiles(t, [number]) :: [non_neg_integer | nil]
  def percentiles(%__MODULE__{count: 0}, percents), do: Enum.map(percents, fn _ -> nil end)

  def percentiles(%__MODULE__{} = h, percents) do
    ranks = Enum.map(percents, &rank(&1, h.count))
    h.counts |> Enum.sort() |> at_ranks(ranks, 0, h)
  end

  # Whatever comes of rounding, the last value is reached by 100 % alone and the first is one.
  defp rank(percent, count), do: (percent * count / 100) |> Float.ceil() |> trunc() |> max(1)

  # The value of that rank, the least being the first.
  @doc false
  @spec at_rank(t, pos_integer) :: non_neg_integer
  def at_rank(%__MODULE__{count: n, max: max}, rank) when rank >= n, do: max

  def at_rank(%__MODULE__{} = h, rank) do
    [value] = h.counts |> Enum.sort() |> at_ranks([rank], 0, h)
    value
  end

  defp at_ranks(_buckets, [], _below, _h), do: []

  defp at_ranks([{index, n} | rest] = buckets, [rank | ranks], below, h) do
    if below + n >= rank or rest == [] do
      value = index |> middle() |> max(h.min) |> min(h.max)
      [value | at_ranks(buckets, ranks, below, h)]
    else
      at_ranks(rest, [rank | ranks], below + n, h)
    end
  end

  @doc "The mean, exact; `nil` where there is nothing."
  @spec mean(t) :: float | nil
  def mean(%__MODULE__{count: 0}), do: nil
  def mean(%__MODULE__{sum: sum, count: count}), do: sum / count

  @doc """
  How many values are not above `value`. Those in the bucket of `value` count as if it were above
  them where it is above the middle, so this is wrong by what is in that bucket at most.
  """
  @spec count_to(t, non_neg_integer) :: non_neg_integer
  def count_to(%__MODULE__{max: max, count: count}, value) when max != nil and value >= max,
    do: count

  def count_to(%__MODULE__{counts: counts}, value) do
    for {index, n} <- counts, middle(index) <= value, reduce: 0 do
      sum -> sum + n
    end
  end

  @doc "The buckets that hold something, ascending: `{the least value, the greatest, how many}`."
  @spec buckets(t) :: [{non_neg_integer, non_neg_integer, pos_integer}]
  def buckets(%__MODULE__{counts: counts}) do
    for {index, n} <- Enum.sort(counts), do: {lowest(index), lowest(index + 1) - 1, n}
  end

  @doc "As maps, lists and numbers, for a file; `from_map/1` takes it back."
  @spec to_map(t) :: map
  def to_map(%__MODULE__{} = h) do
    %{
      "count" => h.count,
      "sum" => h.sum,
      "min" => h.min,
      "max" => h.max,
      "buckets_per_octave" => @sub,
      "buckets" => for({index, n} <- Enum.sort(h.counts), do: [index, n])
    }
  end

  @doc "What `to_map/1` made; raises an `ArgumentError` where that is something else."
  @spec from_map(map) :: t
  def from_map(%{"buckets" => buckets, "buckets_per_octave" => @sub} = map)
      when is_list(buckets) do
    counts =
      Map.new(buckets, fn
        [index, n] when is_integer(index) and index >= 0 and is_integer(n) and n > 0 ->
          {index, n}

        other ->
          raise ArgumentError, "a bucket is [number, count]; got #{inspect(other, limit: 5)}"
      end)

    count = counts |> Map.values() |> Enum.sum()

    unless map["count"] == count do
      raise ArgumentError,
            "a histogram of #{inspect(map["count"])} values whose buckets hold #{count}"
    end

    for key <- ["sum", "min", "max"], value = map[key], not is_integer(value) do
      raise ArgumentError,
            "the #{key} of a histogram is an integer; got #{inspect(value, limit: 5)}"
    end

    if count > 0 and (map["min"] == nil or map["max"] == nil),
      do: raise(ArgumentError, "a histogram of #{count} values that has no min or no max")

    %__MODULE__{
      counts: counts,
      count: count,
      sum: map["sum"] || 0,
      min: map["min"],
      max: map["max"]
    }
  end

  def from_map(other) do
    raise ArgumentError,
          "no histogram of #{@sub} buckets per octave: #{inspect(other, limit: 5)}"
  end

  # ---- buckets

  @doc false
  @spec index(non_neg_integer) :: non_neg_integer
  def index(value) when value < @sub, do: value

  def index(value) do
    e = highest_bit(value) - @bits
    (e <<< @bits) + (value >>> e)
  end

  @doc false
  @spec lowest(non_neg_integer) :: non_neg_integer
  def lowest(index) when index < 2 * @sub, do: index
  def lowest(index), do: ((index &&& @sub - 1) + @sub) <<< ((index >>> @bits) - 1)

  @doc false
  @spec middle(non_neg_integer) :: non_neg_integer
  def middle(index), do: (lowest(index) + lowest(index + 1) - 1) |> div(2)

  # The number of the highest bit that is set, by halving.
  defp highest_bit(v) when v >= 1 <<< 56, do: 56 + highest_bit(v >>> 56)
  defp highest_bit(v) when v >= 1 <<< 32, do: 32 + bit_24(v >>> 32)
  defp highest_bit(v), do: bit_32(v)

  defp bit_32(v) when v >= 1 <<< 16, do: 16 + bit_16(v >>> 16)
  defp bit_32(v), do: bit_16(v)
  defp bit_24(v) when v >= 1 <<< 16, do: 16 + bit_8(v >>> 16)
  defp bit_24(v), do: bit_16(v)
  defp bit_16(v) when v >= 1 <<< 8, do: 8 + bit_8(v >>> 8)
  defp bit_16(v), do: bit_8(v)
  defp bit_8(v) when v >= 1 <<< 4, do: 4 + bit_4(v >>> 4)
  defp bit_8(v), do: bit_4(v)
  defp bit_4(v) when v >= 8, do: 3
  defp bit_4(v) when v >= 4, do: 2
  defp bit_4(v) when v >= 2, do: 1
  defp bit_4(_v), do: 0

  defp least(nil, b), do: b
  defp least(a, nil), do: a
  defp least(a, b), do: min(a, b)
  defp most(nil, b), do: b
  defp most(a, nil), do: a
  defp most(a, b), do: max(a, b)
end
