# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Stability do
  # Whether what was measured would have gone on like this, by the windows of a point.
  #
  # A target that is asked for more than it can do answers at an even pace, and each window is only a
  # little worse than the one before. So it is not enough that windows beside each other agree: the
  # first third is held against the last.
  @moduledoc false

  # Windows that have to agree, and that a trend needs.
  @least 3
  # Standard deviations that are taken for chance.
  @chance 3

  # The last windows agree on throughput and mean latency, and nothing got worse from the first third
  # to the last. Where there are too few windows nobody knows: nil.
  @spec stable?([map], number) :: boolean | nil
  def stable?(windows, _within) when length(windows) < @least, do: nil

  def stable?(windows, within) do
    last = Enum.take(windows, -@least)

    Enum.all?(windows, &(&1["sent"] == 0 or &1["answers"] > 0)) and
      agree?(last, "throughput", within) and agree?(last, "mean_ms", within) and
      not slower?(windows, within) and not growing?(windows, within)
  end

  # More was sent than came to an end, all the time: requests pile up. While the first are under way
  # there are more of them too, but each takes no longer than the one before.
  @spec growing?([map], number) :: boolean | nil
  def growing?(windows, _within) when length(windows) < @least, do: nil

  def growing?(windows, within) do
    {first, last} = thirds(windows)
    backlog = Enum.scan(Enum.map(windows, &(&1["sent"] - &1["ended"])), &+/2)
    {low, high} = thirds(backlog)
    sent = sum(windows, "sent") * 2 / 3

    mean(high) - mean(low) > @chance * :math.sqrt(sent) and
      (slower?(first, last, within) or sum(last, "ended") < sum(last, "sent") / 2)
  end

  defp slower?(windows, within) do
    {first, last} = thirds(windows)
    slower?(first, last, within)
  end

  defp slower?(first, last, within) do
    case {latency(first), latency(last)} do
      {nil, _now} -> false
      # Of the last, none was answered.
      {_before, nil} -> true
      {before, now} -> now > before * (1 + slack(min_of(first, last), within))
    end
  end

  defp min_of(first, last), do: min(sum(first, "answers"), sum(last, "answers"))

  defp latency(windows) do
    case sum(windows, "answers") do
      0 -> nil
      n -> sum_of(windows, &((&1["mean_ms"] || 0) * &1["answers"])) / n
    end
  end

  defp thirds(list) do
    n = max(div(length(list), 3), 1)
    {Enum.take(list, n), Enum.take(list, -n)}
  end

  defp agree?(windows, key, within) do
    values = Enum.map(windows, & &1[key])
    fewest = windows |> Enum.map(& &1["answers"]) |> Enum.min()

    if fewest == 0 or Enum.any?(values, &is_nil/1) do
      false
    else
      mean = mean(values)
      Enum.all?(values, &(abs(&1 - mean) <= mean * slack(fewest, within)))
    end
  end

  # So few requests differ by this by chance.
  defp slack(n, within), do: within + @chance / :math.sqrt(max(n, 1))

  defp mean(values), do: Enum.sum(values) / length(values)
  defp sum(windows, key), do: sum_of(windows, & &1[key])
  defp sum_of(windows, fun), do: windows |> Enum.map(fun) |> Enum.sum()
end
