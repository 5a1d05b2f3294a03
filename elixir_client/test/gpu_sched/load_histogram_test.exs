# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.LoadHistogramTest do
  # What is promised of the histogram, for random values of every size.
  use ExUnit.Case, async: true

  import Bitwise

  alias GpuSched.Load.{Histogram, Recorder}

  doctest GpuSched.Load.Histogram

  @seed 20_261_128

  # Lists of values of all magnitudes, the same in each run.
  defp samples(n) do
    random = :rand.seed_s(:exsss, @seed)

    {lists, _random} =
      Enum.map_reduce(1..n, random, fn _, random ->
        {size, random} = :rand.uniform_s(300, random)
        Enum.map_reduce(1..size, random, fn _, random -> value(random) end)
      end)

    lists
  end

  defp value(random) do
    {bits, random} = :rand.uniform_s(50, random)
    {value, random} = :rand.uniform_s(1 <<< bits, random)
    {value - 1, random}
  end

  defp of(values), do: Enum.reduce(values, Histogram.new(), &Histogram.add(&2, &1))

  # The nearest rank, of what was really there.
  defp exact(values, percent) do
    sorted = Enum.sort(values)
    Enum.at(sorted, max(trunc(Float.ceil(percent * length(values) / 100)), 1) - 1)
  end

  test "buckets follow one another without gap or overlap" do
    for index <- 0..6_000 do
      lowest = Histogram.lowest(index)
      assert Histogram.index(lowest) == index
      assert Histogram.index(Histogram.lowest(index + 1) - 1) == index
    end
  end

  test "no value is reported wrong by more than 1/256, and small ones are exact" do
    for values <- samples(60), v <- values do
      wrong = abs(Histogram.middle(Histogram.index(v)) - v)
      if v < 256, do: assert(wrong == 0), else: assert(wrong * 256 <= v)
    end
  end

  test "percentiles are those of a sorted list, but for that" do
    for values <- samples(60), percent <- [0.1, 1, 25, 50, 75, 90, 99, 99.9, 100] do
      exact = exact(values, percent)
      assert abs(Histogram.percentile(of(values), percent) - exact) * 256 <= exact
    end
  end

  test "several percentiles are the same as each of them" do
    for values <- samples(20) do
      h = of(values)
      percents = [1, 50, 50, 90, 99.99]

      assert Histogram.percentiles(h, percents) ==
               Enum.map(percents, &Histogram.percentile(h, &1))
    end
  end

  test "what is known exactly is exact" do
    for values <- samples(40) do
      h = of(values)
      assert h.count == length(values)
      assert {h.min, h.max} == Enum.min_max(values)
      assert Histogram.mean(h) == Enum.sum(values) / length(values)
      assert Histogram.percentile(h, 100) == Enum.max(values)
      assert Histogram.percentile(h, 0) == Enum.min(values)
      assert h |> Histogram.buckets() |> Enum.map(&elem(&1, 2)) |> Enum.sum() == length(values)
    end
  end

  test "merging is adding all of them, in any order" do
    for [a, b, c] <- samples(60) |> Enum.chunk_every(3) do
      whole = of(a ++ b ++ c)
      assert Histogram.merge([of(a), of(b), of(c)]) == whole
      assert Histogram.merge(Histogram.merge(of(c), of(a)), of(b)) == whole
      assert Histogram.merge(whole, Histogram.new()) == whole
    end
  end

  test "it goes into a file and comes back" do
    for values <- samples(20) do
      h = of(values)

      {:ok, read} =
        h
        |> Histogram.to_map()
        |> GpuSched.Json.encode()
        |> IO.iodata_to_binary()
        |> GpuSched.Json.decode()

      assert Histogram.from_map(read) == h
    end

    assert_raise ArgumentError, ~r/whose buckets hold 2/, fn ->
      Histogram.from_map(%{"buckets" => [[1, 2]], "buckets_per_octave" => 128, "count" => 3})
    end

    assert_raise ArgumentError, ~r/no histogram/, fn -> Histogram.from_map(%{"buckets" => []}) end
  end

  test "an empty one has no percentiles" do
    assert Histogram.percentile(Histogram.new(), 50) == nil
    assert Histogram.percentiles(Histogram.new(), [50, 99]) == [nil, nil]
    assert Histogram.mean(Histogram.new()) == nil
    assert Histogram.count_to(Histogram.new(), 5) == 0
  end

  test "values up to a limit are counted" do
    h = of(Enum.to_list(1..100))
    assert Histogram.count_to(h, 50) == 50
    assert Histogram.count_to(h, 0) == 0
    assert Histogram.count_to(h, 1_000_000) == 100
  end

  test "many processes add to one recorder, and it holds what all of them added" do
    recorder = Recorder.new()
    lists = samples(8)

    lists
    |> Enum.map(fn values ->
      Task.async(fn -> for v <- values, do: Recorder.record(recorder, rem(v, 1 <<< 41)) end)
    end)
    |> Task.await_many()

    assert Recorder.read(recorder) == of(for v <- Enum.concat(lists), do: rem(v, 1 <<< 41))
  end

  test "a recorder counts what is beyond its range, and less than nothing as nothing" do
    recorder = Recorder.new()
    Recorder.record(recorder, 1 <<< 60)
    Recorder.record(recorder, -5)
    h = Recorder.read(recorder)
    assert {h.count, h.min, h.max, h.sum} == {2, 0, 1 <<< 60, 1 <<< 60}
    assert Recorder.read(Recorder.new()) == Histogram.new()
  end
end
