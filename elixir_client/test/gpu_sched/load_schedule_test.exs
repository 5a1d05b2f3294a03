# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.LoadScheduleTest do
  # When requests are to be sent.
  use ExUnit.Case, async: true

  alias GpuSched.Load.{Schedule, Trace}

  defp times(schedule, n, acc \\ [])
  defp times(_schedule, 0, acc), do: Enum.reverse(acc)

  defp times(schedule, n, acc) do
    case Schedule.next(schedule) do
      {at, schedule} -> times(schedule, n - 1, [at | acc])
      :done -> Enum.reverse(acc)
    end
  end

  # Mean and coefficient of variation of the gaps.
  defp gaps(times) do
    gaps = [0 | times] |> Enum.zip_with(times, fn a, b -> b - a end)
    mean = Enum.sum(gaps) / length(gaps)
    variance = (gaps |> Enum.map(&((&1 - mean) ** 2)) |> Enum.sum()) / length(gaps)
    {mean, :math.sqrt(variance) / mean}
  end

  test "a constant one is even, and stays so" do
    assert times(Schedule.new(:constant, 1_000, 1), 4) == [0, 1_000_000, 2_000_000, 3_000_000]
    # A rate that is no round number does not drift.
    thirds = times(Schedule.new(:constant, 3, 1), 30_001)
    assert List.last(thirds) == 10_000_000_000_000
  end

  test "Poisson and Gamma have the rate and the burstiness that were asked for" do
    for {arrivals, cv} <- [
          {:poisson, 1.0},
          {{:gamma, 1}, 1.0},
          {{:gamma, 3}, 3.0},
          {{:gamma, 0.5}, 0.5}
        ] do
      {mean, measured} = Schedule.new(arrivals, 1_000, 7) |> times(40_000) |> gaps()
      # Three standard errors of the mean, and what is more than enough for the other.
      assert_in_delta mean, 1.0e6, 1.0e6 * 3 * cv / 200
      assert_in_delta measured, cv, cv * 0.12
    end

    assert times(Schedule.new({:gamma, 0}, 10, 1), 2) == [0, 100_000_000]
  end

  test "the gaps of a Poisson schedule are exponential" do
    times = times(Schedule.new(:poisson, 1_000, 3), 20_000)
    gaps = [0 | times] |> Enum.zip_with(times, fn a, b -> b - a end)

    for t <- [100_000, 700_000, 2_000_000] do
      share = Enum.count(gaps, &(&1 > t)) / length(gaps)
      assert_in_delta share, :math.exp(-t / 1.0e6), 0.012
    end
  end

  test "the same seed is the same schedule, another is another" do
    a = times(Schedule.new(:poisson, 100, 5), 50)
    assert a == times(Schedule.new(:poisson, 100, 5), 50)
    assert a != times(Schedule.new(:poisson, 100, 6), 50)
  end

  test "shares are the whole, each arrival once" do
    for arrivals <- [:constant, :poisson, {:gamma, 2}, {:replay, Enum.map(0..99, &(&1 / 7))}] do
      rate = if match?({:replay, _}, arrivals), do: nil, else: 500
      whole = times(Schedule.new(arrivals, rate, 9), 100)

      for of <- [2, 3, 7] do
        shares =
          for share <- 0..(of - 1) do
            times(Schedule.new(arrivals, rate, 9, share, of), div(100 - share + of - 1, of))
          end

        assert shares |> Enum.concat() |> Enum.sort() == whole
      end
    end
  end

  test "a replay ends" do
    assert times(Schedule.new({:replay, [0, 0.5, 2]}, nil, 1), 10) == [
             0,
             500_000_000,
             2_000_000_000
           ]

    # At 3 a second, three take one.
    assert times(Schedule.new({:replay, [0, 0.5, 2]}, 3, 1), 10) == [
             0,
             250_000_000,
             1_000_000_000
           ]
  end

  describe "a trace" do
    @describetag :tmp_dir

    defp read(dir, text, column \\ nil) do
      path = Path.join(dir, "trace.csv")
      File.write!(path, text)
      Trace.read!(path, column)
    end

    test "is read with or without names, in any order, in its unit", %{tmp_dir: dir} do
      assert read(dir, "3.5\n1\n2\n") == [0.0, 1.0, 2.5]
      assert read(dir, "model,arrival_s\na,10\nb,12\n") == [0.0, 2.0]
      assert read(dir, "arrival_us,model\n0,a\n2500000,b\n") == [0.0, 2.5]
      assert read(dir, "x,when_ms\n1,0\n2,1500\n", "when_ms") == [0.0, 1.5]
      assert read(dir, "\uFEFFtimestamp\r\n\"1\"\r\n\"2\"\r\n") == [0.0, 1.0]

      dates = "TIMESTAMP,n\n2023-11-16 18:17:03.9799600,1\n2023-11-16 18:17:04.5,2\n"
      [first, gap] = read(dir, dates)
      assert first == 0.0
      assert_in_delta gap, 0.52004, 1.0e-5
    end

    test "that is none is refused with the place", %{tmp_dir: dir} do
      assert_raise ArgumentError, ~r/line 3: a time.*got "soon"/, fn ->
        read(dir, "arrival\n1\nsoon\n")
      end

      assert_raise ArgumentError, ~r/no column "when"; there are a, b/, fn ->
        read(dir, "a,b\n1,2\n", "when")
      end

      assert_raise ArgumentError, ~r/has no times/, fn -> read(dir, "\n") end
    end
  end
end
